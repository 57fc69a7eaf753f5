"""A backbone that begins with another run's weights: what it takes over, and whose classes count as seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import kshot
from kshot.artifacts import from_pretrained
from kshot.errors import ConfigError, OverlappingSplitsError, UnsupportedError
from kshot.evaluation import unseen_split
from kshot.models import MLP, Conv4, Frozen
from kshot.training import fresh_backbone
from kshot.training.config import build_learner, build_source, build_trainer, parse_config, resume_run

TRAINING = {"steps": 4, "meta_batch": 2, "val_tasks": 4, "mode": "native", "device": "cpu"}


def table(path: Path, first: int, classes: int = 15) -> str:
    """A CSV of classes with ten examples each; those of the same number have the same examples."""
    rows = ["label,a,b,c"]
    for c in range(first, first + classes):
        for values in c % 4 + torch.randn(10, 3, generator=torch.Generator().manual_seed(c)):
            rows.append(",".join([f"class {c:03}", *(f"{float(v):.4f}" for v in values)]))
    path.write_text("\n".join(rows))
    return str(path)


def config(data: str, out: Path | None, learner: Any = "protonet", backbone: Any = None, **training: Any) -> Any:
    return parse_config(
        {
            "learner": learner,
            "backbone": backbone or {"name": "mlp", "hidden": [6], "out_features": 5},
            "data": {"name": data, "way": 3, "query": 3},
            "training": {**TRAINING, **training},
            "out": None if out is None else str(out),
        }
    )


@pytest.fixture
def data(tmp_path: Path) -> str:
    return table(tmp_path / "table.csv", 0)


@pytest.fixture
def run(tmp_path: Path, data: str) -> Path:
    """A ProtoNet trained for a few steps."""
    build_trainer(config(data, tmp_path / "run"), progress=False).fit()
    return tmp_path / "run"


def test_it_begins_with_the_weights_and_goes_on(tmp_path: Path, data: str, run: Path) -> None:
    before = from_pretrained(run).backbone.state_dict()
    settings = config(data, tmp_path / "next", "anil", {"weights": str(run)}, mode="loop")
    learner = build_learner(settings, build_source(settings))
    assert isinstance(learner.backbone, MLP)
    assert learner.backbone.config == from_pretrained(run).backbone.config
    assert all(torch.equal(tensor, before[key]) for key, tensor in learner.backbone.state_dict().items())
    after = build_trainer(settings, progress=False).fit().learner.backbone.state_dict()
    assert not any(torch.equal(tensor, before[key]) for key, tensor in after.items())


def test_frozen_it_stays_as_it_is(tmp_path: Path, data: str, run: Path) -> None:
    before = from_pretrained(run).backbone
    settings = config(data, tmp_path / "next", "mann", {"weights": str(run), "frozen": True})
    learner = build_trainer(settings, progress=False).fit().learner
    assert isinstance(learner.backbone, Frozen)
    loaded = from_pretrained(tmp_path / "next")
    x = torch.randn(4, 3)
    assert torch.equal(loaded.train().backbone(x), before(x))
    assert not loaded.backbone(x).requires_grad
    # The conventional baselines have a backbone that learns.
    fresh = fresh_backbone(loaded)
    assert isinstance(fresh, MLP)
    assert all(p.requires_grad for p in fresh.parameters())


def test_batch_norms_stay_in_eval_mode() -> None:
    frozen = Frozen(Conv4(1, channels=4))
    statistics = {key: value.clone() for key, value in frozen.state_dict().items()}
    frozen.train()(torch.randn(3, 1, 28, 28))
    kshot.models.norms.commit(frozen)
    assert frozen.training
    assert not any(module.training for module in frozen.backbone.modules())
    assert all(torch.equal(value, statistics[key]) for key, value in frozen.state_dict().items())


def test_a_resumed_run_is_the_same_run(tmp_path: Path, data: str, run: Path) -> None:
    backbone = {"weights": str(run), "frozen": True}
    whole = build_trainer(config(data, tmp_path / "whole", "mann", backbone), progress=False).fit().learner

    class Stop(kshot.training.Callback):
        def on_step(self, trainer: Any, step: int, metrics: Any) -> None:
            if step == 2:
                raise KeyboardInterrupt

    halves = config(data, tmp_path / "halves", "mann", backbone, save_every=1)
    with pytest.raises(KeyboardInterrupt):
        build_trainer(halves, callbacks=[Stop()], progress=False).fit()
    resumed = resume_run(tmp_path / "halves", progress=False).fit().learner
    assert resumed.provenance["weights"] == whole.provenance["weights"]
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


def test_what_the_weights_had_seen_counts_as_seen(tmp_path: Path, run: Path) -> None:
    settings = config(table(tmp_path / "other.csv", 100), tmp_path / "next", "anil", {"weights": str(run)}, mode="loop")
    learner = build_trainer(settings, progress=False).fit().learner
    taken = learner.provenance["weights"]
    assert taken["path"] == str(run)
    assert taken["examples"] == from_pretrained(run).provenance["examples"] > 0
    earlier, now = (
        set(load_file(folder / "seen.safetensors")["hashes"].tolist()) for folder in (run, tmp_path / "next")
    )
    assert earlier < now
    first = json.loads((run / "splits.json").read_text())["train"]
    with pytest.raises(OverlappingSplitsError, match=rf"it has seen {len(first)} .*{first[0]}"):
        unseen_split(
            from_pretrained(tmp_path / "next"), kshot.tasks.load(str(run.parent / "table.csv"), way=3, query=3).train
        )
    # A copy of the learner alone cannot say it, and whoever begins with it cannot, either.
    shutil.move(tmp_path / "next" / "learner", tmp_path / "copy")
    shutil.rmtree(tmp_path / "next")
    third = config(table(tmp_path / "third.csv", 200), None, "protonet", {"weights": str(tmp_path / "copy")})
    with pytest.raises(
        ConfigError, match=r"cannot be checked: it began with another run's weights.*Give the folder of"
    ):
        build_learner(third, build_source(third))


def test_weights_that_have_seen_the_test_classes_are_refused(tmp_path: Path, run: Path) -> None:
    table(tmp_path / "some.csv", 0, 12)  # fewer classes are dealt out otherwise
    settings = config(str(tmp_path / "some.csv"), None, "protonet", {"weights": str(run)})
    with pytest.raises(ConfigError, match=r"trained or selected on \d+ of the \d+ test classes of .*: class 0.*"):
        build_learner(settings, build_source(settings))


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ({"frozen": True}, "backbone: expected a name .* or the weights of a run"),
        ({"name": "mlp", "frozen": True}, "expected weights beside frozen"),
        ({"weights": "x", "hidden": [3]}, "expected a name beside hidden"),
        ({"weights": 3}, "backbone.weights: expected a text"),
    ],
)
def test_a_backbone_that_says_too_little(data: str, backbone: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(data, None, "protonet", backbone)


def test_weights_that_do_not_fit(tmp_path: Path, data: str, run: Path) -> None:
    def build(learner: Any, **backbone: Any) -> None:
        settings = config(data, None, learner, {"weights": str(run), **backbone})
        build_learner(settings, build_source(settings))

    with pytest.raises(
        ConfigError, match=r"its backbone does not fit MLP: .*\[6\] instead of \[7\].*Leave the other keys"
    ):
        build("protonet", name="mlp", hidden=[7], out_features=5)
    with pytest.raises(UnsupportedError, match="a frozen backbone cannot be adapted.*such as ANIL"):
        build("maml", frozen=True)
    with pytest.raises(ConfigError, match="there is no folder .*nowhere"):
        build("protonet", weights=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"takes examples of shape \[3\], those of digits have \[1, 28, 28\]"):
        settings = parse_config({"learner": "protonet", "backbone": {"weights": str(run)}, "data": "digits"})
        build_learner(settings, build_source(settings))
    assert "weights" not in build_learner(config(data, None), build_source(config(data, None))).provenance


def test_statistics_of_each_task_cannot_be_frozen(tmp_path: Path) -> None:
    digits = {
        "learner": "maml",
        "backbone": {"name": "conv4", "channels": 4},
        "data": {"name": "glyphs", "way": 2, "query": 2, "options": {"examples": 4}},
        "training": {**TRAINING, "mode": "loop", "steps": 1},
    }
    build_trainer(parse_config(digits), out=str(tmp_path / "maml"), progress=False).fit()
    settings = parse_config(
        {**digits, "learner": "anil", "backbone": {"weights": str(tmp_path / "maml"), "frozen": True}}
    )
    with pytest.raises(ConfigError, match="a MAML normalises by the statistics of each task.*such as ProtoNet"):
        build_learner(settings, build_source(settings))
