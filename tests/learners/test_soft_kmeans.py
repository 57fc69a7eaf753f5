"""Soft k-means on unlabelled examples: closed forms of a step, the variants, and what they do to distractors."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import kshot
from kshot import engine, models, testing
from kshot.episodes import Examples, Unlabeled
from kshot.errors import SupportError, UnsupportedError
from kshot.learners import Learner
from kshot.learners.soft_kmeans import VARIANTS
from kshot.randomness import seeded


class Raw(models.Backbone):
    """Features that are the inputs."""

    out_features = 2

    def forward(self, x):
        return x


def build(variant, **options):
    with seeded(0):
        return kshot.SoftKMeansProtoNet(Raw(), variant, **options).double().eval()


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


SUPPORT = Examples.of(tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0]]), torch.tensor([0, 1, 1]))
UNLABELED = tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 3.0], [-1.0, 0.5]])
MEANS = [[0.0, 0.0], [2.0, 1.0]]


def squared(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def step_by_hand(weight):
    """A step of soft k-means for weights given as a function of (example, class), by plain loops."""
    result = []
    for c, (points, count) in enumerate([([[0.0, 0.0]], 1), ([[2.0, 0.0], [2.0, 2.0]], 2)]):
        total, place = float(count), [sum(p[i] for p in points) for i in range(2)]
        for j, u in enumerate(UNLABELED.tolist()):
            w = weight(j, c)
            total += w
            place = [place[i] + w * u[i] for i in range(2)]
        result.append([v / total for v in place])
    return tensor(result)


def softmax_by_hand(j, c, scale=1.0, others=()):
    logits = [-scale * squared(UNLABELED[j].tolist(), m) for m in MEANS]
    return math.exp(logits[c]) / sum(math.exp(v) for v in [*logits, *others])


def adapted(learner, support=SUPPORT, **options):
    return learner.adapt(replace(support, unlabeled=Unlabeled.of(UNLABELED)), **options)["prototypes"]


def test_plain_is_equation_4():
    torch.testing.assert_close(adapted(build("plain")), step_by_hand(softmax_by_hand))
    expected = step_by_hand(lambda j, c: softmax_by_hand(j, c, scale=0.3))
    torch.testing.assert_close(adapted(build("plain", scale=0.3)), expected)


def test_the_distractors_cluster_is_equations_5_and_6():
    radius = 2.0

    def weight(j, c):
        other = -squared(UNLABELED[j].tolist(), [0.0, 0.0]) / radius**2 - math.log(radius)
        return softmax_by_hand(j, c, others=[other])  # log(2 pi) / 2 is in every logit

    torch.testing.assert_close(adapted(build("distractor", radius=radius)), step_by_hand(weight))


def test_masked_is_equations_7_to_9():
    learner = build("masked")
    distance = [[squared(u, m) for u in UNLABELED.tolist()] for m in MEANS]

    def weight(j, c):
        d = [v / (sum(distance[c]) / 4) for v in distance[c]]
        centre = sum(d) / 4
        variance = sum((v - centre) ** 2 for v in d) / 4
        moments = [sum(((v - centre) / math.sqrt(variance + 1e-6)) ** k for v in d) / 4 for k in (3, 4)]
        statistics = tensor([min(d), max(d), variance, moments[0], moments[1] - 3])
        beta, gamma = learner.gate(statistics).exp().tolist()
        assert beta == pytest.approx(1, abs=0.2), "near one at first"
        return softmax_by_hand(j, c) / (1 + math.exp(gamma * (d[j] - beta)))

    torch.testing.assert_close(adapted(learner), step_by_hand(weight))


def test_two_steps_are_a_step_from_where_the_first_ended():
    learner = build("plain", steps=2)
    first = adapted(learner, steps=1)
    weights = (-kshot.squared_distance(UNLABELED, first)).softmax(-1)
    sums = tensor([[0.0, 0.0], [4.0, 2.0]]) + weights.T @ UNLABELED
    torch.testing.assert_close(adapted(learner), sums / (tensor([1.0, 2.0]) + weights.sum(0))[:, None])


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_unlabelled_examples_it_is_a_protonet(variant):
    learner, plain = build(variant, scale=0.5), kshot.ProtoNet(Raw(), scale=0.5).double()
    episodes = testing.gaussian_episodes(3, dtype=torch.float64, unlabeled=4, distractors=2)
    without = engine.predict_queries(plain, episodes, "native")
    assert torch.equal(engine.predict_queries(learner, episodes.without_unlabeled(), "native"), without)
    assert torch.equal(engine.predict_queries(learner, episodes, "native", steps=0), without)
    nothing = replace(episodes.support.unlabeled, mask=torch.zeros_like(episodes.support.unlabeled.mask))
    masked = replace(episodes, support=replace(episodes.support, unlabeled=nothing))
    assert torch.equal(engine.predict_queries(learner, masked, "native"), without)
    assert not torch.equal(engine.predict_queries(learner, episodes, "native"), without)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_far_from_everything_changes_little_but_for_the_plain_one(variant):
    """One example of a class, one unlabelled beside it, and a crowd of distractors far away from both classes."""
    learner = build(variant, radius=10.0)
    if variant == "masked":
        with torch.no_grad():
            learner.gate[-1].bias.copy_(tensor([math.log(0.5), math.log(20.0)]))  # what it learns: half of the mean
    support = Examples.of(tensor([[0.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 1]))
    unlabeled = torch.cat([tensor([[0.5, 0.0], [4.5, 0.0]]), tensor([[2.0, 30.0]]).expand(6, 2)])
    moved = learner.adapt(replace(support, unlabeled=Unlabeled.of(unlabeled)))["prototypes"]
    if variant == "plain":
        assert (moved[:, 1] > 15).all()
    else:
        torch.testing.assert_close(moved, tensor([[0.25, 0.0], [4.25, 0.0]]), atol=0.05, rtol=0)


@pytest.mark.parametrize("variant", ["distractor", "masked"])
def test_a_trained_learner_tells_distractors(variant):
    with seeded(0):
        learner = kshot.SoftKMeansProtoNet(models.MLP(8, hidden=(32,), out_features=16), variant)
        optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
        for step in range(150):
            losses = learner(testing.gaussian_episodes(16, step=step, shot=1, unlabeled=4, distractors=5))
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
    episodes = testing.gaussian_episodes(100, seed=7, shot=1, unlabeled=4, distractors=5)
    with torch.no_grad():
        featured = engine.with_features(learner, episodes)
        support, unlabeled = featured.support, featured.support.unlabeled
        weights = learner.weights(kshot.class_means(support), unlabeled.x, unlabeled.mask, support.classes).sum(-1)
        own, others = weights[:, :20].mean(), weights[:, 20:].mean()
    assert own > 0.7, own
    assert others < 0.3, others
    with_them, without = (
        float((engine.predict_queries(learner, e, "native").argmax(-1) == e.query.y).float().mean())
        for e in (episodes, episodes.without_unlabeled())
    )
    assert with_them > without


def test_bad_arguments():
    with pytest.raises(UnsupportedError, match="a variant of plain, distractor, masked, .* got 'hard', 1 and 100.0"):
        kshot.SoftKMeansProtoNet(Raw(), "hard")
    with pytest.raises(UnsupportedError, match="at least 0 steps and a positive radius, got 'plain', -1 and 100.0"):
        kshot.SoftKMeansProtoNet(Raw(), "plain", steps=-1)
    with pytest.raises(UnsupportedError, match="for regression use MAML"):
        kshot.SoftKMeansProtoNet.tiny("regression")


@pytest.fixture
def small():
    with seeded(0):
        return kshot.SoftKMeansProtoNet(models.MLP(2, hidden=(8,)), "plain")


def test_adapt_takes_unlabelled_examples(small):
    x, labels, more = torch.randn(4, 2), ["a", "b", "a", "b"], torch.randn(5, 2)
    queries = torch.randn(3, 2)
    model = kshot.adapt(small, (x, labels), unlabeled=more)
    y = torch.tensor([0, 1, 0, 1])
    own = replace(Examples.of(x, y), unlabeled=Unlabeled.of(more))
    assert torch.equal(kshot.adapt(small, own).predict(queries), model.predict(queries))
    assert torch.equal(kshot.adapt(small, (x, labels), unlabeled=more.numpy()).predict(queries), model.predict(queries))
    alone = kshot.adapt(small, (x, labels)).predict(queries)
    assert not torch.equal(alone, model.predict(queries))
    assert torch.equal(kshot.adapt(small, (x, labels), unlabeled=more, steps=0).predict(queries), alone)
    assert torch.equal(kshot.adapt(small, (x, labels), unlabeled=more[:0]).predict(queries), alone)
    assert model.classify(queries)


@pytest.mark.parametrize(
    ("unlabeled", "message"),
    [
        (torch.randn(3, 4), r"expected unlabeled examples of shape \[n, 2\], got \[3, 4\]"),
        (torch.tensor([[0.0, float("nan")]]), "the unlabeled examples hold NaN or infinite values"),
        (object(), "expected the unlabeled examples as a tensor or a numeric array, got object"),
    ],
)
def test_bad_unlabelled_examples(small, unlabeled, message):
    with pytest.raises(SupportError, match=message):
        kshot.adapt(small, (torch.randn(2, 2), [0, 1]), unlabeled=unlabeled)


def test_unlabelled_examples_twice_and_for_nothing(small):
    own = replace(Examples.of(torch.randn(2, 2), torch.tensor([0, 1])), unlabeled=Unlabeled.of(torch.randn(2, 2)))
    with pytest.raises(SupportError, match="there twice: in the support set and as unlabeled"):
        kshot.adapt(small, own, unlabeled=torch.randn(3, 2))
    plain = kshot.ProtoNet(models.MLP(2, hidden=(8,)))
    assert kshot.adapt(plain, own).predict(torch.randn(1, 2)).shape == (1, 2)
    with pytest.raises(
        UnsupportedError,
        match=r"ProtoNet makes no use of unlabelled examples: leave unlabeled out, or use a learner that does \(.*Soft",
    ):
        kshot.adapt(plain, (torch.randn(2, 2), [0, 1]), unlabeled=torch.randn(3, 2))


def test_who_is_semi_supervised():
    assert not Learner.semi_supervised
    assert kshot.SoftKMeansProtoNet.semi_supervised
    assert not kshot.TransductiveProtoNet.semi_supervised
