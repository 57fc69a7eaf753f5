"""What is compiled computes the same, and is left alone where it does not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import kshot
from kshot import engine, models, testing
from kshot.engine import auto
from kshot.episodes import Episodes, Examples
from kshot.errors import UnsupportedError


class Blocks(models.Backbone):
    """Two blocks of Conv-4, on 8x8 pictures: as little as shows what inductor did to the gradient of a maximum."""

    def __init__(self):
        super().__init__()
        layers = []
        for channels in (1, 4):
            convolution = nn.Conv2d(channels, 4, 3, padding=1, bias=False)
            layers += [convolution, models.TaskBatchNorm(4), nn.ReLU(), models.MaxPool2d(2)]
        self.layers = models.Sequential(*layers)
        self.out_features = 16

    def forward(self, x, statistics=None):
        return self.layers(x, statistics).flatten(1)


def pictures():
    """Two tasks of 3 classes, in double precision."""

    def part(k):
        y = torch.arange(3).repeat(k).expand(2, -1).contiguous()
        x = torch.randn(2, 3 * k, 1, 8, 8, dtype=torch.float64)
        return Examples(x, y, torch.ones_like(y, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool), padded=False)

    return Episodes(part(2), part(3), torch.zeros(2, 3, dtype=torch.int64))


def test_convolutions_compiled_by_inductor_equal_the_loop():
    torch.manual_seed(0)
    learner, episodes = kshot.MAML(Blocks(), way=3, inner_lr=0.4, inner_steps=1).double(), pictures()
    losses, gradient = engine.losses_and_gradient(learner, episodes, "loop")
    for mode in ("vmap", "compile"):
        other, other_gradient = engine.losses_and_gradient(learner, episodes, mode)
        torch.testing.assert_close(other, losses, msg=lambda text, mode=mode: f"losses of {mode}: {text}")
        torch.testing.assert_close(other_gradient, gradient, msg=lambda text, mode=mode: f"gradient of {mode}: {text}")


@pytest.mark.parametrize(("size", "shape"), [(2, (2, 3, 8, 8)), (2, (3, 7, 5)), (3, (1, 1, 10, 9))])
def test_max_pooling_is_the_same_traced(size, shape):
    pool, x = models.MaxPool2d(size), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    traced = torch.compile(pool, backend="aot_eager", fullgraph=True)(x)
    expected = nn.functional.max_pool2d(x, size)
    torch.testing.assert_close(traced, expected)
    weights = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad((traced * weights).sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad((expected * weights).sum(), x)[0])


class Miscompiled(kshot.ProtoNet):
    """Stands for what a compiler gets wrong in silence."""

    def predict(self, adapted, z):
        logits = super().predict(adapted, z)
        return logits * 3 if torch.compiler.is_compiling() else logits


class Uncompilable(kshot.ProtoNet):
    def predict(self, adapted, z):
        if torch.compiler.is_compiling():
            raise RuntimeError("no such kernel\nand a long trace")
        return super().predict(adapted, z)


class Random(kshot.ProtoNet):
    def predict(self, adapted, z):
        return super().predict(adapted, z) * torch.rand(())


def make(cls):
    torch.manual_seed(0)
    return cls(models.MLP(8, hidden=(16,)))


def test_check_compiled():
    episodes = testing.gaussian_episodes(3)
    with engine.compile_backend("eager"):
        engine.check_compiled(make(kshot.ProtoNet), episodes)
        engine.check_compiled(make(Random), episodes)  # nothing to compare, since no two calls agree
        with pytest.raises(
            UnsupportedError,
            match=r"gets another loss or meta-gradient for Miscompiled than vmap does \([\d.]+ and [\d.]+; relative "
            r"difference .*\): use mode='vmap', or 'auto', which compares",
        ):
            engine.check_compiled(make(Miscompiled), episodes)


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (Miscompiled, "gets another loss or meta-gradient"),
        (Uncompilable, "RuntimeError: no such kernel"),
    ],
)
def test_auto_says_why_it_does_not_compile(cls, reason, monkeypatch):
    monkeypatch.setattr(auto, "has_compiler", lambda: True)
    # Compiled code seems fast enough for its answer to be looked at; tracing is still real.
    real = auto.measure
    monkeypatch.setattr(auto, "measure", lambda *a: -1.0 if a[2] == "compile" else real(*a))
    said = []
    with engine.compile_backend("eager"):
        mode = engine.choose(make(cls), testing.gaussian_episodes(3), steps=10**9, say=said.append)
    assert mode in ("native", "loop")
    (message,) = said
    assert message.startswith(f"mode compile is not used, {mode} is: ") and reason in message
    assert "\n" not in message


def test_what_cannot_be_compiled_runs_uncompiled_and_says_why():
    learner, episodes = make(Uncompilable), testing.gaussian_episodes(3)
    expected, gradient = engine.losses_and_gradient(learner, episodes, "vmap")
    with engine.compile_backend("eager"):
        with pytest.warns(
            engine.CompileWarning,
            match="^Uncompilable runs uncompiled, as mode vmap does: RuntimeError: no such kernel and a long trace$",
        ):
            losses = learner(episodes, mode="compile")
        losses.mean().backward()  # said once for these shapes: a second warning would be an error
        with pytest.warns(engine.CompileWarning):  # the graph that has the gradient
            found = engine.meta_gradient(learner, episodes, "compile")
        again = engine.meta_gradient(learner, episodes, "compile")
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in learner.parameters()]), gradient)
    for losses, gradients in (found, again):
        torch.testing.assert_close(losses, expected)
        torch.testing.assert_close(torch.cat([g.flatten() for g in gradients]), gradient)


def test_inductor_that_computes_something_else_is_found_out(monkeypatch):
    import torch._inductor

    monkeypatch.setattr(torch._inductor, "compile", lambda graph, inputs: lambda *given: [2 * t for t in graph(*given)])
    learner, episodes = make(kshot.ProtoNet), testing.gaussian_episodes(3)
    with pytest.warns(engine.CompileWarning, match=r"inductor \(torch .*\) computes something else, off by 1.0e\+00"):
        losses, _ = engine.meta_gradient(learner, episodes, "compile")
    torch.testing.assert_close(losses, engine.meta_gradient(learner, episodes, "vmap")[0])


def test_no_second_derivative_of_what_is_compiled():
    learner, episodes = make(kshot.ProtoNet), testing.gaussian_episodes(3)
    with engine.compile_backend("eager"):
        losses = learner(episodes, mode="compile")
        with pytest.raises(UnsupportedError, match="^mode='compile' has no second derivative .*: use mode='vmap'$"):
            torch.autograd.grad(losses.sum(), list(learner.parameters()), create_graph=True)


def test_what_the_hooks_decide_by_makes_another_graph():
    torch.manual_seed(0)
    learner, episodes = kshot.MAML(models.MLP(8, hidden=(16,)), way=5, inner_steps=1), testing.gaussian_episodes(3)
    found = []
    with engine.compile_backend("eager"):
        for steps, order in ((1, 2), (3, 2), (3, 1), (1, 2)):
            learner.inner_steps, learner.order = steps, order
            found.append(engine.losses_and_gradient(learner, episodes, "compile"))
            for ours, theirs in zip(found[-1], engine.losses_and_gradient(learner, episodes, "loop"), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert torch.equal(found[0][1], found[3][1]) and not torch.allclose(found[1][1], found[2][1])
    assert len(learner._compiled["objective"]._graphs) == 3


def test_graphs_are_those_of_the_modules_that_there_are():
    """Layers that were replaced, and lists that were changed, since a graph was made."""

    class Listed(kshot.ProtoNet):
        def __init__(self, backbone):
            super().__init__(backbone)
            self.weights = [1.0, (2.0, 3.0)]

        def adapt(self, support):
            adapted = super().adapt(support)
            return {key: value * self.weights[0] for key, value in adapted.items()}

    torch.manual_seed(0)
    learner, episodes = Listed(models.MLP(8, hidden=(16,))), testing.gaussian_episodes(3)
    maml = kshot.MAML(models.MLP(8, hidden=(16,)), way=5)

    def same():
        for one in (learner, maml):
            found, expected = (engine.losses_and_gradient(one, episodes, mode) for mode in ("compile", "loop"))
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)

    with engine.compile_backend("eager"):
        same()
        learner.weights[0] = 5.0
        same()
        for one in (learner.backbone, maml.network.backbone):
            name, layer = next((n, m) for n, m in one.named_modules() if isinstance(m, nn.Linear))
            parent, _, last = name.rpartition(".")
            setattr(one.get_submodule(parent), last, nn.Linear(layer.in_features, layer.out_features))
        same()


def test_a_larger_graph_costs_more_and_has_to_pay_for_it(monkeypatch):
    monkeypatch.setattr(auto, "has_compiler", lambda: True)
    episodes = testing.sinusoid_episodes(2)
    price = {
        n: auto.compile_seconds(kshot.MAML(models.MLP(1, out_features=1), inner_steps=n), episodes) for n in (1, 5)
    }
    assert price[5] > 2 * price[1] > 0
    tried, said = [], []
    real = auto.measure
    # A step takes a second, wherever it is done.
    monkeypatch.setattr(auto, "measure", lambda *a: tried.append(a[2]) or (real(*a[:3], 0) and 1.0))
    learner = kshot.MAML(models.MLP(1, out_features=1), inner_steps=5)
    with engine.compile_backend("eager"):
        assert engine.choose(learner, episodes, steps=int(2 * price[5]) - 1, say=said.append) != "compile"
        assert tried == ["vmap", "loop"]
        assert said == []
        engine.choose(learner, episodes, steps=int(2 * price[5]) + 2, say=said.append)
        assert tried[2:] == ["vmap", "loop", "compile"]
    assert said == [], "it takes less than a minute"
    monkeypatch.setattr(auto, "LONG", 0.0)
    with engine.compile_backend("eager"):
        engine.choose(learner, episodes, steps=10**9, say=said.append)
    assert said[0].startswith("trying mode compile, which takes about") and said[0].endswith("begins at once")


@pytest.mark.parametrize(("loop", "passes"), [(6.0, 1), (4.0, 3), (0.5, 3)])
def test_a_mode_that_is_hopeless_is_measured_once(monkeypatch, loop, passes):
    clock, tried = [0.0], []

    def work(learner, episodes, mode):
        tried.append(mode)
        clock[0] += {"vmap": 1.0, "loop": loop}[mode]

    monkeypatch.setattr(auto, "losses_and_gradient", work)
    monkeypatch.setattr(auto.time, "perf_counter", lambda: clock[0])
    learner = kshot.MAML(models.MLP(1, out_features=1))
    assert engine.choose(learner, testing.sinusoid_episodes(2)) == ("vmap" if loop > 1 else "loop")
    assert tried.count("vmap") == 3 and tried.count("loop") == passes


def test_a_measurement_that_fails_leaves_no_statistics_behind():
    class Failing(kshot.ProtoNet):
        def predict(self, adapted, z):
            raise RuntimeError("no")

    torch.manual_seed(0)
    learner = Failing(Blocks())
    with pytest.raises(RuntimeError):
        engine.losses_and_gradient(learner, pictures().map(lambda t: t.float() if t.is_floating_point() else t), "loop")
    assert all(float(b.abs().sum()) == 0 for name, b in learner.named_buffers() if "pending" in name)


def test_what_rounding_explains():
    from kshot.engine.compiled import unexplained

    generator = torch.Generator().manual_seed(0)
    whole = [torch.randn(n, generator=generator) * s for n, s in ((1000, 1.0), (10, 0.05), (10, 1e-7))]
    never = lambda: pytest.fail("full precision was asked for")  # noqa: E731
    assert unexplained([1.001 * t for t in whole], whole, never) is None
    assert unexplained([whole[0], whole[1], -whole[2]], whole, never) is None  # next to nothing
    assert unexplained([whole[0], -whole[1], whole[2]], whole, never) > 0.5  # small, but wrong
    assert unexplained([-t for t in whole], whole, never) == pytest.approx(2.0)
    assert unexplained([whole[0]], [torch.full((3,), math.nan)], never) is None

    noise = [0.28 * t.norm() / 1000**0.5 * torch.randn(t.shape, generator=generator) for t in whole[:1]]
    exact, rough, other = whole[0], whole[0] + noise[0], whole[0] - 0.9 * noise[0]
    with torch.autocast("cpu"):
        assert unexplained([1.1 * exact], [exact], never) is None
        assert unexplained([other], [rough], lambda: [exact]) is None  # as far from the truth, elsewhere
        assert unexplained([other], [exact], lambda: [exact]) == pytest.approx(0.25, abs=0.03)
        assert unexplained([-exact], [exact], never) == pytest.approx(2.0)
