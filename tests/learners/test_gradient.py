"""Gradient-based learners against what their papers say of them in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from test_maml import Linear, regression_task
from torch.nn import functional as F

import kshot
from kshot import engine, models, testing
from kshot.errors import UnsupportedError
from kshot.learners.imaml import conjugate_gradients
from kshot.learners.maml import importance
from kshot.learners.metalstm import preprocess
from kshot.learners.reptile import minibatch


def test_metasgd_begins_as_maml_and_learns_its_step_sizes():
    episodes = testing.gaussian_episodes(3)
    torch.manual_seed(0)
    maml = kshot.MAML(models.MLP(8, hidden=(16,)), way=5, inner_lr=0.2, inner_steps=2)
    torch.manual_seed(0)
    metasgd = kshot.MetaSGD(models.MLP(8, hidden=(16,)), way=5, inner_lr=0.2, inner_steps=2)
    losses = metasgd(episodes, mode="loop")
    torch.testing.assert_close(losses, maml(episodes, mode="loop"))
    losses.mean().backward()
    assert all(bool(rate.grad.any()) for rate in metasgd.rates)


def test_metacurvature_begins_as_maml_and_turns_filters():
    torch.manual_seed(0)
    maml = kshot.MAML(models.Conv4(1, channels=4, image_size=16), way=3, inner_lr=0.2)
    torch.manual_seed(0)
    curved = kshot.MetaCurvature(models.Conv4(1, channels=4, image_size=16), way=3, inner_lr=0.2)
    x, y = torch.rand(6, 1, 16, 16), torch.tensor([0, 1, 2] * 2)
    support = kshot.Examples(x, y, torch.ones(6, dtype=torch.bool), torch.ones(3, dtype=torch.bool))
    expected, found = maml.adapt(support)["parameters"], curved.adapt(support)["parameters"]
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])
    turn = next(c for c in curved.curvatures if len(c.factors) == 3)
    with torch.no_grad():
        for factor in turn.factors:
            factor.add_(torch.randn_like(factor))
    g = torch.randn(4, turn.factors[1].shape[0], 3, 3)
    out, into, places = turn.factors
    by_hand = torch.einsum("oa,ib,pc,abc->oip", out, into, places, g.flatten(2)).view(g.shape)
    torch.testing.assert_close(turn(g), by_hand)


def test_reptile_with_one_step_of_sgd_is_gradient_descent_on_the_support():
    """theta - theta' = alpha grad L(theta; support) (sec. 5.1: with one step it is joint training)."""
    learner = kshot.Reptile(Linear(), inner_lr=0.05, inner_steps=1, batch=None, beta2=None)
    episodes, (a, y, _, _) = regression_task(0)
    w = learner.network.backbone.w.detach()
    learner(episodes, mode="loop").mean().backward()
    torch.testing.assert_close(learner.network.backbone.w.grad, 0.05 * 2 / len(y) * a.T @ (a @ w - y))


def test_reptiles_inner_loop_is_adam_without_momentum():
    """Against torch's own."""
    learner = kshot.Reptile(Linear(), inner_lr=0.01, inner_steps=4, test_steps=None, batch=None)
    episodes, (a, y, _, _) = regression_task(1)
    w = torch.nn.Parameter(learner.network.backbone.w.detach().clone())
    adam = torch.optim.Adam([w], lr=0.01, betas=(0.0, 0.999))
    for _ in range(4):
        adam.zero_grad()
        (a @ w - y).square().mean().backward()
        adam.step()
    adapted = learner.adapt(episodes[0].support)["parameters"]["backbone.w"]
    torch.testing.assert_close(adapted, w.detach(), rtol=1e-6, atol=1e-9)


def test_reptile_may_see_other_minibatches_when_tested():
    """One step of SGD on the first examples of the support: all of them in training, two when tested."""
    learner = kshot.Reptile(Linear(), inner_lr=0.05, inner_steps=1, test_steps=1, batch=None, test_batch=2, beta2=None)
    episodes, (a, y, _, _) = regression_task(0)
    w = learner.network.backbone.w.detach()
    for training, seen in ((True, len(y)), (False, 2)):
        adapted = learner.train(training).adapt(episodes[0].support)["parameters"]["backbone.w"]
        by_hand = w - 0.05 * 2 / seen * a[:seen].T @ (a[:seen] @ w - y[:seen])
        torch.testing.assert_close(adapted, by_hand)


def test_minibatches_go_round_the_real_examples():
    mask = torch.tensor([True, False, True, True, False])
    examples = kshot.Examples(torch.arange(5.0)[:, None], torch.zeros(5, dtype=torch.int64), mask, torch.ones(2).bool())
    seen = [minibatch(examples, step, 2).x.flatten().tolist() for step in range(3)]
    assert seen == [[0, 2], [3, 0], [2, 3]]


@pytest.mark.parametrize("damping", [0.0, 5.0])
def test_imaml_on_linear_regression_is_the_closed_form(damping):
    """phi solves (2 A'A / n + lambda) phi = 2 A'y / n + lambda theta, so d phi / d theta = (I + H / lambda)^-1."""
    learner = kshot.IMAML(Linear(), strength=2.0, inner_lr=0.1, inner_steps=2000, cg_steps=3, damping=damping)
    episodes, (a, y, b, z) = regression_task(2)
    n, eye = len(y), torch.eye(3, dtype=torch.float64)
    w = learner.network.backbone.w.detach()
    h = 2 / n * a.T @ a
    phi = torch.linalg.solve(h + 2 * eye, 2 / n * a.T @ y + 2 * w)
    torch.testing.assert_close(learner.adapt(episodes[0].support)["parameters"]["backbone.w"], phi)
    learner(episodes, mode="loop").mean().backward()
    expected = torch.linalg.solve(eye + h / (2 + damping), 2 / n * b.T @ (b @ phi - z))
    torch.testing.assert_close(learner.network.backbone.w.grad, expected)


def test_conjugate_gradients_solve_and_stop_at_negative_curvature():
    matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    b = {"x": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    found = conjugate_gradients(lambda v: {"x": matrix @ v["x"]}, b, 5)
    torch.testing.assert_close(found["x"], torch.linalg.solve(matrix, b["x"]))
    found = conjugate_gradients(lambda v: {"x": -matrix @ v["x"]}, b, 5)
    torch.testing.assert_close(found["x"], b["x"])  # the gradient itself, where there is nothing better
    turned = torch.diag(torch.tensor([3.0, -1.0], dtype=torch.float64))
    found = conjugate_gradients(lambda v: {"x": turned @ v["x"]}, {"x": torch.tensor([1.0, 0.1]).double()}, 5)
    assert torch.isfinite(found["x"]).all()
    assert float(found["x"] @ torch.tensor([1.0, 0.1]).double()) > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: kshot.Reptile(models.MLP(8), way=5, batch=0),
            "mini-batch of at least 1 example, or None for all, got 0",
        ),
        (lambda: kshot.Reptile(models.MLP(8), way=5, beta2=1.0), r"beta2 in \[0, 1\), or None for SGD, got 1.0"),
        (lambda: kshot.IMAML(models.MLP(8), way=5, strength=0.0), "positive strength of the regularisation, got 0.0"),
        (lambda: kshot.IMAML(models.MLP(8), way=5, damping=-1.0), "a damping of at least 0, got -1.0"),
        (lambda: kshot.RidgeNet(models.MLP(8), strength=-1.0), "positive strength and scale, got -1.0"),
        (lambda: kshot.MatchingNet(models.MLP(8), scale=0.0), "positive scale and at least 0 context steps, got 0.0"),
        (lambda: kshot.RelationNet(models.MLP(8), loss="hinge"), "loss 'mse' or 'cross_entropy', got 'hinge'"),
        (lambda: models.Conv4(1, pools=5), "expected 0 to 4 pools, got 5"),
    ],
)
def test_what_cannot_be_built(make, message):
    with pytest.raises(UnsupportedError, match=message):
        make()


# ---------------------------------------------------------------- MAML++


def test_learned_rates_begin_as_maml_and_the_last_row_serves_further_steps():
    episodes = testing.gaussian_episodes(3)
    torch.manual_seed(0)
    maml = kshot.MAML(models.MLP(8, hidden=(16,)), way=5, inner_lr=0.2, inner_steps=2)
    torch.manual_seed(0)
    plus = kshot.MAML(models.MLP(8, hidden=(16,)), way=5, inner_lr=0.2, inner_steps=2, learned_rates=True)
    losses = plus(episodes, mode="loop")
    torch.testing.assert_close(losses, maml(episodes, mode="loop"))
    losses.mean().backward()
    assert plus.rates.shape == (2, 4)  # a rate for each step and layer
    assert bool((plus.rates.grad != 0).all())
    with torch.no_grad():
        plus.rates[1].zero_()
    support = episodes[0].support
    for name, value in plus.adapt(support, steps=4)["parameters"].items():
        torch.testing.assert_close(value, plus.adapt(support, steps=1)["parameters"][name])


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_losses_of_all_steps_count_alike_at_first_and_the_last_alone_at_last(steps):
    for progress in (0.0, 0.3, 0.9, 1.0):
        weights = importance(steps, progress)
        assert float(weights.sum()) == pytest.approx(1)
        assert bool((weights >= 0.03 / steps - 1e-7).all())
    torch.testing.assert_close(importance(steps, 0.0), torch.full((steps,), 1 / steps))
    torch.testing.assert_close(importance(steps, 1.0)[:-1], torch.full((steps - 1,), 0.03 / steps))


def test_multi_step_loss_is_the_weighted_sum_of_the_losses_after_each_step():
    episodes = testing.gaussian_episodes(2)
    torch.manual_seed(0)
    learner = kshot.MAML(models.MLP(8, hidden=(16,)), way=5, inner_lr=0.2, inner_steps=3, multi_step=10)
    last = learner(episodes, mode="loop")  # before it is told of a step, only the last loss counts
    learner.begin_step(5)
    found = learner(episodes, mode="loop")
    expected = []
    for task in episodes:
        each = [
            learner.loss(learner.predict(learner.adapt(task.support, steps=k), task.query.x), task.query)
            for k in (1, 2, 3)
        ]
        expected.append((torch.stack(each) * importance(3, 0.5)).sum())
    torch.testing.assert_close(found, torch.stack(expected))
    torch.testing.assert_close(learner(episodes, mode="vmap"), found)
    with engine.compile_backend("eager"):
        torch.testing.assert_close(learner(episodes, mode="compile"), found)
    learner.begin_step(10)
    torch.testing.assert_close(learner(episodes, mode="loop"), last)


def test_the_first_outer_steps_are_of_first_order():
    learner = kshot.MAML(models.MLP(8, hidden=(16,)), way=5, first_order_until=3)
    orders = []
    for step in range(5):
        learner.begin_step(step)
        orders.append((learner.order, learner.meta_gradient))
    assert orders == [(1, "first_order")] * 3 + [(2, "exact")] * 2
    learner.begin_step(0)
    learner.begin_step(None)  # the training is over, however short it was
    assert (learner.order, learner.meta_gradient) == (2, "exact")


def test_norm_layers_have_a_scale_for_each_step_that_the_inner_loop_leaves_alone():
    torch.manual_seed(0)
    backbone = models.Conv4(1, channels=8, image_size=16)
    learner = kshot.MAML(backbone, way=3, inner_lr=0.1, inner_steps=2, step_norms=True)
    assert all(v.shape == (3, 8) for v in learner.step_norms.values)  # at the start and after each step
    support = kshot.Examples.of(torch.rand(6, 1, 16, 16), torch.tensor([0, 1, 2] * 2))
    adapted = learner.adapt(support)["parameters"]
    for name, rows in zip(learner.step_norms.names, learner.step_norms.values, strict=True):
        torch.testing.assert_close(adapted[name], rows[-1])
    loss = learner.loss(learner.predict(learner.adapt(support), support.x), support)
    loss.backward()
    assert all(v.grad is not None and bool((v.grad != 0).any(-1).all()) for v in learner.step_norms.values)
    assert not any(dict(learner.network.named_parameters())[name].requires_grad for name in learner.step_norms.names)


def test_the_trainer_says_how_far_it_is_also_after_a_resume(tmp_path):
    class Told(kshot.ProtoNet):
        told: list[int]

        def begin_step(self, step):
            self.told.append(step)

    source = kshot.tasks.load("glyphs", way=3, shot=1, query=1)
    learner = Told(models.Conv4(1, channels=4))
    learner.told = []
    kshot.Trainer(learner, source, steps=3, meta_batch=1, val_tasks=2, progress=False).fit()
    assert learner.told == [0, 1, 2, None]
    learner.told.clear()
    run = {"steps": 4, "meta_batch": 1, "val_tasks": 2, "progress": False, "save_every": 2, "out": tmp_path / "run"}

    class Stops(kshot.training.Callback):
        def on_step(self, trainer, step, metrics):
            if step == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kshot.Trainer(learner, source, callbacks=[Stops()], **run).fit()
    learner.told.clear()
    kshot.Trainer(learner, source, resume=True, **run).fit()
    assert learner.told[-1] is None
    assert learner.told[:-1] == list(range(learner.told[0], 4))


def test_maml_plus_plus_resumes_bit_for_bit(tmp_path):
    """What changes in the course of a training goes on where it stood."""

    class Stops(kshot.training.Callback):
        def on_step(self, trainer, step, metrics):
            if step == 4:
                raise KeyboardInterrupt

    def fit(out, callbacks=(), resume=False):
        torch.manual_seed(0)
        learner = kshot.MAML.plus_plus(models.Conv4(1, channels=4), 3, multi_step=5, first_order_until=3)
        source = kshot.tasks.load("glyphs", way=3, shot=1, query=1)
        kshot.Trainer(
            learner, source, steps=7, meta_batch=2, val_tasks=2, progress=False, mode="loop", save_every=3,
            out=tmp_path / out, callbacks=list(callbacks), resume=resume,
        ).fit()  # fmt: skip
        return learner.state_dict()

    straight = fit("straight")
    with pytest.raises(KeyboardInterrupt):
        fit("broken", [Stops()])
    resumed = fit("broken", resume=True)
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())
    assert "rates" in straight


# ---------------------------------------------------------------- Meta-LSTM, ALFA, CNAPs


def test_metalstm_with_idle_gates_is_gradient_descent_with_a_decay():
    learner = kshot.MetaLSTM(Linear(), inner_lr=0.05, inner_steps=1)
    with torch.no_grad():
        learner.gates.weight.zero_()
    episodes, (a, y, _, _) = regression_task(0)
    learner = learner.double()
    w = learner.network.backbone.w.detach()
    gradient = 2 / len(y) * a.T @ (a @ w - y)
    keep = torch.sigmoid(torch.tensor(5.0, dtype=torch.float64))
    step = torch.sigmoid(learner.gates.bias[0].detach())
    assert float(step) == pytest.approx(0.05)
    adapted = learner.adapt(episodes[0].support)["parameters"]["backbone.w"]
    torch.testing.assert_close(adapted, keep * w - step * gradient)


def test_metalstm_is_equation_2_with_gates_that_see_their_past():
    """Three steps, number by number: every weight has an LSTM of its own, and all of them share its parameters."""
    torch.manual_seed(0)
    learner = kshot.MetaLSTM(Linear(), inner_lr=0.05, inner_steps=3, hidden=4)
    with torch.no_grad():
        learner.gates.weight.normal_()
        learner.seen.normal_()
    learner = learner.double()
    episodes, (a, y, _, _) = regression_task(0)
    w = learner.network.backbone.w.detach()
    hidden, cell = (torch.zeros(3, 4, dtype=torch.float64) for _ in range(2))
    i, f = (torch.zeros(3, dtype=torch.float64) for _ in range(2))
    (w_i, w_f), (b_i, b_f), seen = learner.gates.weight, learner.gates.bias, learner.seen
    for _ in range(3):
        error = a @ w - y
        gradient, loss = 2 / len(y) * a.T @ error, error.square().mean()
        for k in range(3):
            reads = torch.cat([preprocess(gradient[k]), preprocess(loss)])
            hidden[k], cell[k] = (s.detach() for s in learner.reading(reads, (hidden[k], cell[k])))
        i = torch.sigmoid(hidden @ w_i + w * seen[0, 0] + i * seen[1, 0] + b_i).detach()
        f = torch.sigmoid(hidden @ w_f + w * seen[0, 1] + f * seen[1, 1] + b_f).detach()
        w = f * w - i * gradient
    torch.testing.assert_close(learner.adapt(episodes[0].support)["parameters"]["backbone.w"], w)


def test_preprocessed_gradients():
    """Ravi and Larochelle 2017, appendix A, with p = 10."""
    x = torch.tensor([math.e, -math.exp(-5), 0.0, math.exp(-11)], dtype=torch.float64)
    expected = torch.tensor([[0.1, 1], [-0.5, -1], [-1, 0], [-1, math.exp(-1)]], dtype=torch.float64)
    torch.testing.assert_close(preprocess(x), expected)


def test_alfa_begins_as_gradient_descent_with_weight_decay():
    learner = kshot.ALFA(Linear(), inner_lr=0.05, inner_steps=1, decay=0.1).double()
    episodes, (a, y, _, _) = regression_task(1)
    w = learner.network.backbone.w.detach()
    gradient = 2 / len(y) * a.T @ (a @ w - y)
    adapted = learner.adapt(episodes[0].support)["parameters"]["backbone.w"]
    torch.testing.assert_close(adapted, (1 - 0.05 * 0.1) * w - 0.05 * gradient, rtol=1e-6, atol=1e-8)


def test_alfa_makes_its_rates_of_the_means_of_weights_and_gradients():
    torch.manual_seed(0)
    learner = kshot.ALFA(Linear(), inner_lr=0.05, inner_steps=2, decay=0.1)
    with torch.no_grad():
        learner.generator[-1].weight.normal_()
        learner.generator[-1].bias.normal_()
        learner.rates.copy_(torch.tensor([[0.05], [0.02]]))
        learner.decays.copy_(torch.tensor([[0.1], [0.3]]))
    learner = learner.double()
    episodes, (a, y, _, _) = regression_task(1)
    w = learner.network.backbone.w.detach()
    for step in (0, 1, 1):  # a third step takes the last one's rates
        gradient = 2 / len(y) * a.T @ (a @ w - y)
        alpha, beta = 1 + learner.generator(torch.stack([gradient.mean(), w.mean()])).detach()
        w = (1 - beta * learner.decays[step]) * w - alpha * learner.rates[step] * gradient
    adapted = learner.adapt(episodes[0].support, steps=3)["parameters"]["backbone.w"]
    torch.testing.assert_close(adapted, w.detach())


def test_cnaps_is_equations_2_and_3():
    torch.manual_seed(0)
    learner = kshot.CNAPs(models.MLP(8, hidden=(16,), out_features=6), hidden=12).eval()
    with torch.no_grad():
        learner.modulation[-1].weight.mul_(100)
    task = testing.gaussian_episodes(1)[0]
    first, last = (m for m in learner.network.backbone.modules() if isinstance(m, torch.nn.Linear))
    turns = learner.modulation(learner.network.backbone(task.support.x).mean(0)).split([16, 6])

    def modulated(x):
        return F.linear((first(x) + turns[0]).relu(), last.weight, last.bias + turns[1])

    z = modulated(task.support.x)
    means = torch.stack([z[task.support.y == k].mean(0) for k in range(5)])
    head = learner.head(means)
    expected = modulated(task.query.x) @ head[:, :-1].T / 6**0.5 + head[:, -1]
    torch.testing.assert_close(learner.predict(learner.adapt(task.support), task.query.x), expected)


@pytest.mark.parametrize("norm", ["support", "batch"])
def test_cnaps_takes_a_norms_statistics_from_the_support_or_from_the_queries(norm):
    torch.manual_seed(0)
    learner = kshot.CNAPs(models.Conv4(1, channels=4, image_size=16), norm=norm).eval()
    support = kshot.Examples.of(torch.rand(6, 1, 16, 16), torch.arange(3).repeat(2))
    x = torch.rand(5, 1, 16, 16)
    adapted = learner.adapt(support)
    alone = learner.predict(adapted, x[:2])
    assert torch.allclose(learner.predict(adapted, x)[:2], alone, atol=1e-5) is (norm == "support")
    assert learner.transductive is (norm == "batch")


def test_cnaps_makes_a_network_for_the_task_and_a_head_for_any_number_of_classes():
    torch.manual_seed(0)
    learner = kshot.CNAPs(models.Conv4(1, channels=4, image_size=16)).eval()
    with torch.no_grad():
        learner.modulation[-1].weight.mul_(100)
    first, second = (kshot.Examples.of(torch.rand(2 * way, 1, 16, 16), torch.arange(way).repeat(2)) for way in (3, 7))
    a, b = learner.adapt(first), learner.adapt(second)
    assert a["head"].shape == (3, 4)
    assert b["head"].shape == (7, 4)
    name = next(iter(learner.sizes))
    assert not torch.allclose(a["parameters"][name], b["parameters"][name])
    assert learner.predict(b, second.x).shape == (14, 7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: kshot.MAML(models.MLP(8), way=5, step_norms=True),
            "no norm layers: build the backbone with norm='batch'",
        ),
        (lambda: kshot.MAML(models.MLP(8), way=5, multi_step=-1), "outer steps of at least 0, got -1 and 0"),
        (lambda: kshot.MetaLSTM(models.MLP(8), way=5, inner_lr=1.0), "an input gate, between 0 and 1, got 1.0"),
        (lambda: kshot.CNAPs(models.MLP(8), norm="layer"), "expected norm 'support' or 'batch', got 'layer'"),
        (lambda: kshot.CNAPs(models.MLP(8, hidden=())), "neither norm layers nor biases"),
    ],
)
def test_what_cannot_be_adapted_so(make, message):
    with pytest.raises(UnsupportedError, match=message):
        make()
