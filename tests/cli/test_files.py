"""adapt and predict: from a folder per class to labels with probabilities."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
from cli_helpers import Kshot, real, write_images
from PIL import Image

from kshot import MAML, ProtoNet, SoftKMeansProtoNet
from kshot.artifacts import load_adapted
from kshot.cli.example_files import class_name, write_task
from kshot.datasets import Column, ImageTransform, Pool, TableTransform
from kshot.models import MLP, Conv4


@pytest.fixture
def learner(tmp_path: Path) -> Path:
    """An untrained learner of grey 20 x 20 images."""
    torch.manual_seed(0)
    made = ProtoNet(Conv4(in_channels=1, channels=8, image_size=20))
    made.transform = ImageTransform((20, 20), channels=1)
    return made.save_pretrained(tmp_path / "learner")


@pytest.fixture
def support(tmp_path: Path) -> Path:
    return write_images(tmp_path / "support", ["cat", "dog", "Größe"], 3)


def test_from_files_to_labels(kshot: Kshot, learner: Path, support: Path, tmp_path: Path) -> None:
    new = write_images(tmp_path / "new", ["cat", "dog", "Größe"], 2, seed=7)
    result = kshot("adapt", learner, "--support", support, "--out", "task.safetensors")
    assert "ProtoNet adapted to 3 classes (examples): Größe (3), cat (3), dog (3)" in result.stdout
    assert "Next: kshot predict task.safetensors FILES..." in result.stdout
    rows = json.loads(kshot("predict", "task.safetensors", new, "--json").stdout)
    assert len(rows) == 6
    for row in rows:
        assert row["label"] == Path(row["file"]).parent.name
        assert row["label"] == next(iter(row["probabilities"]))
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    plain = kshot("predict", "task.safetensors", new / "dog" / "0.png", "--top", "1").stdout
    assert plain.split()[:2] == [str(new / "dog" / "0.png"), "dog"]
    assert "cat" not in plain


def test_files_without_labels_count(kshot: Kshot, learner: Path, support: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    soft = SoftKMeansProtoNet(Conv4(in_channels=1, channels=8, image_size=20))
    soft.transform = ImageTransform((20, 20), channels=1)
    soft.save_pretrained(tmp_path / "soft")
    more = write_images(tmp_path / "more", ["cat", "dog"], 2, seed=7)
    ask = ("adapt", tmp_path / "soft", "--support", support, "--out")
    result = kshot(*ask, "with.safetensors", "--unlabeled", more / "cat", "--unlabeled", more / "dog" / "0.png")
    assert "and by 3 examples without a label" in result.stdout
    kshot(*ask, "without.safetensors")
    tasks = [load_adapted(f"{name}.safetensors") for name in ("with", "without")]
    assert tasks[0].metadata["unlabeled"] == [str(more / "cat" / f"{i}.png") for i in (0, 1)] + [
        str(more / "dog" / "0.png")
    ]
    assert not torch.equal(tasks[0].adapted["prototypes"], tasks[1].adapted["prototypes"])
    assert json.loads(kshot(*ask, "a.safetensors", "--unlabeled", more, "--json").stdout)["unlabeled"] == 4
    result = kshot("adapt", learner, "--support", support, "--unlabeled", more, code=1)
    assert "error: ProtoNet makes no use of unlabelled examples: leave unlabeled out, or use a learner" in result.stderr
    result = kshot(*ask, "b.safetensors", "--unlabeled", "none", code=1)
    assert "error: there is no file none: check the path" in result.stderr


def test_json_of_adapt(kshot: Kshot, learner: Path, support: Path) -> None:
    found = json.loads(kshot("adapt", learner, "--support", support, "--json").stdout)
    assert found["classes"] == {"Größe": 3, "cat": 3, "dog": 3}
    assert Path(found["task"]).is_file()


def test_a_zip_is_a_support_set(kshot: Kshot, learner: Path, support: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for file in sorted(support.rglob("*.png")):
            archive.write(file, file.relative_to(support))
    assert "3 classes" in kshot("adapt", learner, "--support", tmp_path / "s.zip").stdout


def test_a_moved_learner(kshot: Kshot, learner: Path, support: Path, tmp_path: Path) -> None:
    kshot("adapt", learner, "--support", support)
    moved = learner.rename(tmp_path / "moved")
    file = support / "cat" / "0.png"
    result = kshot("predict", "task.safetensors", file, code=1)
    assert "error: task.safetensors belongs to a ProtoNet which is not found" in result.stderr
    assert "--run FOLDER" in result.stderr
    assert kshot("predict", "task.safetensors", file, "--run", moved).stdout.split()[1] == "cat"


def test_steps_of_the_inner_loop(kshot: Kshot, learner: Path, support: Path, tmp_path: Path) -> None:
    made = MAML(Conv4(in_channels=1, channels=8, image_size=20), way=3)
    made.transform = ImageTransform((20, 20), channels=1)
    made.save_pretrained(tmp_path / "maml")
    assert "MAML adapted" in kshot("adapt", tmp_path / "maml", "--support", support, "--steps", "2").stdout
    result = kshot("adapt", learner, "--support", support, "--steps", "2", code=1)
    assert "error: ProtoNet.adapt takes no option 'steps'. It takes: no options." in result.stderr


def test_bad_support(kshot: Kshot, learner: Path, tmp_path: Path) -> None:
    result = kshot("adapt", learner, "--support", tmp_path / "none", code=1)
    assert result.stderr.startswith("error: ")
    assert str(tmp_path / "none") in result.stderr
    one = write_images(tmp_path / "one", ["cat"], 3)
    result = kshot("adapt", learner, "--support", one, code=1)
    assert "error: expected a support set of at least two classes, got 1 (cat)" in result.stderr
    assert not Path("task.safetensors").exists()
    result = kshot("adapt", learner, code=2)
    assert "error: Missing option '--support'" in result.stderr
    assert "See: kshot adapt --help" in result.stderr


def test_a_corrupt_image(kshot: Kshot, learner: Path, support: Path) -> None:
    bad = support / "cat" / "torn.png"
    bad.write_bytes((support / "cat" / "0.png").read_bytes()[:60])
    result = kshot("adapt", learner, "--support", support, code=1)
    assert "torn.png" in result.stderr
    assert "--skip-bad" in result.stderr
    assert "cat (3)" in kshot("adapt", learner, "--support", support, "--skip-bad").stdout
    for options in ([bad], [bad, "--skip-bad"]):
        result = kshot("predict", "task.safetensors", *options, code=1)
        assert "torn.png is damaged" in result.stderr
    (support / "notes.txt").write_text("no image")
    rows = json.loads(kshot("predict", "task.safetensors", support, "--skip-bad", "--json").stdout)
    assert len(rows) == 9
    assert not any("torn" in row["file"] for row in rows)


def test_files_that_are_not_there(kshot: Kshot, learner: Path, support: Path) -> None:
    kshot("adapt", learner, "--support", support)
    result = kshot("predict", "task.safetensors", "none.png", code=1)
    assert "error: there is no file none.png: check the path; it is relative to" in result.stderr
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("a")
    result = kshot("predict", "task.safetensors", "texts", code=1)
    assert "expected images in texts, got a.txt and no image" in result.stderr
    Path("empty").mkdir()
    result = kshot("predict", "task.safetensors", "empty", code=1)
    assert "expected files in empty, got an empty folder" in result.stderr
    result = kshot("predict", "none.safetensors", support / "cat" / "0.png", code=1)
    assert "none.safetensors" in result.stderr


def test_a_learner_without_files(kshot: Kshot, support: Path, tmp_path: Path) -> None:
    MAML(MLP(1, out_features=1)).save_pretrained(tmp_path / "sines")
    result = kshot("adapt", tmp_path / "sines", "--support", support, code=1)
    assert "error: this MAML was saved without a transform, so nothing says how it reads files" in result.stderr


def test_a_run_that_is_none(kshot: Kshot, support: Path) -> None:
    result = kshot("adapt", "runs/none", "--support", support, code=1)
    assert "error: there is no folder runs/none: expected a saved learner or a run" in result.stderr


def test_no_permission(learner: Path, support: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = real("adapt", learner, "--support", support, "--out", tmp_path / "file" / "task.safetensors", code=1)
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


def test_example_files(kshot: Kshot, learner: Path, tmp_path: Path) -> None:
    assert class_name("armenian/Ա") == "armenian-capital-ayb"
    assert class_name("7") == "digit-seven"
    x = torch.randint(0, 256, (6 * 5, 1, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pool = Pool.from_arrays(x, [f"class {c}" for c in range(6) for _ in range(5)])
    files = write_task(pool, tmp_path / "task", way=4, shot=2, query=3)
    assert len(files) == 12
    folders = sorted((tmp_path / "task" / "support").iterdir())
    assert [len(list(folder.iterdir())) for folder in folders] == [2] * 4
    with Image.open(files[0]) as image:
        assert image.size == (80, 80)
    assert {file.stem.rpartition("-")[0] for file in files} == {folder.name for folder in folders}
    kshot("adapt", learner, "--support", tmp_path / "task" / "support")
    kshot("predict", "task.safetensors", *files)


def test_a_table(kshot: Kshot, tmp_path: Path) -> None:
    """The learner's own scale is applied: a column in thousands would drown the one that tells the classes apart."""
    torch.manual_seed(0)
    made = ProtoNet(MLP(2, hidden=()))
    columns = (Column("mass"), Column("length"))
    made.transform = TableTransform(columns, (5000.0, 0.5), (1000.0, 0.1))
    learner = made.save_pretrained(tmp_path / "tables")
    support, new = tmp_path / "support.csv", tmp_path / "new.csv"
    support.write_text("length,mass,label\n0.1,5000,small\n0.9,5100,large\n")
    new.write_text("id,mass,length\na,5090,0.12\nb,4000,0.85\n")
    kshot("adapt", learner, "--support", support)
    rows = json.loads(kshot("predict", "task.safetensors", new, "--json").stdout)
    assert [(row["file"], row["label"]) for row in rows] == [(f"{new}:2", "small"), (f"{new}:3", "large")]
    new.write_text("mass\n5000\n")
    assert "has no column 'length'" in kshot("predict", "task.safetensors", new, code=1).stderr
