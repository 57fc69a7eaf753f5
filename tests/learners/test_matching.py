"""Matching networks against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import kshot
from kshot import models, testing


@pytest.mark.parametrize("steps", [1, 2])
def test_full_context_embeddings_are_those_of_the_appendix(steps: int) -> None:
    """h_k = LSTM(f(x), [h_{k-1}, r_{k-1}]) + f(x), r_{k-1} the read of h_{k-1} over the g(x_i) (eq. 3-6)."""
    torch.manual_seed(0)
    learner = kshot.MatchingNet(models.MLP(8, hidden=(6,)), context_steps=steps).eval()
    task = testing.gaussian_episodes(1)[0]
    with torch.no_grad():
        support = task.support.replace_x(learner.features(task.support.x))
        x = learner.features(task.query.x)
        adapted = learner.adapt(support)
        found = learner.predict(adapted, x).exp()
        g = adapted["support"]
        h, c = x, torch.zeros_like(x)
        for _ in range(steps):
            read = (h @ g.T).softmax(-1) @ g
            new, c = learner.attending(x, (h, c), read)
            h = new + x
        similarity = F.cosine_similarity(h[:, None], g[None], dim=-1) * learner.log_scale.exp()
        expected = similarity.softmax(-1) @ F.one_hot(support.y, 5).float()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_one_step_of_context_sees_the_support() -> None:
    torch.manual_seed(0)
    learner = kshot.MatchingNet(models.MLP(8, hidden=(6,)), context_steps=1).eval()
    x, mask = torch.randn(3, 6), torch.ones(4, dtype=torch.bool)
    with torch.no_grad():
        one, other = (learner._in_context(x, torch.randn(4, 6), mask) for _ in range(2))
    assert not torch.allclose(one, other)
