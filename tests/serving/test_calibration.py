"""What is measured of a model before any tenant's task."""

from __future__ import annotations

import math

import pytest
import torch

import kshot
from kshot import engine
from kshot.serving.calibration import (
    calibrate,
    calibration_of,
    fit_distances,
    fit_temperature,
    fit_threshold,
    log_distances,
    reference,
)
from kshot.serving.registering import calibrated
from kshot.serving.served import ServedModel
from kshot.serving.store.database import Database


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_the_temperature_is_found(true: float) -> None:
    """Labels drawn from the softmax of logits at a temperature: it is what explains them best."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20_000, 5, generator=generator)
    targets = torch.multinomial((logits / true).softmax(-1), 1, generator=generator).squeeze(-1)
    assert fit_temperature(logits, targets) == pytest.approx(true, rel=0.05)


def test_the_threshold_is_the_lowest_that_is_right_enough() -> None:
    confidence = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    right = torch.tensor([True, True, False, True, False])
    assert fit_threshold(confidence, right, 0.75) == pytest.approx(0.6)
    assert fit_threshold(confidence, right, 1.0) == pytest.approx(0.8)
    assert fit_threshold(confidence, ~right, 1.0) == pytest.approx(0.9), "none is: only what is as sure as the surest"


def test_distances() -> None:
    support = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0], [0.0, 7.0]])
    far = log_distances(torch.tensor([[0.0, math.e], [3.0, 4.0 - math.e]]), support)
    torch.testing.assert_close(far, torch.tensor([1.0, 1.0]))
    # Each to the nearest of its own class; the last one is alone in its.
    assert reference(support, torch.tensor([0, 0, 0, 1])) == pytest.approx((math.log(5) + 0 + 0) / 3, abs=1e-6)
    assert reference(support, torch.tensor([0, 1, 0, 1])) == pytest.approx(
        (2 * math.log(34) / 2 + 2 * math.log(18) / 2) / 4
    )
    assert reference(support, torch.arange(4)) == 0.0


def test_how_far_queries_lie_follows_from_how_far_examples_do() -> None:
    """Tasks of known spread: the line is found, and what is left is told apart into task and query."""
    generator = torch.Generator().manual_seed(0)
    references = torch.randn(2_000, generator=generator).tolist()
    far = [
        0.5 + 0.7 * r + 0.1 * torch.randn(1, generator=generator) + 0.4 * torch.randn(25, generator=generator)
        for r in references
    ]
    found = fit_distances(far, references)
    assert found["mean"] == pytest.approx(0.5, abs=0.02)
    assert found["slope"] == pytest.approx(0.7, abs=0.02)
    assert found["within"] == pytest.approx(0.16, rel=0.1)
    assert found["between"] == pytest.approx(0.01, rel=0.2)
    alone = fit_distances(far, [0.0] * len(far))
    assert alone["slope"] == 0.0
    assert alone["between"] == pytest.approx(0.01 + 0.49, rel=0.1)


def test_it_holds_for_other_tasks(model: ServedModel) -> None:
    source = kshot.tasks.load("glyphs", way=5, shot=5, query=5)
    found = calibrate(model, source.val, tasks=30)
    others = calibrate(model, source.test, tasks=30, seed=1)
    assert found["split"] == "val"
    assert list(found["shots"]) == ["1", "2", "5", "10"]
    for shot, one in found["shots"].items():
        assert one["accuracy"] > 0.8
        assert 0 < one["threshold"] < 1
        assert (one["drift"]["slope"] == 0.0) == (shot == "1"), "one example of a class says nothing of how it varies"
    for known in (found, others):
        assert known["shots"]["1"]["drift"]["mean"] == pytest.approx(found["shots"]["1"]["drift"]["mean"], abs=0.2)
    assert found["shots"]["1"]["accuracy"] < found["shots"]["10"]["accuracy"]
    named = ServedModel("a", "-", "0", model.learner, model.adapter, found)
    assert named.calibrated(5.5) == found["shots"]["5"]
    assert named.calibrated(1000) == found["shots"]["10"]


def test_it_is_measured_once(database: Database) -> None:
    model = ServedModel.load("characters")
    calibrated(database, model, tasks=4)
    assert model.calibration["tasks"] == 4
    again = ServedModel.load("characters")
    again.adapter = None  # type: ignore[assignment]
    calibrated(database, again, tasks=4)
    assert again.calibration == model.calibration


def test_what_cannot_be_calibrated_says_why() -> None:
    learner = kshot.ProtoNet(kshot.models.MLP(4, hidden=(4,)))
    bare = ServedModel("bare", "-", "0", learner, learner)
    assert calibration_of(bare) == ({}, "what it was trained on is not recorded")
    learner.provenance = {"source": {"name_or_path": "none/here"}}
    found, problem = calibration_of(bare)
    assert found == {}
    assert problem.startswith("its data cannot be loaded (there is no file or folder none/here")


@pytest.mark.parametrize("shot", [1, 5])
def test_answers_that_are_given_are_right_on_unseen_classes(model: ServedModel, shot: int) -> None:
    """Of classes that were neither trained nor calibrated on: 95% was asked for, on tasks of val."""
    known = model.calibrated(shot)
    episodes = kshot.tasks.load("glyphs", way=5, shot=shot, query=5).test.sample(100, seed=3)
    logits = engine.predict_queries(model.adapter, episodes, "native")
    confidence, predicted = (logits / known["temperature"]).softmax(-1).max(-1)
    given = confidence >= known["threshold"]
    right = (predicted == episodes.query.y)[given].double().mean()
    assert given.double().mean() > 0.5
    assert right > 0.92
