"""Unlabelled examples from a configuration to a trained learner, and on to an evaluation with and without them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import kshot
from kshot.cli.settings import read, shipped
from kshot.errors import ConfigError
from kshot.evaluation.audit import _alike, empty_support, swap_support
from kshot.evaluation.curves import with_shots
from kshot.evaluation.subsets import first_shots
from kshot.tasks import TaskSource
from kshot.tasks.pooled import PoolTasks
from kshot.training.config import build_learner, build_source, build_trainer, parse_config
from kshot.training.pretrain import pretrain
from kshot.training.seen import same_data
from kshot.training.step import count_examples

CONFIG = """
learner: {name: softkmeansprotonet, variant: masked, scale: 0.5}
backbone: {name: mlp, hidden: [16], out_features: 8}
data:
  name: csv
  way: 3
  query: 3
  unlabeled: 4
  distractors: 1
  train: {query: 1, labelled: 0.2, labelled_seed: 3}
training: {steps: 30, meta_batch: 4, lr: 3e-3, val_tasks: 20, val_every: 15, device: cpu, mode: native}
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A CSV of fifteen classes with ten examples each."""
    rows = ["label,a,b,c"]
    noise = torch.randn(150, 3, generator=torch.Generator().manual_seed(0))
    for i in range(150):
        c = i // 10
        rows.append(",".join([f"c{c:02}", *(f"{2 * (c * (f + 3) % 7) + float(noise[i, f]):.4f}" for f in range(3))]))
    path = tmp_path / "table.csv"
    path.write_text("\n".join(rows))
    return path


def content(table: Path) -> dict[str, dict[str, object]]:
    made: dict[str, dict[str, object]] = yaml.safe_load(CONFIG)
    made["data"]["name"] = str(table)
    made["training"]["lr"] = 3e-3
    return made


def test_a_configuration_says_which_are_labelled(table: Path) -> None:
    config = parse_config(content(table))
    source = build_source(config)
    assert isinstance(source.train, PoolTasks)
    assert source.train.unlabelling.labelled_seed == 3
    assert len(source.train.labelled_rows()[0]) == 2 * len(source.train.pool)
    assert source.val.unlabeled_size == 16
    written = config.to_dict()["data"]
    assert written["unlabeled"] == 4
    assert written["train"] == {"query": 1, "labelled": 0.2, "labelled_seed": 3}
    assert "labelled" not in written
    again = parse_config(config.to_dict())
    assert build_source(again).spec == source.spec
    with pytest.raises(ConfigError, match="unknown key data.unlabelled. Did you mean 'unlabeled'?"):
        parse_config({**content(table), "data": {"name": str(table), "unlabelled": 3}})
    with pytest.raises(ConfigError, match=r"data.options.unlabeled is there twice: say it in data.unlabeled alone"):
        build_source(
            parse_config({**content(table), "data": {"name": "x", "unlabeled": 3, "options": {"unlabeled": 1}}})
        )
    with pytest.raises(ConfigError, match="expected unlabelled examples with distractors=1, got unlabeled=0"):
        build_source(parse_config({**content(table), "data": {"name": str(table), "way": 3, "distractors": 1}}))


def test_a_run_with_and_without_unlabelled_examples_on_the_same_tasks(table: Path, tmp_path: Path) -> None:
    config = parse_config(content(table))
    trainer = build_trainer(config, out=tmp_path / "run", progress=False)
    assert isinstance(trainer.learner, kshot.SoftKMeansProtoNet)
    result = trainer.fit()
    # Three ways of one support example and a query, four ways of four unlabelled ones, four tasks a step.
    assert result.examples == 30 * 4 * (3 + 3 + 16)
    source = build_source(config)
    learner = kshot.Learner.from_pretrained(tmp_path / "run")
    found = [
        kshot.evaluate(learner, split, tasks=20, baselines=False, options=options)
        for split, options in (
            (source.test, {}),
            (source.test, {"steps": 0}),
            (source.test.replace(unlabeled=0, distractors=0), {}),
        )
    ]
    assert found[0].settings["tasks"].endswith("3 queries a class, 4 unlabelled, 1 distractor classes")
    assert found[0].settings["unlabeled"] == 4
    assert "unlabeled" not in found[2].settings
    assert torch.equal(found[1].scores, found[2].scores)
    assert torch.equal(found[0].class_ids, found[2].class_ids)
    assert not torch.equal(found[0].scores, found[1].scores)
    with_baseline = kshot.evaluate(learner, source.test, tasks=20, baselines=["nearest_centroid"], baseline_tasks=5)
    assert "nearest_centroid" in with_baseline.baselines


@pytest.fixture
def source(table: Path) -> TaskSource:
    return build_source(parse_config(content(table)))


def test_baselines_see_no_label_that_the_learner_had_not(source: TaskSource, monkeypatch: pytest.MonkeyPatch) -> None:
    from kshot.tasks.gather import Gatherer

    seen: set[int] = set()
    gather = Gatherer.__call__

    def noting(self: Gatherer, identity, device=None, change=None):  # type: ignore[no-untyped-def]
        seen.update((identity // 4).tolist())
        return gather(self, identity, device, change)

    monkeypatch.setattr(Gatherer, "__call__", noting)
    pretrain(lambda: kshot.models.MLP(3, hidden=(4,)), source.train, examples=2000, device="cpu")
    assert isinstance(source.train, PoolTasks)
    assert seen == set(source.train.labelled_rows()[0].tolist())


def test_tasks_of_other_splits_that_look_alike(source: TaskSource) -> None:
    notes: list[str] = []
    alike = _alike(source, "train", source.test, notes)
    assert not notes
    assert alike is not None
    assert (alike.query, alike.unlabeled_size) == (3, 16)
    assert "labelled" not in alike.options
    plain = source.test.replace(unlabeled=0, distractors=0)
    alike = _alike(source, "train", plain, notes)
    assert alike is not None
    assert alike.unlabeled_size == 0


def test_shots_leave_enough_for_the_unlabelled(source: TaskSource) -> None:
    found = with_shots(source.test, (1, 2, 5))
    assert found is not None
    assert found[1] == [1, 2]
    assert found[0].unlabeled_size == 16
    assert with_shots(source.test.replace(unlabeled=0, distractors=0), (1, 2, 5))[1] == [1, 2, 5]  # type: ignore[index]
    found = with_shots(source.train, (1, 2, 5))
    assert found is not None
    assert found[1] == [1]


def test_the_data_are_the_same_however_many_are_labelled(source: TaskSource, table: Path) -> None:
    plain = kshot.tasks.load(table, way=3, query=3, unlabeled=4, distractors=1)
    assert same_data(plain.spec, source.spec)


def test_examples_of_a_step_are_those_that_the_learner_used(source: TaskSource) -> None:
    episodes = source.train.sample(2, seed=0)
    assert count_examples(episodes) == 2 * (3 + 3 + 16)
    assert count_examples(episodes.without_unlabeled()) == 2 * 6


def test_probes_change_the_unlabelled_with_the_support(source: TaskSource) -> None:
    episodes = source.test.sample(3, seed=0)
    assert empty_support(episodes).support.unlabeled is None
    swapped = swap_support(episodes)
    assert swapped.unlabeled_ids is None
    assert swapped.support.unlabeled is not None
    assert episodes.support.unlabeled is not None
    assert torch.equal(swapped.support.unlabeled.x[1], episodes.support.unlabeled.x[0])  # type: ignore[index]
    fewer = first_shots(episodes, 1)
    assert fewer.support.unlabeled is episodes.support.unlabeled


@pytest.mark.parametrize("name", [name for name in shipped() if "kmeans" in name or "transductive" in name])
@pytest.mark.usefixtures("real_data")
def test_shipped_configurations_make_tasks_and_learners(name: str) -> None:
    config = parse_config(read(name))
    source = build_source(config)
    learner = build_learner(config, source)
    losses = learner(source.train.sample(1, seed=0), mode="native")
    assert torch.isfinite(losses).all()
