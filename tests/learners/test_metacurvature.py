"""Meta-Curvature against Park and Oliva 2019, eq. 8, and its expansion into one matrix."""

from __future__ import annotations

import pytest
import torch
from by_hand import F64, queries, randomised
from torch import Tensor
from torch.nn import functional as F

import kshot
from kshot import Examples, models

WAY, RATE = 3, 0.3


class Small(models.Backbone):
    """A convolution whose places are no square, so that its axes cannot be taken for one another."""

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(2, 4, (3, 2))
        self.out_features = 4

    def forward(self, x):
        return self.convolution(x).tanh().mean((-1, -2))


def plain(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    maps = F.conv2d(x, weights["backbone.convolution.weight"], weights["backbone.convolution.bias"])
    return maps.tanh().mean((-1, -2)) @ weights["head.weight"].T + weights["head.bias"]


def turned(gradient: Tensor, factors: list[Tensor]) -> Tensor:
    """One matrix for all entries: the Kronecker product of those for outputs, inputs and places (sec. 4.2)."""
    if gradient.ndim == 1:
        return factors[0] * gradient
    matrix = factors[0]
    for factor in factors[1:]:
        matrix = torch.kron(matrix, factor)
    return (matrix @ gradient.flatten()).view(gradient.shape)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [1, 2])
def test_weights_and_meta_gradients_follow_turned_gradients(steps, order):
    learner = kshot.MetaCurvature(Small(), way=WAY, inner_lr=RATE, inner_steps=steps, order=order)
    randomised(learner.double())
    y = torch.arange(6) % WAY
    support, query = (Examples.of(queries(2, 5, 4, n=6, seed=seed), y, WAY) for seed in (1, 2))
    factors = dict(zip((n for n, _ in learner.network.named_parameters()), learner.curvatures, strict=True))
    assert {name: len(turn.factors) for name, turn in factors.items()} == {
        "backbone.convolution.weight": 3, "backbone.convolution.bias": 1, "head.weight": 2, "head.bias": 1,
    }  # fmt: skip

    weights = dict(learner.network.named_parameters())
    for _ in range(steps):
        loss = F.cross_entropy(plain(weights, support.x), y)
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        if order == 1:
            gradients = [g.detach() for g in gradients]
        weights = {
            name: value - RATE * turned(g, list(factors[name].factors))
            for (name, value), g in zip(weights.items(), gradients, strict=True)
        }
    adapted = learner.adapt(support)["parameters"]
    for name, value in weights.items():
        assert not torch.allclose(value, learner.network.get_parameter(name), atol=1e-3)
        torch.testing.assert_close(adapted[name], value, rtol=1e-10, atol=1e-12)

    parameters = list(learner.parameters())
    expected = torch.autograd.grad(F.cross_entropy(plain(weights, query.x), y), parameters)
    found = torch.autograd.grad(learner.objective(support, query), parameters)
    for ours, theirs in zip(found, expected, strict=True):
        assert bool(theirs.any())
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_a_factor_turns_its_own_axis():
    """Outputs that change places, an input that is left out, a place that counts twice."""
    learner = kshot.MetaCurvature(Small(), way=WAY).double()
    turn = learner.curvatures[0]
    out, into, places = turn.factors
    with torch.no_grad():
        out.copy_(torch.eye(4, dtype=F64)[[1, 2, 3, 0]])
        into[1, 1] = 0
        places[5, 5] = 2  # the last of three rows and two columns
    gradient = queries(2, 3, 2, n=4)
    expected = torch.stack([gradient[1], gradient[2], gradient[3], gradient[0]])
    expected[:, 1] = 0
    expected[:, :, 2, 1] *= 2
    torch.testing.assert_close(turn(gradient), expected)
