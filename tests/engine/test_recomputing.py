"""Inner loops that forget their steps and compute them again: the same numbers, less memory."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import kshot
from kshot import engine, models, testing
from kshot.bench.workloads.episodes import random_episodes
from kshot.engine import peak_memory, recomputing, task_losses
from kshot.engine.recomputing import unroll_in_segments
from kshot.learners import all_learners
from kshot.learners.gradient import GradientLearner
from kshot.testing.toys import episodes_for, kinds_of, uneven

UNROLLED = [name for name, cls in all_learners().items() if issubclass(cls, GradientLearner)]


@pytest.mark.parametrize("name", UNROLLED)
def test_the_same_losses_and_meta_gradients(name):
    for kind in kinds_of(all_learners()[name]):
        torch.manual_seed(0)
        learner = all_learners()[name].tiny(kind).double()
        learner.inner_steps = 5
        episodes = uneven(episodes_for(learner, kind, 3, dtype=torch.float64))
        losses, gradient = engine.losses_and_gradient(learner, episodes, "loop")
        for mode in ("loop", "vmap"):
            with recomputing():
                found, found_gradient = engine.losses_and_gradient(learner, episodes, mode)
            torch.testing.assert_close(found, losses, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(found_gradient, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("order", [1, 2])
def test_segments_of_any_length(length, order):
    torch.manual_seed(0)
    learner = kshot.MAML(models.MLP(8, hidden=(4,)), way=5, inner_steps=7, order=order).double()
    task = testing.gaussian_episodes(1, dtype=torch.float64)[0]
    results = []
    for cut in (None, length):
        if cut is None:
            weights = learner.adapt(task.support)["parameters"]
        else:
            weights = unroll_in_segments(learner, learner.inner_loop, task.support, steps=7, order=order, length=cut)
        loss = learner.loss(learner.predict({"parameters": weights}, task.query.x), task.query)
        results.append([loss, *torch.autograd.grad(loss, list(learner.parameters()))])
    for plain, cut in zip(*results, strict=True):
        torch.testing.assert_close(cut, plain, rtol=1e-9, atol=1e-12)


def test_no_steps_leave_the_weights_as_they_are():
    learner = kshot.MAML(models.MLP(8, hidden=(4,)), way=5, inner_steps=0)
    task = testing.gaussian_episodes(1)[0]
    with recomputing():
        adapted = learner.adapt(task.support)["parameters"]
    assert all(adapted[name] is p for name, p in learner.network.named_parameters())


@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_a_gradient_in_the_inputs_is_not_lost(mode):
    learner, episodes = kshot.MAML.tiny().double(), testing.gaussian_episodes(3, dtype=torch.float64)
    found = []
    for wanted in (False, True):
        x = episodes.support.x.clone().requires_grad_()
        with recomputing(wanted):
            losses = task_losses(learner, replace(episodes, support=replace(episodes.support, x=x)), mode)
        found.append(torch.autograd.grad(losses.sum(), x)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)
    assert found[0].abs().max() > 1e-4


def test_dropout_drops_the_same_units_again():
    torch.manual_seed(0)
    learner = kshot.MAML(nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 5)), inner_steps=4)
    learner.outputs = "logits"
    episodes, results = testing.gaussian_episodes(2), []
    for wanted in (False, True):
        torch.manual_seed(1)
        with recomputing(wanted):
            losses = task_losses(learner, episodes, "loop")
        after = torch.rand(())
        results.append(
            (
                losses,
                torch.cat([g.flatten() for g in torch.autograd.grad(losses.sum(), list(learner.parameters()))]),
                after,
            )
        )
    for plain, again in zip(*results, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-7)


def test_memory_grows_with_the_square_root_of_the_steps():
    """A network whose activations weigh more than its weights: what is kept of a step would be most of the memory."""
    torch.manual_seed(0)
    episodes = random_episodes(1, 5, 20, 1, (8,))

    def peak(steps, wanted):
        learner = kshot.MAML(models.MLP(8, hidden=(64, 64)), way=5, inner_steps=steps)

        def work():
            with recomputing(wanted):
                losses = task_losses(learner, episodes, "loop")
            losses.sum().backward()

        return peak_memory(work)

    assert peak(36, False) > 3 * peak(9, False)
    assert peak(36, True) < 2.3 * peak(9, True)  # sqrt(36 / 9) = 2
    assert peak(36, True) < 0.4 * peak(36, False)


def test_a_trainer_that_recomputes():
    learners = []
    for wanted in (False, True):
        torch.manual_seed(0)
        learner = kshot.MAML(models.MLP(1, hidden=(8,), out_features=1), inner_steps=6)
        source = kshot.tasks.load("sinusoids")
        result = kshot.Trainer(
            learner, source, steps=4, meta_batch=3, recompute=wanted, mode="vmap", val_tasks=4, progress=False
        ).fit()
        assert math.isfinite(result.val.mean)
        learners.append(learner)
    for plain, again in zip(*(learner.parameters() for learner in learners), strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-7)


def test_what_makes_no_sense():
    learner, source = kshot.MAML.tiny("regression"), kshot.tasks.load("sinusoids")
    with pytest.raises(
        kshot.errors.ConfigError, match="recompute=True forgets inner steps, .*: use mode='loop', 'vmap'"
    ):
        kshot.Trainer(learner, source, steps=1, recompute=True, mode="compile")
    with pytest.raises(kshot.errors.ConfigError, match="expected recompute to be true or false, got 3"):
        kshot.Trainer(learner, source, steps=1, recompute=3)
    backbone = models.MLP(1, hidden=(8,), out_features=1)
    for other in (
        kshot.ANIL.tiny("regression"),
        kshot.MAML(backbone, order=1),
        kshot.MAML(backbone, multi_step=10),
        kshot.Reptile(backbone),
    ):
        message = f"^recompute=True forgets .* of which {type(other).__name__} keeps none that can be .*: leave it out$"
        with pytest.raises(kshot.errors.ConfigError, match=message):
            kshot.Trainer(other, source, steps=1, recompute=True)


def test_a_run_that_needs_less_memory_goes_on(tmp_path):
    """One that ran out of it is the same run with fewer things kept."""
    source = kshot.tasks.load("sinusoids")

    def trainer(**how):
        torch.manual_seed(0)
        learner = kshot.MAML(models.MLP(1, hidden=(8,), out_features=1), inner_steps=6)
        more = {"steps": 4, "meta_batch": 3, "val_tasks": 4, "progress": False, "schedule": "constant", "lr": 0.01}
        return kshot.Trainer(learner, source, **{**more, "mode": "vmap", **how})

    whole = trainer().fit().learner
    trainer(steps=2, out=tmp_path / "run").fit()
    again = trainer(out=tmp_path / "run", resume=True, recompute=True).fit().learner
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    with engine.compile_backend("eager"):
        trainer(steps=2, out=tmp_path / "compiled", mode="compile").fit()
        with pytest.raises(kshot.errors.ConfigError, match="computes in mode compile, which recompute=True is not for"):
            trainer(out=tmp_path / "compiled", resume=True, recompute=True, mode="auto").fit()
