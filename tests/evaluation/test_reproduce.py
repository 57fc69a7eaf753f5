"""Reproductions: the committed ones make sense, and one is run, kept, shown and taken up again."""

from __future__ import annotations

import json

import pytest
import torch

import kshot
from kshot import tasks
from kshot.errors import ConfigError, KshotError, UnsupportedError
from kshot.evaluation import by_instance
from kshot.evaluation import reproduction_table as tables
from kshot.evaluation.reproduction import read_result, reproduce
from kshot.evaluation.reproduction_spec import Row, load, names, parse
from kshot.training.config import build_source, resolve

SPEC = {
    "title": "ProtoNet",
    "paper": "a test",
    "paper_budget": "many steps",
    "config": {
        "learner": "protonet",
        "backbone": {"name": "conv4", "channels": 4},
        "data": {"name": "digits", "way": 3, "shot": 1, "query": 2, "options": {"size": 16}},
        "training": {"steps": 2, "meta_batch": 1, "val_tasks": 2},
    },
    "profiles": {"cpu": {}, "full": {"training.steps": 3}},
    "rows": [
        {"setting": "3-way", "published": 99.9, "within": 1, "count": 20},
        {"setting": "2-way", "above_untrained": -100, "tasks": {"way": 2}, "count": 20},
        {"setting": "its own", "measure": "score", "count": 20, "profiles": ["full"]},
    ],
}


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = json.loads(json.dumps(SPEC))
    content["config"]["data"] = {"name": "glyphs", "way": 3, "shot": 1, "query": 2}
    return parse(content, "mine")


@pytest.mark.parametrize("name", names())
def test_a_committed_reproduction_can_be_built(name):
    """Its profiles are configurations, its rows are of settings that the learner can do."""
    spec = load(name)
    for profile in spec.profiles:
        assert spec.rows_of(profile), f"nothing is measured in the {profile} profile"
    for profile in spec.profiles:
        config = spec.run_config(profile)
        assert config.training.seed == 0
        assert spec.digest(profile) == spec.digest(profile) != spec.digest(profile, seed=1)
        for row in spec.rows_of(profile):
            if row.against is not None:
                assert row.against in names()


@pytest.mark.parametrize("name", [n for n in names() if n.startswith(("functions", "sinusoid"))])
def test_generated_tasks_fit_their_learner(name):
    spec = load(name)
    config = spec.run_config("cpu")
    source = build_source(config)
    assert resolve(config, source).learner.name
    for row in spec.rows:
        assert source.test.replace(**row.tasks).sample(2, seed=0).support.mask.all()


def test_a_reproduction_is_trained_measured_and_kept(spec, tmp_path):
    said = []
    result = reproduce(spec, out="runs", results="kept", say=said.append)
    assert [one.setting for one in result.outcomes] == ["3-way", "2-way"]
    first, second = result.outcomes
    assert first.reached is False
    assert second.reached is True
    assert second.untrained is not None
    assert result.training["steps"] == 2
    assert (tmp_path / "kept" / result.log).read_text().count("\n") >= 1
    assert read_result(spec, "cpu", "kept") == result
    assert set(result.environment) >= {"commit", "cpu", "threads"}

    again = reproduce(spec, out="runs", results="kept", say=said.append)
    assert "trained already" in said[-3]
    assert [one.ours for one in again.outcomes] == [one.ours for one in result.outcomes]


def test_the_table_has_what_was_run_and_what_was_not(spec, monkeypatch):
    found = [(spec, None)]
    assert tables.rows(found)[0] == ["ProtoNet", "3-way", "99.9", "-", "", "", "", "not run"]
    result = reproduce(spec, out="runs", results="kept", say=lambda _: None)
    found = [(spec, result)]
    row = tables.rows(found)[0]
    assert row[0] == "ProtoNet"
    assert row[-1] == "not reached"
    assert "±" in row[3]
    (short,) = tables.shortfalls(found)
    assert short.startswith("ProtoNet, 3-way: trained")
    assert short.endswith("2 steps of 1 task; the paper many steps")
    spec.rows[0].reason = "the tasks are too hard"  # found out later: the result stays what it was
    assert tables.shortfalls(found) == ["ProtoNet, 3-way: the tasks are too hard"]
    assert tables.to_dict(found)[0]["shortfalls"] == tables.shortfalls(found)
    assert tables.markdown(found).count("|") > 20
    monkeypatch.setattr(tables, "load", lambda _: spec)
    assert tables.entries("kept", only=["mine"])[0][1] is not None
    spec.config["training"]["steps"] = 5  # a result of another configuration is none
    assert tables.entries("kept", only=["mine"])[0][1] is None


def test_trying_it_out_keeps_nothing(spec, tmp_path):
    reproduce(spec, out="runs", results="kept", tasks=4, say=lambda _: None)
    assert not (tmp_path / "kept").exists()


def test_what_there_is_not(spec, tmp_path):
    with pytest.raises(
        ConfigError, match="there is no reproduction 'omniglot-protonett'. Did you mean 'omniglot-protonet'"
    ):
        load("omniglot-protonett")
    with pytest.raises(ConfigError, match="mine has no profile 'gpu', only cpu and full"):
        spec.run_config("gpu")
    with pytest.raises(ConfigError, match="reproduction x: rows.0.within"):
        parse({**SPEC, "rows": [{"setting": "a", "within": "near"}]}, "x")
    (tmp_path / "mine.cpu.json").write_text("{}")
    with pytest.raises(KshotError, match="is not the result of a reproduction"):
        read_result(spec, "cpu", tmp_path)


def test_accuracy_by_instance_counts_the_examples_of_a_class_as_they_come():
    """A learner that answers with the label that it saw last for the same input is right from the second one on."""

    class Remembers(kshot.LSTMLearner):
        def online(self, support):
            outputs = torch.zeros(*support.y.shape, 5)
            for i in range(1, support.size):
                same = (support.x[:, i : i + 1] - support.x[:, :i]).abs().sum(-1) < 1e-3
                labels = torch.nn.functional.one_hot(support.y[:, :i], 5).float()
                outputs[:, i] = (same.unsqueeze(-1) * labels).sum(1)
            outputs[..., 0] += 0.5
            return outputs

        def features(self, x):
            return x.mean((-1, -2, -3))[:, None].round(decimals=6)

    source = tasks.load("glyphs", way=5, shot=3, query=1)
    pool = source.test.pool
    learner = Remembers(kshot.models.MLP(1, hidden=()), way=5)
    found = by_instance(learner, source.test, 20)
    assert found.shape == (20, 3)
    assert pool is not None
    assert float(found[:, 0].mean()) == pytest.approx(0.2, abs=0.1)  # it answers 0 where it has seen nothing
    with pytest.raises(UnsupportedError, match="ProtoNet answers after its support"):
        by_instance(kshot.ProtoNet(kshot.models.Conv4(1)), source.test, 2)


def test_a_row_may_predict_with_the_other_norm(spec):
    learner = kshot.MAML(kshot.models.Conv4(1, channels=4), way=3, norm="batch").eval()
    inductive = learner.with_norm("support")
    assert learner.transductive
    assert not inductive.transductive
    row = Row(setting="inductive", norm="support", count=4)
    from kshot.evaluation.measures import measure

    source = tasks.load("glyphs", way=3, shot=1, query=2)
    assert not measure(learner, source, row, 4, None).transductive
    with pytest.raises(UnsupportedError, match="ProtoNet adapts no norm layers"):
        measure(kshot.ProtoNet(kshot.models.Conv4(1)), source, row, 4, None)
