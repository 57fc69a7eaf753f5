"""iMAML on a small network with a norm layer: its meta-gradient against a direct solve with the whole Hessian."""

from __future__ import annotations

import pytest
import torch
from by_hand import WAY, cross_entropy, examples, randomised
from torch import Tensor, nn

import kshot
from kshot import Examples, models

STRENGTH, RATE, STEPS = 2.0, 0.1, 3


class Normed(models.Backbone):
    def __init__(self, norm: str):
        super().__init__()
        layer = models.TaskBatchNorm(4) if norm == "batch" else nn.GroupNorm(2, 4)
        self.layers = models.Sequential(nn.Linear(3, 4), layer, nn.Tanh())
        self.out_features = 4

    def forward(self, x, statistics=None):
        return self.layers(x, statistics)


def logits(weights: list[Tensor], x: Tensor, support: Examples, norm: str) -> Tensor:
    """By hand: a query is normalised by the support's real examples, or in two groups by its own four numbers."""
    linear, shift, gamma, beta, head, bias = weights
    z, seen = x @ linear.T + shift, support.x[support.mask] @ linear.T + shift
    if norm == "batch":
        mean = seen.mean(0)
        z = (z - mean) / ((seen - mean).square().mean(0) + 1e-5).sqrt()
    else:
        pairs = z.unflatten(1, (2, 2))
        centred = pairs - pairs.mean(-1, keepdim=True)
        z = (centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(1)
    return (z * gamma + beta).tanh() @ head.T + bias


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("damping", [0.5, 20.0])
def test_the_meta_gradient_is_a_damped_solve_with_the_hessian_where_the_inner_loop_ends(norm, damping):
    """(I + H / (lambda + damping))^-1 g, both at phi after three steps on L + lambda / 2 |phi - theta|^2."""
    learner = kshot.IMAML(
        Normed(norm), way=WAY, strength=STRENGTH, inner_lr=RATE, inner_steps=STEPS, cg_steps=40, damping=damping
    )
    randomised(learner.double())
    support, query = examples(3), examples(3, seed=5)
    theta = [p.detach() for p in learner.network.parameters()]
    sizes, shapes = [p.numel() for p in theta], [p.shape for p in theta]

    def loss(flat: Tensor, task: Examples) -> Tensor:
        weights = [part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]
        return cross_entropy(logits(weights, task.x, support, norm), task)

    start = torch.cat([p.flatten() for p in theta])
    phi = start
    for _ in range(STEPS):
        phi = phi - RATE * (torch.func.grad(loss)(phi, support) + STRENGTH * (phi - start))
    adapted = learner.adapt(support)["parameters"]
    torch.testing.assert_close(torch.cat([p.flatten() for p in adapted.values()]), phi, rtol=1e-10, atol=1e-12)

    matrix = torch.eye(len(phi)).to(phi) + torch.func.hessian(loss)(phi, support) / (STRENGTH + damping)
    assert float(torch.linalg.eigvalsh(matrix)[0]) > 0.1  # where conjugate gradients go all the way
    g = torch.func.grad(loss)(phi, query)
    expected = torch.linalg.solve(matrix, g)
    value = learner.objective(support, query)
    torch.testing.assert_close(value, loss(phi, query))
    found = torch.cat([p.flatten() for p in torch.autograd.grad(value, list(learner.network.parameters()))])
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    assert (expected - g).norm() > 100 * (found - expected).norm() + 1e-3 * g.norm()
