"""Modes, chunks, features, `auto`."""

from __future__ import annotations

import copy

import pytest
import torch

import kshot
from kshot import engine, models, testing
from kshot.engine.features import in_single_precision
from kshot.episodes import Episodes, Examples
from kshot.errors import UnsupportedError
from kshot.models import norms
from kshot.testing.toys import uneven


def images(tasks=3, way=3, shot=2, query=2, size=16, padded=True):
    def part(k):
        y = torch.arange(way).repeat(k).expand(tasks, -1).contiguous()
        ones = torch.ones(y.shape, dtype=torch.bool)
        return Examples(torch.randn(*y.shape, 1, size, size), y, ones, torch.ones(tasks, way, dtype=torch.bool), padded)

    return Episodes(part(shot), part(query), torch.zeros(tasks, way, dtype=torch.int64))


def test_inductor_equals_the_loop():
    learner = kshot.MAML.tiny("regression")
    episodes = testing.sinusoid_episodes(4)
    losses = learner(episodes, mode="loop")
    gradient = torch.autograd.grad(losses.mean(), list(learner.parameters()))
    compiled = learner(episodes, mode="compile")
    torch.testing.assert_close(compiled, losses)
    for a, b in zip(torch.autograd.grad(compiled.mean(), list(learner.parameters())), gradient, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_learners_do_not_use_up_each_others_recompilations():
    """Ten, where torch compiles one function eight times: one too many is an error of `fullgraph`."""
    assert torch._dynamo.config.recompile_limit == 8
    with engine.compile_backend("eager"):
        for width in range(4, 14):
            learner, episodes = kshot.ProtoNet(models.MLP(8, hidden=(width,))), testing.gaussian_episodes(2)
            losses = learner(episodes, mode="compile")
            torch.testing.assert_close(losses, learner(episodes, mode="vmap"))


def test_a_compiled_learner_can_be_copied():
    learner = kshot.ProtoNet.tiny()
    episodes = testing.gaussian_episodes(2)
    with engine.compile_backend("eager"):
        losses = learner(episodes, mode="compile")
        other = copy.deepcopy(learner)
        torch.testing.assert_close(other(episodes, mode="compile"), losses)


@pytest.mark.parametrize("norm", ["support", "batch"])
def test_batch_norm_gives_the_same_in_every_mode(norm):
    """In float64, where the fused kernel's second derivative under vmap would be off by 2e-3."""
    torch.manual_seed(0)
    learner = kshot.MAML(
        models.Conv4(channels=8, image_size=16), way=3, inner_lr=0.1, inner_steps=2, norm=norm
    ).double()
    episodes = images().map(lambda t: t.double() if t.is_floating_point() else t)
    gradients = []
    for mode in ("loop", "vmap"):
        learner.zero_grad()
        learner(episodes, mode=mode).mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in learner.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-12)


def test_training_statistics_are_one_tasks_own():
    """A task's loss in train mode is the same alone, in a meta-batch, and beside padding."""
    torch.manual_seed(0)
    learner = kshot.ProtoNet(models.Conv4(channels=8, image_size=16))
    episodes = images(tasks=3)
    together = learner(episodes, mode="loop")
    for t in range(3):
        torch.testing.assert_close(learner(episodes[t : t + 1], mode="loop")[0], together[t])


def test_running_statistics_move_once_by_the_mean_over_the_meta_batch():
    learner = kshot.ProtoNet(models.Conv4(channels=4, image_size=16))
    (_, layer), *_ = norms.batch_norms(learner)
    episodes = images(tasks=2)
    means = []
    for t in range(2):
        x = torch.cat([episodes.support.x[t], episodes.query.x[t]])
        means.append(learner.backbone.blocks[0][0](x).mean((0, 2, 3)))
    learner(episodes)
    torch.testing.assert_close(layer.running_mean, 0.1 * torch.stack(means).mean(0))
    before = layer.running_mean.clone()
    norms.commit(learner)
    assert torch.equal(layer.running_mean, before), "a commit without tasks moves nothing"


def test_auto_touches_neither_random_state_nor_buffers():
    learner = kshot.ProtoNet(models.Conv4(channels=4, image_size=16))
    before = {name: value.clone() for name, value in learner.named_buffers()}
    episodes = images()
    state = torch.get_rng_state()
    mode = engine.choose(learner, episodes)
    assert mode in engine.MODES
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in learner.named_buffers():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in learner.parameters())


def test_auto_leaves_compile_out_without_a_compiler(monkeypatch):
    monkeypatch.setattr("kshot.engine.auto.has_compiler", lambda: False)
    learner = kshot.MAML.tiny("regression")
    assert engine.choose(learner, testing.sinusoid_episodes(2), steps=10**9) in ("loop", "vmap")


def test_auto_is_remembered_for_a_shape(monkeypatch):
    learner = kshot.ProtoNet.tiny()
    calls = []
    monkeypatch.setattr(engine, "choose", lambda *a, **k: calls.append(1) or "loop")
    learner(testing.gaussian_episodes(2))
    learner(testing.gaussian_episodes(2))
    assert len(calls) == 1
    learner(testing.gaussian_episodes(3))
    assert len(calls) == 2


def test_flat_chunks_give_the_same_features():
    learner = kshot.ProtoNet(models.Conv4(channels=4, image_size=16)).eval()
    x = torch.randn(20, 1, 16, 16)
    torch.testing.assert_close(engine.compute_features(learner, x, chunk=7), engine.compute_features(learner, x))


def test_features_take_dicts():
    class Tokens(kshot.ProtoNet):
        def features(self, x):
            return self.backbone(x["values"] * x["weights"])

    learner = Tokens(models.MLP(8, hidden=(16,)))
    plain = kshot.ProtoNet(learner.backbone)
    episodes = uneven(testing.gaussian_episodes(3))

    def as_dict(e):
        return e.replace_x({"values": e.x, "weights": torch.ones_like(e.x)})

    both = Episodes(as_dict(episodes.support), as_dict(episodes.query), episodes.class_ids)
    torch.testing.assert_close(learner(both, mode="loop"), plain(episodes, mode="loop"))
    torch.testing.assert_close(learner(both, mode="vmap"), plain(episodes, mode="vmap"))


def test_feature_cache_computes_an_example_once():
    seen = []

    class Counting(kshot.ProtoNet):
        def features(self, x):
            seen.append(len(x))
            return super().features(x)

    learner = Counting(models.MLP(8, hidden=(16,))).eval()
    pool = torch.randn(30, 8)
    g = torch.Generator().manual_seed(0)
    cache = engine.FeatureCache(learner)
    ones, y = torch.ones(4, 5, dtype=torch.bool), torch.arange(5).expand(4, 5).contiguous()
    for _ in range(5):
        s, q = torch.stack([torch.randperm(30, generator=g)[:10] for _ in range(4)]).split(5, dim=1)
        support, query = Examples(pool[s], y, ones, ones), Examples(pool[q], y, ones, ones)
        plain = engine.predict_queries(kshot.ProtoNet(learner.backbone), Episodes(support, query, y), "loop")
        cached = engine.predict_queries(learner, Episodes(support, query, y, s, q), "loop", cache=cache)
        torch.testing.assert_close(cached, plain)
    assert sum(seen) <= 30


def test_a_mode_that_is_not_there():
    learner = kshot.MAML.tiny()
    with pytest.raises(UnsupportedError, match="got 'vmpa'. Did you mean 'vmap'"):
        learner(testing.gaussian_episodes(2), mode="vmpa")
    with pytest.raises(UnsupportedError, match="MAML takes one task at a time: use loop, vmap or compile, not native"):
        learner(testing.gaussian_episodes(2), mode="native")

    class LoopOnly(kshot.ProtoNet):
        modes = ("loop",)

    with pytest.raises(UnsupportedError, match="LoopOnly declares the engine modes loop, not vmap"):
        LoopOnly(models.MLP(8))(testing.gaussian_episodes(2), mode="vmap")


@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_a_head_of_more_classes_takes_smaller_tasks(mode):
    torch.manual_seed(0)
    learner = kshot.MAML(models.MLP(8), way=7, inner_lr=0.1)
    episodes = testing.gaussian_episodes(3)
    wide = episodes.widen(7)
    assert wide.way == 7
    assert wide.class_ids[:, 5:].eq(-1).all()
    torch.testing.assert_close(learner(episodes, mode=mode), learner(wide, mode=mode))
    assert engine.predict_queries(learner, episodes, mode).shape == (3, 25, 5)


@pytest.mark.parametrize("mode", ["loop", "vmap", "native"])
def test_mixed_precision_ends_with_the_features(mode):
    """A ridge head of 32 classes in bfloat16 is no solution of anything: its loss was in the hundreds."""
    torch.manual_seed(0)
    learner, episodes = kshot.RidgeNet(models.Conv4(1, channels=8, image_size=16), scale=5.0), images()
    with torch.autocast("cpu", torch.bfloat16):
        losses = learner(episodes, mode=mode)
        features = engine.with_features(learner, episodes)
    assert features.support.x.dtype == torch.bfloat16
    assert losses.dtype == torch.float32
    single = in_single_precision(features)
    for t, loss in enumerate(losses):
        torch.testing.assert_close(loss, learner.objective(single[t].support, single[t].query))
    losses.mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in learner.parameters())


def test_mixed_precision_covers_an_inner_loop():
    learner = kshot.MAML(models.Conv4(1, channels=4, image_size=16), way=3, inner_lr=0.1, norm="support")
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        losses = learner(images(), mode="loop")
    assert torch.isfinite(losses).all()
    assert not torch.equal(losses, learner(images(), mode="loop"))
