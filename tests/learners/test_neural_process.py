"""Conditional and attentive neural processes against their formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from by_hand import F64, WAY, examples, linears, mean_of, perceptron, queries, randomised
from torch import Tensor, nn
from torch.nn import functional as F

import kshot
from kshot import Examples, models
from kshot.models.attention import MultiHeadAttention

SIZE, HEADS = 6, 3


def learner_of(name: str, kind: str) -> kshot.CNP:
    backbone = models.MLP(3, hidden=())
    options = {"way": WAY} if kind == "classes" else {"out_features": 2}
    if name == "ANP":
        options["heads"] = HEADS
    learner = getattr(kshot, name)(backbone, size=SIZE, layers=1, **options).double()
    randomised(learner)
    return learner


def support_of(kind: str) -> Examples:
    support = examples(3)
    if kind == "classes":
        return support
    y = torch.randn(support.size, 2, generator=torch.Generator().manual_seed(2), dtype=F64)
    return Examples(support.x, y * support.mask[:, None], support.mask, torch.zeros(0, dtype=torch.bool))


def real_pairs(support: Examples) -> list[tuple[Tensor, Tensor]]:
    labels = F.one_hot(support.y, WAY).double() if support.y.ndim == 1 else support.y
    return [(x, y) for x, y, real in zip(support.x, labels, support.mask.tolist(), strict=True) if real]


def decoded(learner: kshot.CNP, x: Tensor, r: Tensor, kind: str) -> Tensor:
    """Logits; or means and the logarithms of variances, sigma = 0.1 + 0.9 softplus(.)."""
    out = perceptron(linears(learner.decoder), torch.cat([x, r]))
    if kind == "classes":
        return out
    sigma = 0.1 + 0.9 * (1 + out[2:].exp()).log()
    return torch.cat([out[:2], (sigma**2).log()])


def projected(layer: nn.Linear, x: Tensor, head: int) -> Tensor:
    """What one head sees: its share of a linear map's rows."""
    share = SIZE // HEADS
    return (layer.weight @ x + layer.bias)[head * share : (head + 1) * share]


def read(attention: MultiHeadAttention, asked: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """Dot-product attention, head by head (Vaswani et al. 2017, eq. 1)."""
    parts = []
    for head in range(HEADS):
        query = projected(attention.query, asked, head)
        logits = [query @ projected(attention.key, key, head) / (SIZE / HEADS) ** 0.5 for key in keys]
        weights = [logit.exp() / sum(other.exp() for other in logits) for logit in logits]
        parts.append(sum(w * projected(attention.value, v, head) for w, v in zip(weights, values, strict=True)))
    return attention.out.weight @ torch.cat(parts) + attention.out.bias


@pytest.mark.parametrize("kind", ["classes", "values"])
def test_a_cnp_decodes_the_mean_of_encoded_pairs(kind: str) -> None:
    """r = mean of h(x_i, y_i); of classes the means of the h(x_i) of each, one behind the other (eq. 2-4, sec. 4.3)."""
    learner, support, x = learner_of("CNP", kind), support_of(kind), queries(3)
    encoder = linears(learner.encoder)
    if kind == "classes":
        encoded = replace(support, x=torch.stack([perceptron(encoder, row) for row in support.x]))
        r = torch.cat([mean_of(encoded, k) for k in range(WAY)])
    else:
        r = torch.stack([perceptron(encoder, torch.cat(pair)) for pair in real_pairs(support)]).mean(0)
    found = learner.predict(learner.adapt(support), x)
    expected = torch.stack([decoded(learner, row, r, kind) for row in x])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["classes", "values"])
def test_an_anp_attends_among_the_pairs_and_then_across(kind: str) -> None:
    """r_i from self-attention, r(x) from multi-head attention with keys of the x_i (Kim et al. 2019, sec. 3)."""
    learner, support, x = learner_of("ANP", kind), support_of(kind), queries(3)
    pairs = real_pairs(support)
    encoded = [perceptron(linears(learner.encoder), torch.cat(pair)) for pair in pairs]
    values = [r + read(learner.among, r, encoded, encoded) for r in encoded]
    keys = [perceptron(linears(learner.keys), row) for row, _ in pairs]
    found = learner.predict(learner.adapt(support), x)
    for i, row in enumerate(x):
        r = read(learner.across, perceptron(linears(learner.keys), row), keys, values)
        torch.testing.assert_close(found[i], decoded(learner, row, r, kind), rtol=1e-10, atol=1e-12)


def test_an_attentive_process_sees_where_its_points_are_and_a_mean_does_not() -> None:
    """Two supports that have the same mean representation but for where their points are."""
    one = support_of("values")
    rows = one.mask.nonzero().squeeze(-1)
    y = one.y.clone()
    y[rows] = one.y[rows.flip(0)]
    other = replace(one, y=y)
    x = queries(3)
    outputs = {}
    for name in ("CNP", "ANP"):
        learner = learner_of(name, "values")
        with torch.no_grad():
            learner.encoder.layers[0].weight[:, :3] = 0  # a pair is encoded by its value alone
            means = [learner.encode(support)[support.mask].mean(0) for support in (one, other)]
            torch.testing.assert_close(*means)
            outputs[name] = [learner.predict(learner.adapt(support), x) for support in (one, other)]
    torch.testing.assert_close(*outputs["CNP"])
    distance = (outputs["ANP"][0] - outputs["ANP"][1]).abs().amax(-1)
    assert bool((distance > 1e-3).all())
