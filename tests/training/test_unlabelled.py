"""Runs whose training tasks are made without labels, from a configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

import kshot
from kshot.training.config import build_trainer, load_config, resume_run


def write(folder: Path, text: str) -> Path:
    (folder / "config.yaml").write_text(text)
    return folder / "config.yaml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine classes of ten pictures, each of another grey."""
    from PIL import Image

    for c in range(9):
        (tmp_path / "pictures" / f"class{c}").mkdir(parents=True)
        for i in range(10):
            Image.new("L", (16, 16), 25 * c + i).save(tmp_path / "pictures" / f"class{c}" / f"{i}.png")
    return tmp_path / "pictures"


UNLABELLED = {
    "umtra": "{labels: umtra, way: 8, query: 1, augment: {preset: omniglot, zeroed: 0.2}}",
    "cactus": "{labels: cactus, way: 4, query: 1, clusters: 5, partitions: 2}",
}


@pytest.mark.parametrize("labels", UNLABELLED)
def test_training_without_labels_is_a_line_of_the_configuration(labels: str, folder: Path, tmp_path: Path) -> None:
    text = f"""
learner: protonet
backbone: {{name: conv4, channels: 4}}
data: {{name: {folder}, way: 2, shot: 1, query: 2, train: {UNLABELLED[labels]}, options: {{size: 16}}}}
training: {{steps: 2, meta_batch: 2, val_tasks: 4, mode: native, device: cpu}}
out: {tmp_path / "run"}
"""
    config = load_config(write(tmp_path, text))
    assert config.to_dict()["data"]["train"] == yaml.safe_load(UNLABELLED[labels])
    trainer = build_trainer(config, progress=False)
    assert trainer.source.train.options["labels"] == labels
    assert not trainer.source.train.has_labels
    first = trainer.fit()
    # What the run recorded makes the same tasks again, and it is taken up as any other.
    recorded = json.loads((tmp_path / "run" / "splits.json").read_text())["source"]
    again = kshot.tasks.load(**recorded)
    a, b = (source.train.sample(2, seed=0) for source in (again, trainer.source))
    assert torch.equal(a.query.x, b.query.x)  # type: ignore[arg-type]
    longer = resume_run(tmp_path / "run", progress=False).fit()
    assert longer.steps == first.steps == 2


def test_the_features_of_a_run_are_an_embedding_for_another(folder: Path, tmp_path: Path) -> None:
    data = f"{{name: {folder}, way: 2, shot: 1, query: 2, options: {{size: 16}}, train: {UNLABELLED['umtra']}}}"
    rest = "training: {steps: 2, meta_batch: 2, val_tasks: 4, mode: native}\nbackbone: {name: conv4, channels: 4}\n"
    config = load_config(write(tmp_path, f"learner: protonet\ndata: {data}\n{rest}out: {tmp_path / 'umtra'}"))
    build_trainer(config, progress=False).fit()
    changes = [f"data.train={{labels: cactus, query: 1, way: 3, clusters: 4, embedding: {tmp_path / 'umtra'}}}"]
    second = load_config(tmp_path / "umtra" / "config.yaml", [*changes, f"out={tmp_path / 'cactus'}"])
    result = build_trainer(second, progress=False).fit()
    assert result.learner.provenance["source"]["train"]["embedding"] == str(tmp_path / "umtra")
