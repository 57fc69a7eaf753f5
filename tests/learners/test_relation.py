"""Siamese and relation networks, which learn a similarity, against their formulas."""

from __future__ import annotations

import pytest
import torch
from by_hand import WAY, examples, linears, mean_of, members, perceptron, queries, randomised
from torch import Tensor

import kshot
from kshot import Examples, models

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def siamese() -> kshot.SiameseNet:
    learner = kshot.SiameseNet(models.MLP(5, hidden=())).double()
    randomised(learner)
    return learner


def same(learner: kshot.SiameseNet, a: Tensor, b: Tensor) -> Tensor:
    """The logit of Koch et al. 2015, sec. 3.1: sum over j of alpha_j |a_j - b_j|, and the bias."""
    return sum((learner.weight[j] * abs(a[j] - b[j]) for j in range(len(a))), learner.bias)


def test_siamese_score_is_the_mean_logit_of_a_classs_pairs() -> None:
    """One shot: the logit of its pair. Several: their mean, not that of the probabilities nor of the features."""
    learner, support, x = siamese(), examples(5), queries(5)
    found = learner.predict(learner.adapt(support), x)
    assert found.shape == (5, WAY)
    for i in range(5):
        for k in range(WAY):
            logits = [same(learner, x[i], other) for other in members(support, k)]
            expected = sum(logits) / len(logits) if logits else torch.zeros_like(found[i, k])
            torch.testing.assert_close(found[i, k], expected, **EXACT)


def test_siamese_objective_weighs_pairs_of_one_class_as_much_as_the_others() -> None:
    learner, support, query = siamese(), examples(5), examples(5, seed=3)
    losses: dict[bool, list[Tensor]] = {True: [], False: []}
    for a, label, real in zip(query.x, query.y.tolist(), query.mask.tolist(), strict=True):
        for k in range(WAY) if real else ():
            for b in members(support, k):
                p = 1 / (1 + (-same(learner, a, b)).exp())
                losses[k == label].append(-(p if k == label else 1 - p).log())
    assert len(losses[True]) == 3 * 3 + 2 * 2 + 2 * 2 and len(losses[False]) == 7 * 7 - 17
    expected = sum(sum(part) / len(part) for part in losses.values()) / 2
    torch.testing.assert_close(learner.objective(support, query), expected, **EXACT)


def convolved(x: Tensor, weight: Tensor) -> Tensor:
    """A 3x3 convolution of `[c, h, w]`, zeros around it."""
    _, height, width = x.shape
    around = x.new_zeros(x.shape[0], height + 2, width + 2)
    around[:, 1:-1, 1:-1] = x
    places = [(i, j) for i in range(3) for j in range(3)]
    return sum(
        torch.einsum("oi,ihw->ohw", weight[:, :, i, j], around[:, i : i + height, j : j + width]) for i, j in places
    )  # type: ignore[return-value]


def normalised(x: Tensor, groups: int, weight: Tensor, bias: Tensor) -> Tensor:
    parts = []
    for part in x.chunk(groups):
        parts.append((part - part.mean()) / (part.var(correction=0) + 1e-5).sqrt())
    return torch.cat(parts) * weight[:, None, None] + bias[:, None, None]


def pooled(x: Tensor) -> Tensor:
    corners = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return torch.stack(corners).amax(0)


def of_maps(learner: kshot.RelationNet, pair: Tensor) -> Tensor:
    """Two blocks of convolution, norm, ReLU and pooling, then two linear layers (sec. 3.4)."""
    convolutions = [m for m in learner.relation.modules() if isinstance(m, torch.nn.Conv2d)]
    norms = [m for m in learner.relation.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert len(convolutions) == len(norms) == 2
    for convolution, norm in zip(convolutions, norms, strict=True):
        pair = normalised(convolved(pair, convolution.weight), 2, norm.weight, norm.bias)
        pair = pooled(pair.clamp(min=0))
    return perceptron(linears(learner.relation), pair.reshape(-1))


def of_vectors(learner: kshot.RelationNet, pair: Tensor) -> Tensor:
    return perceptron(linears(learner.relation), pair)


@pytest.mark.parametrize("kind", ["vectors", "maps"])
def test_relation_scores_a_classs_mean_beside_the_query(kind: str) -> None:
    """g(concat(class, query)) (eq. 1, with the mean in place of the sum), whose squared error is the loss (eq. 2)."""
    if kind == "vectors":
        learner, shape, g = kshot.RelationNet(models.MLP(5, hidden=()), hidden=6), (5,), of_vectors
    else:
        backbone = models.Conv4(1, channels=16, image_size=32, pools=2, flatten=False)
        learner, shape, g = kshot.RelationNet(backbone, hidden=6), (16, 8, 8), of_maps
    learner = learner.double()
    randomised(learner.relation)
    support, query = examples(*shape), examples(*shape, seed=3)
    with torch.no_grad():
        found = learner.predict(learner.adapt(support), query.x)
        assert found.shape == (query.size, WAY)
        expected = torch.zeros_like(found)
        for i in range(query.size):
            for k in range(WAY):
                expected[i, k] = g(learner, torch.cat([mean_of(support, k), query.x[i]]))[0]
        torch.testing.assert_close(found, expected, **EXACT)
        torch.testing.assert_close(learner.loss(found, query), squared_error(expected, query), **EXACT)


def squared_error(scores: Tensor, query: Examples) -> Tensor:
    errors = []
    for row, label, real in zip(scores, query.y.tolist(), query.mask.tolist(), strict=True):
        there = [k for k in range(WAY) if real and query.classes[k]]
        errors += [(1 / (1 + (-row[k]).exp()) - float(k == label)) ** 2 for k in there]
    return sum(errors) / len(errors)


def test_siamese_pairs_begin_undecided():
    """A bias that begins at zero takes thousands of steps to where half of the pairs are alike."""
    torch.manual_seed(0)
    z = torch.randn(100, 64).relu()  # what batch norm and a rectifier leave
    logits = kshot.SiameseNet(models.MLP(8, hidden=(), out_features=64)).same(z, z)
    assert abs(logits[~torch.eye(100, dtype=torch.bool)].mean().item()) < 1
