"""save_pretrained and from_pretrained."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import kshot
from kshot import artifacts, capture, models
from kshot.artifacts import learner as module
from kshot.datasets import TableTransform
from kshot.datasets.transform import Column
from kshot.errors import ArtifactError, RunError


class Tied(kshot.Learner):
    """Two layers that share their weight, and a buffer of another dtype."""

    def __init__(self, size: int = 3):
        super().__init__()
        self.a, self.b = nn.Linear(size, size), nn.Linear(size, size)
        self.b.weight = self.a.weight
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


def predictions(learner, images, labels=("a", "b", "c") * 3):
    return kshot.adapt(learner, (images, labels)).predict(images)


def edit(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not Ellipsis}))


def test_predictions_are_bit_identical(maml, images, tmp_path):
    path = maml.save_pretrained(tmp_path / "learner")
    again = artifacts.from_pretrained(path)
    assert not again.training
    assert torch.equal(predictions(again, images), predictions(maml, images))
    assert again.transform == maml.transform
    assert again.config == maml.config
    assert artifacts.digest(again) == artifacts.digest(maml)


def test_in_a_fresh_process(maml, images, tmp_path):
    maml.save_pretrained(tmp_path / "learner")
    kshot.adapt(maml, (images, ["a", "b", "c"] * 3)).save(tmp_path / "task.safetensors")
    artifacts.save_tensors(tmp_path / "images", {"x": images, "expected": predictions(maml, images)})
    code = """
import sys, torch
from pathlib import Path
from kshot import artifacts
folder = Path(sys.argv[1])
torch.set_num_threads(int(sys.argv[2]))
given, _ = artifacts.load_tensors(folder / "images")
model = artifacts.load_adapted(folder / "task.safetensors")
assert model.labels == ["a", "b", "c"]
assert torch.equal(model.predict(given["x"]), given["expected"])
"""
    command = [sys.executable, "-c", code, str(tmp_path), str(torch.get_num_threads())]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes_are_kept(protonet, tmp_path, dtype):
    again = artifacts.from_pretrained(protonet.to(dtype).save_pretrained(tmp_path / "x"))
    assert {p.dtype for p in again.parameters()} == {dtype}
    assert torch.equal(next(again.parameters()), next(protonet.parameters()))


def test_nans_are_kept(protonet, tmp_path):
    with torch.no_grad():
        next(protonet.parameters())[0, 0] = torch.nan
    again = artifacts.from_pretrained(protonet.save_pretrained(tmp_path / "x"))
    torch.testing.assert_close(next(again.parameters()), next(protonet.parameters()), equal_nan=True, rtol=0, atol=0)


def test_tied_weights_stay_tied(tmp_path):
    learner = Tied()
    again = artifacts.from_pretrained(learner.double().save_pretrained(tmp_path / "x"))
    assert again.a.weight is again.b.weight
    assert again.a.weight.dtype == torch.float64
    assert again.count.dtype == torch.int64
    assert torch.equal(again.a.weight, learner.a.weight)


def test_loading_draws_no_random_numbers(protonet, tmp_path):
    path = protonet.save_pretrained(tmp_path / "x")
    before = torch.get_rng_state()
    artifacts.from_pretrained(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_digest_sees_everything_that_decides(protonet):
    first = artifacts.digest(protonet)
    assert artifacts.digest(protonet) == first
    protonet.provenance = {"steps": 3}
    assert artifacts.digest(protonet) == first
    protonet.transform = TableTransform((Column("a"), Column("b")), (0.0, 0.0), (1.0, 1.0))
    second = artifacts.digest(protonet)
    with torch.no_grad():
        next(protonet.parameters())[0, 0] += 1
    assert len({first, second, artifacts.digest(protonet)}) == 3


def test_a_learner_replaces_a_learner_and_nothing_else(protonet, maml, tmp_path):
    path = protonet.save_pretrained(tmp_path / "x")
    maml.save_pretrained(path)
    assert isinstance(artifacts.from_pretrained(path), kshot.MAML)
    (path / "notes.txt").write_text("mine")
    with pytest.raises(
        RunError, match=r"x holds other files \(notes.txt\).*Choose a new or empty folder, .*x/learner say"
    ):
        protonet.save_pretrained(path)
    with pytest.raises(RunError, match=r"notes.txt is a file, expected a folder"):
        protonet.save_pretrained(path / "notes.txt")
    assert isinstance(artifacts.from_pretrained(path), kshot.MAML)


def test_a_run_folder_stands_for_its_learner(protonet, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ArtifactError, match=r"has no learner yet: it was stopped .* kshot train --resume"):
        artifacts.from_pretrained(tmp_path)
    protonet.save_pretrained(tmp_path / "learner")
    assert isinstance(artifacts.from_pretrained(tmp_path), kshot.ProtoNet)


def test_a_shipped_learner_has_a_name(protonet, maml, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_shipped", lambda: tmp_path / "shipped")
    protonet.save_pretrained(tmp_path / "shipped" / "characters")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "characters").mkdir()  # the user's data, say
    learner = artifacts.from_pretrained("characters")
    assert learner.provenance["path"] == "characters"
    with pytest.raises(
        ArtifactError, match=r"there is no folder character: .* ships with kshot: Did you mean 'characters'"
    ):
        artifacts.from_pretrained("character")
    maml.save_pretrained(tmp_path / "characters")
    assert isinstance(artifacts.from_pretrained("characters"), kshot.MAML)


def test_from_pretrained_of_a_class(protonet, tmp_path):
    path = protonet.save_pretrained(tmp_path / "x")
    assert isinstance(kshot.ProtoNet.from_pretrained(path), kshot.ProtoNet)
    with pytest.raises(ArtifactError, match=r"x holds a ProtoNet, expected a MAML"):
        kshot.MAML.from_pretrained(path)


def test_provenance_travels(protonet, tmp_path):
    protonet.provenance = {"steps": 1200, "source": {"name": "omniglot"}}
    again = artifacts.from_pretrained(protonet.save_pretrained(tmp_path / "x"))
    assert again.provenance == {"steps": 1200, "source": {"name": "omniglot"}, "path": str(tmp_path / "x")}
    assert "path" not in json.loads((tmp_path / "x" / "config.json").read_text())["provenance"]


def test_the_card(maml, protonet, tmp_path):
    maml.provenance = {
        "source": {"name": "omniglot", "way": 5}, "steps": 2000, "meta_batch": 16, "examples": 10_000, "seconds": 61.2,
        "val": 0.98765, "seed": 0,
    }  # fmt: skip
    card = (maml.save_pretrained(tmp_path / "x") / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: kshot")
    for line in (
        "# MAML",
        "- Predicts: classes, at most 3 a task",
        "- Inputs: images of any size, read as grey 16 x 16 (polarity: auto)",
        "- Tasks: omniglot (way=5)",
        "- Outer steps: 2,000 of 16 tasks",
        "- Validation tasks: 0.9877. It was chosen by this number, which therefore flatters it",
        "- Unseen tasks: not measured. Measure it",
        'kshot.FewShotClassifier.from_pretrained("path/of/this/folder")',
    ):
        assert line in card
    card = (protonet.save_pretrained(tmp_path / "y") / "README.md").read_text()
    assert "- Inputs: arrays of shape [n, 2]" in card
    assert "Not recorded: this learner was not trained" in card
    assert "kshot adapt" not in card


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: edit(f, format=2, kshot="0.9.0"),
            r"has format 2, expected 1, .* kshot 0.9.0 wrote it. Upgrade: pip",
        ),
        (lambda f: edit(f, format=0), r"has format 0, expected 1, .* Save it again with this version"),
        (lambda f: edit(f, format=...), r"config.json does not describe a kshot learner: expected the keys format and"),
        (lambda f: edit(f, digest="0" * 64), r"is damaged or was edited: its content has the digest"),
        (
            lambda f: edit(f, config={"class": "elsewhere.Net", "arguments": {}}),
            r"'elsewhere.Net', which is not imported",
        ),
        (
            lambda f: edit(f, config={"class": "kshot.learners.maml.MAMLE"}),
            r"the learner in .* cannot be built: .*MAMLE",
        ),
        (lambda f: edit(f, config={"arguments": {}}), r"cannot be built: it lacks 'class'"),
        (
            lambda f: edit(f, config={"class": "kshot.learners.protonet.ProtoNet", "arguments": {"net": 1}}),
            r"does not take the saved arguments \['net'\]",
        ),
        (
            lambda f: edit(f, config={"class": "kshot.models.mlp.MLP", "arguments": {"in_features": 2}}),
            r"cannot be built: expected a learner, got a MLP",
        ),
        (lambda f: edit(f, transform={"kind": "smell"}), r"cannot be built: .*image, table or identity, got 'smell'"),
        (lambda f: (f / "config.json").write_text("{"), r"config.json is damaged: expected JSON"),
        (lambda f: (f / "model.safetensors").unlink(), r"there is no file .*model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"PK" * 100), r"model.safetensors is not a safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), r"model.safetensors is not a safetensors file"),
        (
            lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-8]),
            r"model.safetensors is truncated: it ends after [\d,]+ bytes",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:50]),
            r"model.safetensors is truncated: it ends after 50 bytes",
        ),
    ],
)
def test_what_cannot_be_loaded(protonet, tmp_path, damage, message):
    path = protonet.save_pretrained(tmp_path / "x")
    damage(path)
    with pytest.raises(ArtifactError, match=message):
        artifacts.from_pretrained(path)


def test_keys_and_shapes_are_named(protonet, tmp_path):
    path = protonet.save_pretrained(tmp_path / "x")
    tensors, _ = artifacts.load_tensors(path / "model.safetensors")
    first = next(iter(tensors))
    artifacts.save_tensors(
        path / "model.safetensors", {"other": torch.zeros(1), **{k: v for k, v in tensors.items() if k != first}}
    )
    with pytest.raises(
        ArtifactError, match=rf"does not fit ProtoNet: expected its \d+ tensors.*missing: {first}; unexp"
    ):
        artifacts.from_pretrained(path)
    artifacts.save_tensors(path / "model.safetensors", {**tensors, first: torch.zeros(7)})
    with pytest.raises(ArtifactError, match=rf"does not fit ProtoNet: {first} \[7\] instead of \["):
        artifacts.from_pretrained(path)


def test_an_edit_on_purpose(protonet, tmp_path):
    maml = kshot.MAML(models.MLP(2), way=3, inner_steps=1)
    path = maml.save_pretrained(tmp_path / "x")
    config = maml.config
    config["arguments"]["inner_steps"] = 4
    edit(path, config=config)
    with pytest.raises(ArtifactError, match="if you edited config.json on purpose, set its digest to null"):
        artifacts.from_pretrained(path)
    edit(path, digest=None)
    assert artifacts.from_pretrained(path).inner_steps == 4


def test_places_without_a_learner(tmp_path):
    with pytest.raises(ArtifactError, match="holds no learner: expected a folder with config.json"):
        artifacts.from_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="there is no folder nowhere/at/all: expected a saved learner or a run"):
        artifacts.from_pretrained("nowhere/at/all")
    (tmp_path / "task.safetensors").write_text("")
    with pytest.raises(ArtifactError, match="is a file, expected the folder of a learner. A task file"):
        artifacts.from_pretrained(tmp_path / "task.safetensors")


def test_what_cannot_be_saved(protonet, tmp_path):
    protonet.provenance = {"when": object()}
    with pytest.raises(ArtifactError, match=r"provenance cannot be written as JSON .* keep plain values"):
        protonet.save_pretrained(tmp_path / "x")
    learner = kshot.ProtoNet(nn.Linear(2, 3))
    with pytest.raises(ArtifactError, match=r"ProtoNet\(backbone=...\) holds a torch.*Linear.* kshot.models.Backbone"):
        learner.save_pretrained(tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_learner_that_a_user_defined_is_found_once_imported(tmp_path, monkeypatch):
    path = Tied().save_pretrained(tmp_path / "x")
    assert isinstance(artifacts.from_pretrained(path), Tied)
    monkeypatch.delitem(capture._classes, capture.qualified_name(Tied))
    with pytest.raises(ArtifactError, match=r"Tied', which is not imported. Import the module that defines it first"):
        artifacts.from_pretrained(path)


class Stacked(kshot.models.Backbone):
    def __init__(self, *widths):
        super().__init__()
        self.out_features = widths[-1]


def test_arguments_without_a_name_cannot_be_saved(tmp_path):
    learner = kshot.ProtoNet(Stacked(4, 5))
    with pytest.raises(
        ArtifactError, match=r"Stacked\(widths=...\) can only be given by position, .* \(a list instead of \*args\)"
    ):
        learner.save_pretrained(tmp_path / "x")
