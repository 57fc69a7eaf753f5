"""MAML and ANIL against closed forms and the plain definitions."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import kshot
from kshot import engine, models, testing
from kshot.episodes import Episodes, Examples
from kshot.errors import UnsupportedError


class Linear(models.Backbone):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64))
        self.out_features = 1

    def forward(self, x):
        return x @ self.w[:, None]


def regression_task(seed: int, n: int = 6) -> tuple[Episodes, list[torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(n, 3, generator=g, dtype=torch.float64), torch.randn(n, 3, generator=g, dtype=torch.float64)
    y, z = torch.randn(n, generator=g, dtype=torch.float64), torch.randn(n, generator=g, dtype=torch.float64)

    def examples(x, t):
        return Examples(
            x[None], t[None, :, None], torch.ones(1, n, dtype=torch.bool), torch.ones(1, 0, dtype=torch.bool)
        )

    return Episodes(examples(a, y), examples(b, z), torch.zeros(1, 0, dtype=torch.int64)), [a, y, b, z]


@pytest.mark.parametrize("steps", [1, 3, 8])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("mode", ["loop", "vmap"])
def test_meta_gradient_on_linear_regression_is_the_closed_form(steps, order, mode):
    """L_s(w) = |Aw - y|^2 / n, so w' = M^k w + c with M = I - 2 alpha A'A / n, the meta-gradient (M^k)' L_q'(w')."""
    alpha = 0.05
    learner = kshot.MAML(Linear(), inner_lr=alpha, inner_steps=steps, order=order)
    w = learner.network.backbone.w.detach().clone()
    episodes, (a, y, b, z) = regression_task(0)
    n = len(y)
    learner(episodes, mode=mode).mean().backward()

    m = torch.eye(3, dtype=torch.float64) - 2 * alpha / n * a.T @ a
    adapted = w
    for _ in range(steps):
        adapted = adapted - 2 * alpha / n * a.T @ (a @ adapted - y)
    query_gradient = 2 / n * b.T @ (b @ adapted - z)
    expected = torch.linalg.matrix_power(m, steps).T @ query_gradient if order == 2 else query_gradient
    torch.testing.assert_close(learner.network.backbone.w.grad, expected, rtol=1e-10, atol=1e-12)


def test_equals_a_plain_loop_over_tasks():
    """The definition, with torch.autograd.grad(create_graph=True) and functional layers alone."""
    learner = kshot.MAML(models.MLP(8, hidden=(16,)), way=5, inner_lr=0.3, inner_steps=3).double()
    episodes = testing.gaussian_episodes(3, dtype=torch.float64)
    parameters = list(learner.network.parameters())
    total = 0.0
    for task in episodes:
        fast = parameters
        for _ in range(3):
            logits = F.linear(F.relu(F.linear(task.support.x, fast[0], fast[1])), fast[2], fast[3])
            gradients = torch.autograd.grad(F.cross_entropy(logits, task.support.y), fast, create_graph=True)
            fast = [p - 0.3 * g for p, g in zip(fast, gradients, strict=True)]
        logits = F.linear(F.relu(F.linear(task.query.x, fast[0], fast[1])), fast[2], fast[3])
        total = total + F.cross_entropy(logits, task.query.y) / 3
    expected = torch.autograd.grad(total, parameters)
    losses = learner(episodes, mode="vmap")
    losses.mean().backward()
    torch.testing.assert_close(losses.mean(), total)
    for p, g in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.grad, g)


def test_first_order_differs_from_second_order():
    gradients = []
    for order in (1, 2):
        torch.manual_seed(0)
        learner = kshot.MAML(models.MLP(8, hidden=(16,)), way=5, inner_lr=0.3, inner_steps=3, order=order)
        learner(testing.gaussian_episodes(3)).mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in learner.parameters()]))
    assert (gradients[0] - gradients[1]).norm() > 0.01 * gradients[1].norm()


def test_test_steps_and_the_steps_option():
    learner = kshot.MAML(models.MLP(1, out_features=1), inner_lr=0.02, inner_steps=1, test_steps=4)
    task = testing.sinusoid_episodes(1)[0].support

    def first(adapted):
        return adapted["parameters"]["backbone.layers.0.weight"]

    assert torch.equal(first(learner.adapt(task)), first(learner.adapt(task, steps=1)))
    learner.eval()
    assert torch.equal(first(learner.adapt(task)), first(learner.adapt(task, steps=4)))
    assert torch.equal(first(learner.adapt(task, steps=0)), learner.network.backbone.layers[0].weight)


def test_anil_moves_the_head_alone():
    learner = kshot.ANIL(models.MLP(8, hidden=(16,)), way=5)
    features = engine.with_features(learner, testing.gaussian_episodes(1))[0]
    assert set(learner.adapt(features.support)) == {"weight", "bias"}


def test_norm_batch_is_transductive_and_norm_support_is_not():
    x = torch.randn(1, 10, 1, 16, 16)
    y = torch.arange(5).repeat(2)[None]
    ones = torch.ones(1, 10, dtype=torch.bool)
    support = Examples(x, y, ones, torch.ones(1, 5, dtype=torch.bool), padded=False)[0]
    queries = torch.randn(6, 1, 16, 16)
    for norm, depends in (("batch", True), ("support", False)):
        learner = kshot.MAML(models.Conv4(channels=8, image_size=16), way=5, inner_lr=0.1, norm=norm).eval()
        assert learner.transductive is depends
        adapted = learner.adapt(support)
        together, alone = learner.predict(adapted, queries)[:2], learner.predict(adapted, queries[:2])
        assert torch.allclose(together, alone, atol=1e-5) is not depends


def test_tied_and_unused_parameters():
    class Tied(models.Backbone):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Linear(8, 8)
            self.b = torch.nn.Linear(8, 8)
            self.b.weight = self.a.weight
            self.idle = torch.nn.Linear(3, 3)
            self.out_features = 8

        def forward(self, x):
            return self.b(torch.tanh(self.a(x)))

    learner = kshot.MAML(Tied(), way=5, inner_lr=0.3, inner_steps=2)
    names = set(dict(learner.named_parameters()))
    assert "network.backbone.b.weight" not in names
    losses = learner(testing.gaussian_episodes(2), mode="vmap")
    torch.testing.assert_close(losses, learner(testing.gaussian_episodes(2), mode="loop"))
    losses.mean().backward()
    assert learner.network.backbone.a.weight.grad.abs().sum() > 0
    idle = learner.network.backbone.idle.weight.grad
    assert idle is None or idle.abs().sum() == 0


def test_refuses_what_it_cannot_do():
    with pytest.raises(UnsupportedError, match="expected order 1"):
        kshot.MAML(models.MLP(8), way=5, order=3)
    with pytest.raises(UnsupportedError, match="expected norm 'support' or 'batch', got 'group'"):
        kshot.MAML(models.MLP(8), way=5, norm="group")
    with pytest.raises(UnsupportedError, match="at least 0 inner steps, got -1"):
        kshot.MAML(models.MLP(8), way=5, inner_steps=-1)
    with pytest.raises(UnsupportedError, match="running statistics leak between tasks.*Use kshot.models.TaskBatchNorm"):
        backbone = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.BatchNorm1d(4))
        backbone.out_features = 4
        kshot.MAML(backbone, way=5)
