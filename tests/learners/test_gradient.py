"""Gradient-based learners against what their papers say of them in closed form."""

from __future__ import annotations

import pytest
import torch
from test_maml import Linear, regression_task

import kshot
from kshot import models, testing
from kshot.errors import UnsupportedError
from kshot.learners.imaml import conjugate_gradients
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


def test_minibatches_go_round_the_real_examples():
    mask = torch.tensor([True, False, True, True, False])
    examples = kshot.Examples(torch.arange(5.0)[:, None], torch.zeros(5, dtype=torch.int64), mask, torch.ones(2).bool())
    seen = [minibatch(examples, step, 2).x.flatten().tolist() for step in range(3)]
    assert seen == [[0, 2], [3, 0], [2, 3]]


def test_imaml_on_linear_regression_is_the_closed_form():
    """phi solves (2 A'A / n + lambda) phi = 2 A'y / n + lambda theta, so d phi / d theta = (I + H / lambda)^-1."""
    learner = kshot.IMAML(Linear(), strength=2.0, inner_lr=0.1, inner_steps=2000, cg_steps=3)
    episodes, (a, y, b, z) = regression_task(2)
    n, eye = len(y), torch.eye(3, dtype=torch.float64)
    w = learner.network.backbone.w.detach()
    h = 2 / n * a.T @ a
    phi = torch.linalg.solve(h + 2 * eye, 2 / n * a.T @ y + 2 * w)
    torch.testing.assert_close(learner.adapt(episodes[0].support)["parameters"]["backbone.w"], phi)
    learner(episodes, mode="loop").mean().backward()
    expected = torch.linalg.solve(eye + h / 2, 2 / n * b.T @ (b @ phi - z))
    torch.testing.assert_close(learner.network.backbone.w.grad, expected)


def test_conjugate_gradients_solve_and_stop_at_negative_curvature():
    matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    b = {"x": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    found = conjugate_gradients(lambda v: {"x": matrix @ v["x"]}, b, 5)
    torch.testing.assert_close(found["x"], torch.linalg.solve(matrix, b["x"]))
    found = conjugate_gradients(lambda v: {"x": -matrix @ v["x"]}, b, 5)
    assert not found["x"].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: kshot.Reptile(models.MLP(8), way=5, batch=0),
            "mini-batch of at least 1 example, or None for all, got 0",
        ),
        (lambda: kshot.Reptile(models.MLP(8), way=5, beta2=1.0), r"beta2 in \[0, 1\), or None for SGD, got 1.0"),
        (lambda: kshot.IMAML(models.MLP(8), way=5, strength=0.0), "positive strength of the regularisation, got 0.0"),
        (lambda: kshot.RidgeNet(models.MLP(8), strength=-1.0), "positive strength and scale, got -1.0"),
        (lambda: kshot.MatchingNet(models.MLP(8), scale=0.0), "positive scale and at least 0 context steps, got 0.0"),
        (lambda: kshot.RelationNet(models.MLP(8), loss="hinge"), "loss 'mse' or 'cross_entropy', got 'hinge'"),
        (lambda: models.Conv4(1, pools=5), "expected 0 to 4 pools, got 5"),
    ],
)
def test_what_cannot_be_built(make, message):
    with pytest.raises(UnsupportedError, match=message):
        make()
