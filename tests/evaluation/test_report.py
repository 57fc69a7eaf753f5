"""The value table, the ceiling, and the report as one file."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import pytest
import torch
from toy_sources import train

import kshot
from kshot.errors import RunError
from kshot.evaluation import (
    Budget,
    Evaluation,
    conventional_network,
    evaluate,
    full_report,
    supervised_ceiling,
    value,
    write_report,
)
from kshot.evaluation.value import FORMULA, shots_needed
from kshot.randomness import seeded

SMALL = Budget(
    tasks=30,
    baseline_tasks=10,
    measure_tasks=10,
    shots=(1, 5),
    ceiling=(320, 6),
    scaling_steps=3,
    scaling_seconds=60.0,
    label_baselines=("linear_probe", "ridge"),
    seconds=math.inf,
)


def test_shots_needed():
    assert shots_needed([1, 2, 5], [0.6, 0.7, 0.85], 0.5, "accuracy") == 1
    assert shots_needed([1, 2, 5], [0.6, 0.7, 0.85], 0.775, "accuracy") == pytest.approx(3.5)
    assert shots_needed([1, 2, 5], [0.6, 0.7, 0.85], 0.9, "accuracy") == math.inf
    assert shots_needed([5, 10], [2.0, 1.0], 1.5, "mse") == pytest.approx(7.5)


def test_the_value_table(trained, clouds):
    network, _ = conventional_network(trained, clouds)
    found = value(trained, clouds.test, network=network, tasks=60)
    assert found.saved == max(0, min(found.needed.values()) - 1) * 5
    assert found.training_seconds == 3
    if found.break_even is not None and math.isfinite(found.break_even):
        assert found.break_even == pytest.approx(3 / (found.tune_seconds - found.adapt_seconds))
    assert FORMULA in str(found)
    json.dumps(found.to_dict(), allow_nan=False)


def test_value_without_what_it_needs(clouds):
    with seeded(0):
        learner = kshot.ProtoNet(kshot.models.MLP(8))
    found = value(learner, clouds.test, tasks=10)
    assert (found.needed, found.saved, found.break_even) == ({}, None, None)
    sampled = kshot.tasks.make_split(clouds.test.pool, clouds.transform, "test", sampling="meta_dataset")
    assert "labels saved not measured" in value(learner, sampled, tasks=10).notes[0]


def test_the_ceiling_is_above_few_shots(trained, clouds):
    found = supervised_ceiling(trained, clouds.test, examples=48_000, tasks=50)
    assert found.held_out == 5
    assert (found.classes, found.examples) == (10, 150)
    assert found.score.mean > evaluate(trained, clouds.test, 100, baselines=False).interval.mean
    assert supervised_ceiling(trained, kshot.tasks.load("lines").test) is None


class Checker(HTMLParser):
    """Collects what a page refers to, and checks that its elements are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "data", "action")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_page(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert all(link.startswith("data:image/png;base64,") for link in checker.links)
    assert not checker.tags & {"script", "link", "iframe"}
    assert not re.search(r"https?://|@import|url\(", text)
    return checker


@pytest.fixture(scope="module")
def image_run(places):
    with seeded(0):
        learner = kshot.ProtoNet(kshot.models.Conv4(1, channels=8, image_size=16))
    return train(learner, places, steps=10)


def test_a_full_report_is_one_file(image_run, places, tmp_path):
    said = []
    report = full_report(
        image_run, places, tmp_path, budget=SMALL, with_stress=True, progress=lambda *what: said.append(what)
    )
    assert (report.html, report.json) == (tmp_path / "report.html", tmp_path / "report.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]
    page = report.html.read_text(encoding="utf-8")
    checker = check_page(page)
    assert len(checker.links) == 6
    from PIL import Image

    for link in checker.links:
        Image.open(io.BytesIO(base64.b64decode(link.partition(",")[2]))).verify()
    for words in (
        "How good is it on unseen tasks?",
        "What is meta-training worth?",
        "What do more labels gain?",
        "Audit",
        "What would more training classes gain?",
        "What does it bear?",
        "Is its confidence right?",
        report.audit.recommendation.split("'")[0],
    ):
        assert words in page
    document = json.loads(report.json.read_text(encoding="utf-8"))
    assert document["evaluation"]["mean"] == report.evaluation.interval.mean
    assert len(document["evaluation"]["per_task"]) == 30
    assert document["value"]["ceiling"]["classes"] == 5
    assert document["stress"]["conditions"]
    assert document["learner"]["name"] == "ProtoNet"
    assert {what for what, _, _ in said} >= {"unseen tasks", "baselines", "audit", "value", "stress"}
    assert "Report: " in str(report)


def test_the_same_seed_gives_the_same_numbers(trained, clouds, tmp_path):
    def numbers(folder):
        report = full_report(trained, clouds, tmp_path / folder, budget=SMALL)
        found = json.loads(report.json.read_text(encoding="utf-8"))
        timed = ("seconds", "adapt_seconds", "fine_tune_seconds", "break_even_tasks", "seconds_per_task")

        def timeless(node):
            if isinstance(node, dict):
                return {key: timeless(item) for key, item in node.items() if key not in timed}
            return [timeless(item) for item in node] if isinstance(node, list) else node

        return timeless(found)

    assert numbers("first") == numbers("second")


def test_a_report_of_a_regressor(regressor, sinusoids, tmp_path):
    report = full_report(regressor, sinusoids, tmp_path / "r.html", budget=SMALL)
    page = report.html.read_text(encoding="utf-8")
    check_page(page)
    assert report.json == tmp_path / "r.json"
    assert "What do more inner steps gain?" in page
    assert "another task&#x27;s support" in page
    assert [curve.over for curve in report.curves] == ["shots", "steps"]


def test_an_evaluation_made_before_is_not_made_again(trained, clouds, tmp_path):
    evaluation = evaluate(trained, clouds.test, 20, baseline_tasks=5)
    report = full_report(trained, clouds, tmp_path, budget=SMALL, evaluation=evaluation)
    assert report.evaluation is evaluation
    late = Budget(**{**vars(SMALL), "seconds": 0.0})
    report = full_report(trained, clouds, tmp_path, budget=late, evaluation=evaluation)
    assert "ceiling left out: the time for a quick report was spent" in report.notes[0]
    assert report.audit is not None


def test_what_users_write_is_escaped(tmp_path):
    evaluation = Evaluation(
        "ProtoNet",
        "accuracy",
        torch.tensor([0.5, 1.0], dtype=torch.float64),
        torch.tensor([[0], [0]]),
        ("<script>alert('class')</script>",),
        False,
        settings={"data": "<b>", "tasks": "&"},
        notes=["<i>"],
    )
    report = write_report(tmp_path / "out", evaluation, title="<img src=x>", notes=["</pre>"])
    checker = check_page(report.html.read_text(encoding="utf-8"))
    assert not checker.tags & {"b", "i"}
    assert "&lt;script&gt;" in report.html.read_text(encoding="utf-8")


def test_no_permission(trained, clouds, tmp_path):
    (tmp_path / "file").write_text("")
    evaluation = evaluate(trained, clouds.test, 4, baselines=False)
    with pytest.raises(RunError):
        write_report(tmp_path / "file" / "out", evaluation)
