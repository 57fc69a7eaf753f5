"""Who may take the place of the served learner: better on the new tasks, no worse on the old."""

from __future__ import annotations

import json

import pytest
import torch

import kshot
from kshot.artifacts import load_learner
from kshot.datasets.pool import Pool
from kshot.errors import OverlappingSplitsError, UnsupportedError
from kshot.evaluation.promotion import Promotion, promotion
from kshot.metrics import Interval
from kshot.tasks import FewShotTasks


def learner(noise: float) -> kshot.ProtoNet:
    """The shipped one, its weights disturbed."""
    found, _ = load_learner("characters")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter += noise * parameter.abs().mean() * torch.randn(parameter.shape, generator=generator)
    assert isinstance(found, kshot.ProtoNet)
    return found


def test_the_better_one_is_promoted_and_the_worse_one_is_not() -> None:
    source = kshot.tasks.load("glyphs", way=5, shot=1, query=5)
    other = kshot.tasks.load("glyphs", way=10, shot=1, query=5)
    good, bad = learner(0.0), learner(2.0)
    found = promotion(good, bad, source.test, other.test, tasks=40)
    assert found.promoted
    assert found.gain.low > 0
    assert found.new[1].mean - found.new[0].mean == pytest.approx(found.gain.mean)
    refused = promotion(bad, good, source.test, other.test, tasks=40)
    assert not refused.promoted
    assert refused.gain.mean == pytest.approx(-found.gain.mean)
    better, forgets = refused.problems
    assert better.startswith("it is not surely better on the new tasks: -")
    assert "where at most 0.5 may be lost: train it with a larger share of them (--replay)" in forgets
    same = promotion(good, learner(0.0), source.test, other.test, tasks=10)
    assert same.problems == ["it is not surely better on the new tasks: +0.00 points (95% interval +0.00 to +0.00)"]
    assert json.loads(json.dumps(same.to_dict()))["promoted"] is False


@pytest.mark.parametrize(
    ("gain", "change", "promoted"),
    [
        ((0.02, 0.01), (-0.004, 0.002), True),  # within the tolerance
        ((0.02, 0.01), (-0.006, 0.01), False),
        ((0.02, 0.02), (0.01, 0.0), False),  # an interval that holds zero
        ((0.02, 0.01), (0.03, 0.01), True),
    ],
)
def test_the_rule(gain: tuple[float, float], change: tuple[float, float], promoted: bool) -> None:
    same = (Interval(0.9, 0.01, 600), Interval(0.9, 0.01, 600))
    found = Promotion(same, same, Interval(*gain, 600), Interval(*change, 600), 0.005, 600)
    assert found.promoted is promoted


def test_values_are_not_judged() -> None:
    source = kshot.tasks.load("sinusoids")
    with pytest.raises(UnsupportedError, match="expected tasks of classes"):
        promotion(learner(0.0), learner(0.0), source.test, source.test)


def test_both_are_asked_about_the_same_classes() -> None:
    source = kshot.tasks.load("glyphs", way=5, shot=1, query=5)
    candidate, served = learner(0.0), learner(2.0)
    splits = candidate.provenance["splits"]
    # Its run held some of the test classes back from testing: it is not judged on them, so that the tasks are others.
    candidate.provenance = {**candidate.provenance, "splits": {**splits, "test": splits["test"][:100]}}
    with pytest.raises(UnsupportedError, match="the tasks of the two differ: one has seen some of their classes"):
        promotion(candidate, served, source.test, source.test, tasks=10)


def test_a_class_that_one_has_seen_an_example_of_is_left_out() -> None:
    source = kshot.tasks.load("glyphs", way=5, shot=1, query=5)
    train, test = source.train.pool, source.test.pool
    assert train is not None
    assert test is not None
    # An alphabet of which the first class has a picture that both were trained on.
    rows = [train.rows(0)[:6], *(test.rows(c)[:6] for c in range(1, 11))]
    images = torch.cat([train.x[rows[0]], *(test.x[r] for r in rows[1:])])
    pool = Pool.from_sorted(images, [6] * 11, [f"asked {c}" for c in range(11)])
    asked = FewShotTasks(pool, source.transform, "test", way=5, shot=1, query=5)
    found = promotion(learner(0.0), learner(2.0), asked, source.test, tasks=20)
    assert found.promoted
    with pytest.raises(OverlappingSplitsError, match="asked 0"):
        kshot.evaluate(learner(0.0), asked, 5, baselines=False)
