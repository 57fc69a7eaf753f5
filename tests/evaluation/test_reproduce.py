"""Reproductions: the committed ones make sense, and one is run, kept, shown and taken up again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import kshot
from kshot import tasks
from kshot.artifacts import from_pretrained
from kshot.errors import ConfigError, KshotError, UnsupportedError
from kshot.evaluation import by_instance
from kshot.evaluation import reproduction_table as tables
from kshot.evaluation.evaluate import check_options
from kshot.evaluation.measures import Measured, measure
from kshot.evaluation.reproduction import judge, read_result, reproduce, run_folder, trained
from kshot.evaluation.reproduction_spec import Row, load, names, parse
from kshot.metrics import Interval
from kshot.training.config import build_learner, build_source
from kshot.training.loop import Loop
from kshot.training.validation import check_fits

CLUSTERS = {"labels": "cactus", "clusters": 20, "partitions": 1, "way": 3, "query": 1}

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
def test_a_committed_reproduction_can_be_measured(name):
    """Its profiles are of learners that can do what its rows ask for; drawn glyphs stand in for images."""
    spec = load(name)
    for profile in spec.profiles:
        config = spec.run_config(profile)
        assert spec.digest(profile) != spec.digest(profile, seed=1)
        if config.backbone is not None and config.backbone.weights:  # nothing is trained here
            like = load(config.backbone.weights).run_config(profile)
            config = config.model_copy(update={"backbone": like.backbone})
        source = standing_in(config) if config.data.name in ("omniglot", "cifar_fs") else build_source(config)
        learner = build_learner(config, source)
        rows = spec.rows_of(profile)
        assert rows, f"nothing is measured in the {profile} profile"
        for row in rows:
            split = source.test.replace(**row.tasks)
            check_fits(learner, split, source.example_shape)
            check_options(learner, row.options)
            if row.norm is not None:
                assert learner.with_norm(row.norm).norm == row.norm
            if row.measure == "instance":
                assert row.instance <= split.shot
                assert callable(learner.online)
            if row.measure == "unlabelled":
                assert split.unlabeled_size
            if row.measure == "against":
                assert row.against in names()
            if row.metric == "nll":
                assert learner.outputs == "mean_variance"


def standing_in(config):
    """The tasks of a configuration, with glyphs for its images."""
    data = config.data
    train = {key: value for key, value in (data.train or {}).items() if key in ("way", "shot", "query")}
    more = {key: getattr(data, key) for key in ("unlabeled", "distractors", "labelled") if getattr(data, key, None)}
    return tasks.load("glyphs", way=data.way, shot=data.shot, query=data.query, train=train, **more)


def test_what_a_row_has_to_reach():
    def verdict(ours, half=0.5, metric="accuracy", difference=False, untrained=None, **row):
        found = Measured(Interval(ours, half, 100), metric, False, difference)
        before = None if untrained is None else Measured(Interval(untrained, half, 100), metric, False)
        return judge(Row(setting="a", **row), found, before)

    assert verdict(0.97, published=98.5, within=2).reached
    assert not verdict(0.96, published=98.5, within=2).reached
    assert verdict(0.60, at_least=60).reached
    assert not verdict(0.59, at_least=60).reached
    # Of a difference the whole interval has to lie above.
    gain = {"metric": "points", "difference": True, "measure": "unlabelled", "at_least": 0}
    assert verdict(0.02, 0.01, **gain).reached
    assert verdict(0.02, 0.01, **gain).goal == "above 0, with its interval"
    assert not verdict(0.02, 0.03, **gain).reached
    assert not verdict(0.02, 0.02, **gain).reached
    assert verdict(0.9, metric="mse", at_most=1).reached
    assert not verdict(1.1, metric="mse", at_most=1).reached
    assert verdict(0.6, untrained=0.3, published=99, above_untrained=20).reached
    assert not verdict(0.4, untrained=0.3, published=99, above_untrained=20).reached
    assert verdict(0.6, untrained=0.3, above_untrained=20).goal == "20 points above untrained (30.0)"
    # The published number alone: inside its interval, or within ours where it has none; better is reached, too.
    assert verdict(0.986, 0.01, published=98.8, interval=0.3).reached
    assert not verdict(0.983, 0.01, published=98.8, interval=0.3).reached
    assert verdict(0.983, 0.01, published=98.8).reached
    assert not verdict(0.983, 0.001, published=98.8).reached
    assert verdict(0.36, 0.02, "mse", published=0.35).reached
    assert not verdict(0.38, 0.02, "mse", published=0.35).reached
    assert verdict(0.1).reached is None


def test_the_full_profile_asks_for_the_published_number():
    spec = load("omniglot-maml")
    (cpu, full) = (spec.rows_of(profile)[0] for profile in ("cpu", "full"))
    assert cpu.within == 5
    assert full.within is None
    assert full.published == cpu.published
    assert load("ntm-copy").rows_of("full")[0].at_most == 1  # no number is published


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


def test_untrained_is_the_learner_as_it_began(spec):
    """Its number is that of a learner fresh from the configuration's seed, on the same tasks."""
    result = reproduce(spec, out="runs", results="kept", say=lambda _: None)
    config = spec.run_config("cpu")
    source = build_source(config)
    fresh = build_learner(config, source).eval()
    fresh.transform = source.transform
    row = spec.rows_of("cpu")[1]
    assert result.outcomes[1].untrained == measure(fresh, source, row, row.count, None).percent[0]
    assert result.outcomes[1].goal == f"-100 points above untrained ({result.outcomes[1].untrained:.1f})"
    start = build_learner(config, source).state_dict()
    trained = from_pretrained(run_folder(spec, "cpu", None, "runs")).state_dict()
    assert not all(torch.equal(trained[name], value) for name, value in start.items())


def test_a_reproduction_that_was_broken_off_goes_on(spec, monkeypatch):
    """What was done is not done again, and the result is that of one that was not broken off."""
    whole = reproduce(spec, out="whole", results="kept", say=lambda _: None)
    content = spec.model_copy(
        update={"config": {**spec.config, "training": {**spec.config["training"], "save_every": 1}}}
    )
    done, ordinary = [], Loop._after

    def stopping(self, last):
        ordinary(self, last)
        done.append(self.state.step)
        if len(done) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "_after", stopping)
    with pytest.raises(KeyboardInterrupt):
        reproduce(content, out="runs", results="again", say=lambda _: None)
    found = reproduce(content, out="runs", results="again", say=lambda _: None)
    assert done == [1, 2]
    assert [one.ours for one in found.outcomes] == [one.ours for one in whole.outcomes]


def test_the_table_has_what_was_run_and_what_was_not(spec, monkeypatch):
    found = [(spec, None)]
    assert tables.rows(found)[0] == ["ProtoNet", "3-way", "99.9", "-", "", "", "", "", "not run"]
    result = reproduce(spec, out="runs", results="kept", say=lambda _: None)
    found = [(spec, result)]
    row = tables.rows(found)[0]
    assert row[0] == "ProtoNet"
    assert row[-1] == "not reached"
    assert "±" in row[3]
    assert float(row[4]) == pytest.approx(99.9 - result.outcomes[0].ours, abs=0.01)
    said = "0 minutes of training for 1 of 1 reproductions, the longest 0.0; 0 of measuring"
    assert result.measuring is not None
    assert tables.spent(found) == said
    assert tables.differences(found) == ["ProtoNet (mine, a test)"]
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
    """Of a learner that is right from the third example of a class on, and wrong before."""

    class FromTheThird(kshot.LSTMLearner):
        def online(self, support):
            one_hot = torch.nn.functional.one_hot(support.y, 5).float()
            before = one_hot.cumsum(-2) - one_hot
            seen = before.gather(-1, support.y.unsqueeze(-1))
            return torch.where(seen >= 2, one_hot, one_hot.roll(1, -1))

    source = tasks.load("glyphs", way=5, shot=4, query=1)
    learner = FromTheThird(kshot.models.Conv4(1, channels=4), way=5)
    found = by_instance(learner, source.test, 20)
    assert found.tolist() == [[0.0, 0.0, 1.0, 1.0]] * 20
    with pytest.raises(UnsupportedError, match="ProtoNet answers after its support"):
        by_instance(kshot.ProtoNet(kshot.models.Conv4(1)), source.test, 2)


@pytest.fixture
def gaussian():
    """Predicts mean 0 and variance 4, whatever it sees."""

    class Gaussian(kshot.CNP):
        def predict(self, adapted, x):
            return torch.cat([torch.zeros_like(x), torch.full_like(x, math.log(4.0))], -1)

    return Gaussian(kshot.models.MLP(1, hidden=()))


def test_likelihoods_are_those_of_the_targets(gaussian):
    source = tasks.load("sinusoids", shot=5, query=20)
    found = measure(gaussian.eval(), source, Row(setting="nll", metric="nll"), 10, None)
    y = source.test.sample(10, seed=1).query.y
    by_hand = (0.5 * math.log(2 * math.pi * 4) + y.square() / 8).mean((1, 2))
    assert found.metric == "nll"
    assert found.interval.mean == pytest.approx(float(by_hand.mean()), rel=1e-5)
    with pytest.raises(UnsupportedError, match="predicts no variance, so its targets have no likelihood"):
        measure(
            kshot.MAML(kshot.models.MLP(1, hidden=(4,), out_features=1)),
            source,
            Row(setting="a", metric="nll"),
            2,
            None,
        )


def test_a_row_against_another_learner_is_a_difference_on_the_same_tasks():
    source = tasks.load("glyphs", way=3, shot=1, query=4)
    torch.manual_seed(0)
    one, other = (kshot.ProtoNet(kshot.models.Conv4(1, channels=4)).eval() for _ in range(2))
    row = Row(setting="gain", measure="against", against="other")
    found = measure(one, source, row, 12, other)
    each = [100 * measure(learner, source, Row(setting="a"), 12, None).interval.mean for learner in (one, other)]
    assert found.difference
    assert found.percent[0] == pytest.approx(each[0] - each[1])
    assert measure(one, source, row, 12, one).interval == Interval(0.0, 0.0, 12)


def test_what_unlabelled_examples_bring_is_a_difference_on_the_same_tasks():
    source = tasks.load("glyphs", way=3, shot=1, query=4, unlabeled=3, distractors=2)
    torch.manual_seed(0)
    learner = kshot.SoftKMeansProtoNet(kshot.models.Conv4(1, channels=4)).eval()
    found = measure(learner, source, Row(setting="gain", measure="unlabelled"), 12, None)
    scored = Row(setting="a")
    labelled = Row(setting="a", tasks={"unlabeled": 0, "distractors": 0})
    each = [measure(learner, source, row, 12, None).interval.mean for row in (scored, labelled)]
    assert found.interval.mean == pytest.approx(each[0] - each[1])
    assert found.interval.half_width > 0


def test_a_reproduction_may_train_on_what_another_one_learned(spec, monkeypatch):
    content = json.loads(json.dumps(SPEC))
    content["config"]["data"] = {"name": "glyphs", "way": 3, "shot": 1, "query": 2, "train": CLUSTERS}
    content["uses"] = {"data.train.embedding": "mine"}
    clustered = parse(content, "clustered")
    monkeypatch.setattr("kshot.evaluation.reproduction.load", lambda _: spec)
    monkeypatch.setattr("kshot.evaluation.reproduction_spec.load", lambda _: spec)
    said = []
    result = reproduce(clustered, out="runs", results="kept", say=said.append)
    assert [line.split(":")[0] for line in said[:2]] == ["mine", "clustered"]
    assert result.training["steps"] == 2
    before = json.loads(next(Path("runs").glob("mine-*/training.json")).read_text())["seconds"]
    assert result.training["before"] == before
    row = tables.rows([(clustered, result)], "cpu")[0]
    assert any(f"{before / 60:.1f} + {result.training['seconds'] / 60:.1f} min, 2 x" in cell for cell in row)
    assert result.training["environment"] == result.environment


def test_a_reproduction_may_be_of_the_network_that_another_one_trains(spec, monkeypatch):
    content = json.loads(json.dumps(SPEC))
    content |= {"like": "mine", "title": "Another"}
    content["config"]["learner"] = {"name": "protonet", "symmetric": True}
    content["config"]["data"] = spec.config["data"]
    alike = parse(content, "alike")
    monkeypatch.setattr("kshot.evaluation.reproduction.load", lambda _: spec)
    monkeypatch.setattr("kshot.evaluation.reproduction_spec.load", lambda _: spec)
    own = reproduce(spec, out="runs", results="kept", say=lambda _: None)
    result = reproduce(alike, out="runs", results="kept", say=lambda _: None)
    assert not list(Path("runs").glob("alike-*")), "nothing is trained again"
    quiet = {"out": "runs", "say": lambda _: None}
    weights = [trained(one, "cpu", None, **quiet)[0].state_dict() for one in (spec, alike)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0] | weights[1])
    assert result.outcomes[0].ours == pytest.approx(own.outcomes[0].ours, abs=2)  # a near tie may go either way
    assert (result.training["seconds"], result.training["before"]) == (0.0, own.training["seconds"])
    assert result.training["steps"] == own.training["steps"]
    assert Path("kept/alike.cpu.metrics.jsonl").read_text() == Path("kept/mine.cpu.metrics.jsonl").read_text()
    digest = alike.digest("cpu")
    spec.config["training"]["steps"] = 5
    assert alike.digest("cpu") != digest, "it is of another network then"


@pytest.mark.parametrize("name", [name for name in names() if load(name).like is not None])
def test_what_is_like_another_trains_the_same(name):
    spec = load(name)
    for profile in spec.profiles:
        own, other = (one.run_config(profile).to_dict() for one in (spec, load(spec.like)))
        assert own.pop("learner") != other.pop("learner")
        assert own == other


def test_a_row_may_predict_with_the_other_norm(spec):
    learner = kshot.MAML(kshot.models.Conv4(1, channels=4), way=3, norm="batch").eval()
    inductive = learner.with_norm("support")
    assert learner.transductive
    assert not inductive.transductive
    row = Row(setting="inductive", norm="support", count=4)
    source = tasks.load("glyphs", way=3, shot=1, query=2)
    assert not measure(learner, source, row, 4, None).transductive
    with pytest.raises(UnsupportedError, match="ProtoNet knows one norm alone"):
        measure(kshot.ProtoNet(kshot.models.Conv4(1)), source, row, 4, None)
