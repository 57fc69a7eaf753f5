"""ANIL's inner loop against closed forms of a linear head."""

from __future__ import annotations

import pytest
import torch
from by_hand import WAY, cross_entropy, examples, queries, randomised
from torch.nn import functional as F

import kshot
from kshot import Examples, models

RATE = 0.1


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_a_linear_head_goes_towards_least_squares_as_fast_as_its_rate_says(steps, order):
    """W_k = W* + (W_0 - W*) M^k, M = I - 2 alpha Z'Z / (n o), Z with a column of ones, o values of a target; features
    are learned through W* and M where the order is 2."""
    learner = kshot.ANIL(
        models.MLP(4, hidden=(), out_features=3), inner_lr=RATE, inner_steps=steps, order=order, out_features=2
    )
    randomised(learner.double())
    n = 7
    support, query = (Examples.of(queries(4, n=n, seed=seed), queries(2, n=n, seed=seed + 1)) for seed in (2, 4))

    def with_ones(x):
        return F.pad(learner.backbone.layers[0](x), (0, 1), value=1.0)

    z, start = with_ones(support.x), torch.cat([learner.head.weight, learner.head.bias[:, None]], 1)
    best = torch.linalg.solve(z.T @ z, z.T @ support.y).T
    decay = torch.linalg.matrix_power(torch.eye(4).to(z) - RATE * 2 / (n * 2) * z.T @ z, steps)
    reached = best + (start - best) @ decay
    adapted = learner.adapt(support.replace_x(learner.features(support.x)))
    torch.testing.assert_close(adapted["weight"], reached[:, :-1], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(adapted["bias"], reached[:, -1], rtol=1e-9, atol=1e-10)

    if order == 1:
        reached = start + (reached - start).detach()
    expected_loss = (with_ones(query.x) @ reached.T - query.y).square().mean()
    loss = learner.loss(learner.predict(adapted, learner.features(query.x)), query)
    torch.testing.assert_close(loss, expected_loss)
    parameters = list(learner.parameters())
    found, expected = (torch.autograd.grad(value, parameters) for value in (loss, expected_loss))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_a_head_of_classes_descends_by_what_it_believes_too_much():
    """The gradient of a class's weights is the mean of (p - y) z over the real examples; a class that is not there has
    none."""
    learner = kshot.ANIL(models.MLP(3, hidden=()), way=WAY, inner_lr=RATE, inner_steps=3)
    randomised(learner.double())
    support = examples(3)
    weight, bias = (p.detach().clone() for p in (learner.head.weight, learner.head.bias))
    for _ in range(3):
        gradients = torch.zeros_like(weight), torch.zeros_like(bias)
        for z, y, real in zip(support.x, support.y.tolist(), support.mask.tolist(), strict=True):
            believed = (weight @ z + bias).exp() * support.classes
            for k in range(WAY) if real else ():
                error = believed[k] / believed.sum() - float(y == k)
                gradients[0][k] += error * z / 7
                gradients[1][k] += error / 7
        weight, bias = weight - RATE * gradients[0], bias - RATE * gradients[1]
    adapted = learner.adapt(support)
    torch.testing.assert_close(adapted["weight"], weight, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(adapted["bias"], bias, rtol=1e-10, atol=1e-12)
    assert torch.equal(adapted["weight"][3], learner.head.weight[3])
    loss = learner.loss(learner.predict(learner.adapt(support), support.x), support)
    torch.testing.assert_close(loss, cross_entropy(support.x @ weight.T + bias, support))
