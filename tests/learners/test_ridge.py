"""The ridge-regression head against the other form of its solution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from by_hand import F64, examples, queries

import kshot
from kshot import Examples, models

STRENGTH, SCALE, BIAS = 0.3, 2.5, -0.7


def ridge(features: int, **options: int) -> kshot.RidgeNet:
    learner = kshot.RidgeNet(models.MLP(features, hidden=()), strength=STRENGTH, scale=SCALE, **options).double()
    with torch.no_grad():
        learner.log_strength.fill_(np.log(STRENGTH))  # once more, in float64
        learner.log_scale.fill_(np.log(SCALE))
        learner.bias.fill_(BIAS)
    return learner


def primal(x: np.ndarray, y: np.ndarray, query: np.ndarray) -> np.ndarray:
    """alpha [x', 1] (X^T X + lambda I)^-1 X^T Y + beta: as many unknowns as features, the intercept one of them."""
    x, query = (np.concatenate([part, np.ones((len(part), 1))], 1) for part in (x, query))
    weights = np.linalg.inv(x.T @ x + STRENGTH * np.eye(x.shape[1])) @ x.T @ y
    return SCALE * query @ weights + BIAS


@pytest.mark.parametrize("features", [3, 20])
@pytest.mark.parametrize("kind", ["classes", "values"])
def test_the_head_is_that_of_the_primal_problem(features: int, kind: str) -> None:
    """X^T (X X^T + lambda I)^-1 Y (eq. 4) with seven real examples, fewer and more than there are features."""
    support, x = examples(features), queries(features)
    real = support.mask.numpy()
    if kind == "classes":
        learner = ridge(features)
        y = np.zeros((7, 4))
        y[np.arange(7), support.y.numpy()[real]] = 1
    else:
        learner = ridge(features, out_features=2)
        targets = torch.randn(support.size, 2, generator=torch.Generator().manual_seed(5), dtype=F64)
        y = targets.numpy()[real]
        support = Examples(support.x, targets, support.mask, torch.zeros(0, dtype=torch.bool))
    with torch.no_grad():
        found = learner.predict(learner.adapt(support), x).numpy()
    np.testing.assert_allclose(found, primal(support.x.numpy()[real], y, x.numpy()), rtol=1e-9, atol=1e-10)


def test_lambda_alpha_and_beta_are_learned() -> None:
    learner = ridge(3)
    learner.objective(examples(3), examples(3, seed=3)).backward()
    for name in ("log_strength", "log_scale"):
        assert getattr(learner, name).grad.abs() > 1e-6, name
    learner.zero_grad()
    learner.predict(learner.adapt(examples(3)), queries(3)).sum().backward()
    assert learner.bias.grad == 5 * 4  # it is added to each logit, which cross entropy does not see
