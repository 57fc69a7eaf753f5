"""Matching networks against their formulas."""

from __future__ import annotations

import pytest
import torch
from by_hand import examples, randomised
from torch import Tensor
from torch.nn import functional as F

import kshot
from kshot import models, testing
from kshot.models.recurrent import LSTMCell


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


def hidden_states(cell: LSTMCell, sequence: list[Tensor]) -> list[Tensor]:
    """An LSTM over a sequence, gate by gate: the weights have rows for input, forget and output gate, and candidate."""
    size = cell.size
    h, c = torch.zeros(2, size, dtype=torch.float64)
    states = []
    for x in sequence:
        rows = cell.gates.weight @ torch.cat([x, h]) + cell.gates.bias
        i, f, o = (1 / (1 + (-rows[k * size : (k + 1) * size]).exp()) for k in range(3))
        c = f * c + i * rows[3 * size :].tanh()
        h = o * c.tanh()
        states.append(h)
    return states


def test_the_support_in_context_is_a_bidirectional_lstm_and_what_it_reads() -> None:
    """g(x_i, S) = forward h_i + backward h_i + g'(x_i), the backward LSTM begins at the last example (appendix A.2)."""
    learner = kshot.MatchingNet(models.MLP(4, hidden=()), context_steps=1).double()
    randomised(learner)
    support = examples(4)
    found = learner.adapt(support)["support"][support.mask]
    real = list(support.x[support.mask])
    there = hidden_states(learner.forwards, real)
    back = hidden_states(learner.backwards, real[::-1])[::-1]
    expected = torch.stack([a + b + x for a, b, x in zip(there, back, real, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
