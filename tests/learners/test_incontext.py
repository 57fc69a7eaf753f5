"""The in-context transformer against one pass over support and queries together, under a mask."""

from __future__ import annotations

import pytest
import torch
from by_hand import F64, WAY, examples, queries, randomised
from torch import Tensor, nn

import kshot
from kshot import Examples, models

SIZE, HEADS = 6, 3


def transformer(**options) -> kshot.InContextTransformer:
    learner = kshot.InContextTransformer(models.MLP(4, hidden=()), size=SIZE, layers=2, heads=HEADS, **options)
    randomised(learner.double())
    return learner


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return x @ layer.weight.T + layer.bias


def normed(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def attended(attention: nn.Module, z: Tensor, sees: Tensor) -> Tensor:
    """Head by head; `sees[i, j]`: whether token i looks at token j."""
    read = []
    parts = zip(*(linear(getattr(attention, n), z).chunk(HEADS, -1) for n in ("query", "key", "value")), strict=True)
    for q, k, v in parts:
        weights = (q @ k.T / (SIZE / HEADS) ** 0.5).exp() * sees
        read.append(weights / weights.sum(-1, keepdim=True) @ v)
    return linear(attention.out, torch.cat(read, -1))


def by_hand(learner: kshot.InContextTransformer, support: Examples, labels: Tensor, x: Tensor) -> Tensor:
    """Every token is a row: of examples f(x) + g(y), of queries f(x); all look at the real examples and at no query."""
    tokens = linear(learner.example, torch.cat([support.x, x]))
    tokens = tokens + torch.cat([labels @ learner.label.weight.T, x.new_zeros(len(x), SIZE)])
    sees = torch.cat([support.mask, torch.zeros(len(x), dtype=torch.bool)]).expand(len(tokens), -1)
    for layer in learner.layers:
        tokens = tokens + attended(layer.attention, normed(layer.norm, tokens), sees)
        first, wide, _, narrow = layer.network
        tokens = tokens + linear(narrow, gelu(linear(wide, normed(first, tokens))))
    return linear(learner.head[1], normed(learner.head[0], tokens))[support.size :]


@pytest.mark.parametrize("kind", ["classes", "values"])
def test_queries_look_at_the_support_alone_and_nothing_tells_their_labels(kind):
    support, x = examples(4), queries(4)
    if kind == "classes":
        learner, labels = transformer(way=WAY), torch.eye(WAY, dtype=F64)[support.y]
    else:
        learner, labels = transformer(out_features=2), queries(2, n=support.size, seed=2)
        support = Examples(support.x, labels, support.mask, torch.zeros(0, dtype=torch.bool))
    found = learner.predict(learner.adapt(support), x)
    torch.testing.assert_close(found, by_hand(learner, support, labels, x), rtol=1e-10, atol=1e-12)


def test_a_query_that_changes_changes_no_other_answer():
    learner, x = transformer(way=WAY), queries(4)
    adapted = learner.adapt(examples(4))
    answers = learner.predict(adapted, x)
    changed = learner.predict(adapted, torch.cat([x[:3], 5 * x[3:4], x[4:]]))
    others = [0, 1, 2, 4]
    assert torch.equal(changed[others], answers[others])
    assert not torch.allclose(changed[3], answers[3])
