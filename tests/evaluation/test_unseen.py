"""Unseen classes only: a run's own recorded test classes, other data compared by content."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from toy_sources import FEATURES, vector_source, vectors

import kshot
from kshot.artifacts import from_pretrained
from kshot.datasets import Pool
from kshot.errors import OverlappingSplitsError, TooFewClassesError
from kshot.evaluation import conventional, evaluate, unseen_split
from kshot.randomness import seeded
from kshot.training.seen import same_data

OPTIONS = {"way": 2, "shot": 1, "query": 5}


@pytest.fixture
def table(write_table) -> Path:
    return write_table({f"class {i:02}": i for i in range(15)})


@pytest.fixture
def run(table, tmp_path) -> kshot.Learner:
    """A learner trained for a few steps, its run on disk."""
    source = kshot.tasks.load(str(table), **OPTIONS)
    with seeded(0):
        learner = kshot.ProtoNet(kshot.models.MLP(FEATURES, hidden=(8,)))
    kshot.Trainer(learner, source, steps=3, meta_batch=2, val_tasks=4, out=tmp_path / "run", progress=False).fit()
    return from_pretrained(tmp_path / "run")


def test_the_runs_own_data(run, table):
    source = kshot.tasks.load(str(table), **OPTIONS)
    split, notes = unseen_split(run, source.test)
    assert (split, notes) == (source.test, [])
    # Other shots of the same data are still its own.
    assert unseen_split(run, kshot.tasks.load(str(table), way=2, shot=3, query=4).test)[1] == []


@pytest.mark.parametrize("part", ["train", "val"])
def test_its_own_training_classes_are_refused(run, table, part):
    split = getattr(kshot.tasks.load(str(table), **OPTIONS), part)
    name = split.pool.names[0]
    with pytest.raises(OverlappingSplitsError, match=rf"never seen, but .* in training or validation: {name}"):
        evaluate(run, split)
    found = evaluate(run, split, 4, baselines=False, allow_seen=True)
    assert f"classes are not new to the learner: {name}" in found.notes[0]


def test_classes_that_were_added_since_are_left_out(run, table, write_table):
    recorded = json.loads((Path(run.provenance["run"]) / "splits.json").read_text())["test"]
    write_table({f"class {i:02}": i for i in range(40)})  # dealt out anew, with more classes
    test = kshot.tasks.load(str(table), **OPTIONS).test
    kept = set(test.pool.names) & set(recorded)
    assert 2 <= len(kept) < len(test.pool)
    found = evaluate(run, test, 4, baselines=False)
    assert set(found.class_names) == kept
    assert "of the data that the run did not record for testing left out" in found.notes[0]
    new = [name not in kept for name in test.pool.names]
    with pytest.raises(TooFewClassesError, match="none of the 3 test classes that the run recorded are in"):
        evaluate(run, test.subset(new), 4, baselines=False)


def test_other_data_is_compared_by_content(run, write_table):
    train = json.loads((Path(run.provenance["run"]) / "splits.json").read_text())["train"][0]
    seed = int(train.split()[1])
    new = write_table({"fresh a": 101, "fresh b": 102, "in disguise": seed}, "other.csv")
    split = kshot.tasks.load(str(new), split="all", **OPTIONS).test
    with pytest.raises(OverlappingSplitsError, match=r"of the 3 classes of .* seen 1 in training or .*: in disguise"):
        evaluate(run, split)
    fresh = evaluate(run, split.subset([0, 1]), 6, baseline_tasks=3)
    assert set(fresh.class_names) == {"fresh a", "fresh b"}
    # The baselines' network comes from the run's own training classes.
    assert {"fine_tuned", "linear_probe"} <= set(fresh.baselines)


def test_a_learner_without_its_run_is_compared_with_its_data(run, write_table, tmp_path):
    seed = int(kshot.tasks.load(**run.provenance["source"]).train.pool.names[0].split()[1])
    run.provenance = {"source": run.provenance["source"]}
    split = kshot.tasks.load(str(write_table({"x": 201, "y": seed}, "other.csv")), split="all", **OPTIONS).test
    with pytest.raises(OverlappingSplitsError, match="seen 1 in training or validation: y"):
        evaluate(run, split)
    run.provenance = {"source": {"name_or_path": str(tmp_path / "gone.csv")}}
    notes = evaluate(run, split, 4, baseline_tasks=2).notes
    assert (
        "whether the learner has seen these classes cannot be checked: its training data cannot be loaded" in notes[0]
    )
    assert any(
        note.startswith("no pretrained baselines: the learner's training data cannot be loaded") for note in notes
    )


def test_the_network_is_kept_in_the_run(run, table, monkeypatch):
    folder = Path(run.provenance["run"]) / "baselines"
    first = evaluate(run, kshot.tasks.load(str(table), **OPTIONS).test, 6, baseline_tasks=4)
    assert (folder / "network.safetensors").is_file()
    budget = json.loads((folder / "baseline.json").read_text())["info"]["examples"]
    assert budget >= run.provenance["examples"] > budget - 64
    monkeypatch.setattr(conventional, "pretrain", None)
    again = evaluate(run, kshot.tasks.load(str(table), **OPTIONS).test, 6, baseline_tasks=4)
    assert first.baselines["linear_probe"].scores.tolist() == again.baselines["linear_probe"].scores.tolist()
    more = kshot.tasks.load(str(table), **{**OPTIONS, "shot": 3}).test
    assert evaluate(run, more, 6, baseline_tasks=4).baselines
    monkeypatch.undo()
    # A network of another budget is not taken for it.
    run.provenance["examples"] += 1000
    evaluate(run, kshot.tasks.load(str(table), **OPTIONS).test, 6, baseline_tasks=4)
    assert json.loads((folder / "baseline.json").read_text())["info"]["examples"] >= run.provenance["examples"]


def test_a_network_trained_beforehand_is_taken(run, table):
    """A pipeline trains it before the learner, at the budget that the learner is going to have."""
    from kshot.training.pretrain import fresh_backbone, pretrain, save_network

    source = kshot.tasks.load(str(table), **OPTIONS)
    network = pretrain(lambda: fresh_backbone(run), source.train, source.val, examples=run.provenance["examples"])
    save_network(network, Path(run.provenance["run"]) / "baselines")
    found, notes = conventional.conventional_network(run, kshot.tasks.load(str(table), **OPTIONS))
    assert notes == []
    assert found.info == network.info


def test_what_is_the_same_data():
    spec = {"name_or_path": "digits", "seed": 0, "way": 5}
    assert same_data(
        spec, {"name_or_path": "digits", "seed": 0, "way": 10, "shot": 5, "data_dir": "x", "train": {"way": 3}}
    )
    assert not same_data(spec, {"name_or_path": "digits", "seed": 1})
    assert not same_data({}, {})


def in_memory(names, seed):
    """Classes of arrays, dealt out in order: what is not on disk has no name to be known by."""
    from kshot.datasets import Dataset, IdentityTransform

    x = vectors(len(names), seed)
    whole = Pool.from_arrays(x.flatten(0, 1), np.repeat(names, x.shape[1]))
    parts = (whole.select(range(a, b)) for a, b in ((0, 4), (4, 7), (7, 10)))
    return kshot.tasks.load(Dataset("arrays", *parts, IdentityTransform()), **OPTIONS)


def test_data_made_in_memory_is_compared_by_content(tmp_path):
    digits = [str(i) for i in range(10)]
    source = in_memory(digits, 0)
    learner = kshot.ProtoNet(kshot.models.MLP(FEATURES, hidden=(8,)))
    kshot.Trainer(learner, source, steps=2, meta_batch=2, val_tasks=4, out=tmp_path / "run", progress=False).fit()
    run = from_pretrained(tmp_path / "run")
    assert evaluate(run, source.test, 4, baselines=False).notes == []
    with pytest.raises(OverlappingSplitsError):
        evaluate(run, source.train, 4)
    # Other data, whether its classes are called the same or not.
    for names in (digits, [f"other {i}" for i in range(10)]):
        assert evaluate(run, in_memory(names, 1).test, 4, baseline_tasks=2).notes
    # What was learned from, under the names of the test classes.
    assert same_data(source.spec, in_memory(digits, 1).spec) is False
    renamed = in_memory([*digits[7:], *digits[3:7], *digits[:3]], 0).train.replace(**OPTIONS)
    with pytest.raises(OverlappingSplitsError):
        evaluate(run, renamed, 4)


def test_a_shipped_learner_is_of_no_run_in_the_working_directory(tmp_path, monkeypatch):
    from kshot.training.seen import run_folder

    (tmp_path / "splits.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    learner = from_pretrained("characters")
    assert learner.provenance["path"] == "characters"
    assert run_folder(learner) is None


def test_guessing_at_uneven_ways():
    from kshot.evaluation.scores import chance

    assert chance(vector_source(way=4).test) == 0.25
    uneven = chance(vector_source(way=(2, 8)).test)
    assert 1 / 8 < uneven < 1 / 2
    assert uneven == pytest.approx(sum(1 / w for w in range(2, 9)) / 7, rel=0.15)
