"""A project from its definition to its report, and the quickstart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import Kshot, real, write_images

PROJECT = """
out: runs/p
tasks: {data: DATA, way: 2, shot: 1, query: 3, options: {size: 16}}
learner: {choose: auto, candidates: [{name: protonet}, {name: maml, inner_lr: 0.1}], steps: 3, val_tasks: 10}
backbone: {name: conv4, channels: 4}
training: {steps: 4, meta_batch: 2, val_every: 2, val_tasks: 10}
validate: {tasks: 6}
deploy: {tolerance: 100, settings: {calibration: 4}}
"""


@pytest.fixture
def project(images: Path) -> Path:
    path = Path("project.yaml")
    path.write_text(PROJECT.replace("DATA", str(images)))
    return path


def states(text: str) -> dict[str, str]:
    """What was said of each step: "Define tasks" to "skipped, ..."."""
    lines = [line.partition("] ")[2] for line in text.splitlines() if line.startswith("[")]
    return {title: what for title, _, what in (line.partition(": ") for line in lines)}


def done(text: str) -> list[str]:
    return [title for title, what in states(text).items() if not what.startswith("skipped")]


EVERY = [
    "Define tasks",
    "Gather data",
    "Choose the learner",
    "Train the baseline",
    "Meta-train",
    "Validate on unseen tasks",
    "Report",
    "Deploy",
    "Monitor",
]


def test_a_project(kshot: Kshot, project: Path, images: Path) -> None:
    first = kshot("pipeline")
    assert done(first.stdout) == EVERY
    assert "train 8 classes, 64 examples; val 2 classes, 16 examples; test 2 classes, 16 examples" in first.stdout
    assert "Done: open runs/p/report.html." in first.stdout
    state = json.loads(Path("runs/p/pipeline.json").read_text())["steps"]
    tried = state["learner"]["result"]["candidates"]
    assert [one["learner"]["name"] for one in tried] == ["protonet", "maml"]
    assert all(0 <= one["val"] <= 1 for one in tried)
    assert "conventional network" not in first.stderr.partition("unseen tasks")[2], "the baseline was trained before"

    assert done(kshot("pipeline").stdout) == []

    # Another number of tasks to validate on concerns the last two steps.
    text = project.read_text().replace("validate: {tasks: 6}", "validate: {tasks: 8}")
    project.write_text(text)
    again = kshot("pipeline")
    assert done(again.stdout) == ["Validate on unseen tasks", "Report"]
    assert states(again.stdout)["Validate on unseen tasks"] == "its section of the project changed"

    # A file that was touched and not changed is read again, and changes nothing.
    file = next(images.rglob("*.png"))
    file.write_bytes(file.read_bytes())
    assert done(kshot("pipeline").stdout) in ([], ["Gather data"])

    # Another learner: the old run is kept.
    project.write_text(text.replace("choose: auto", "choose: anil"))
    other = kshot("pipeline")
    assert done(other.stdout) == EVERY[2:]
    assert "anil, as the project says" in other.stdout
    assert Path("runs/p/run.1/learner/config.json").is_file()

    assert done(kshot("pipeline", "--from", "report").stdout) == ["Report", "Deploy", "Monitor"]
    result = kshot("pipeline", "--from", "reprot", code=2)
    assert "there is no step 'reprot' to begin from. Did you mean 'report'?" in result.stderr


def test_new_data_is_noticed(kshot: Kshot, project: Path, images: Path) -> None:
    text = project.read_text().replace("choose: auto", "choose: protonet") + "baseline: {train: false}\n"
    project.write_text(text)
    kshot("pipeline")
    write_images(images, ["another"], 8, seed=3)
    again = states(kshot("pipeline").stdout)
    assert again["Define tasks"].startswith("skipped")
    assert again["Gather data"] == "its section of the project changed"
    assert "the result of 'data'" in again["Meta-train"]


def test_a_candidate_that_cannot_is_left_out(kshot: Kshot) -> None:
    Path("p.yaml").write_text(
        "out: runs/s\ntasks: {data: sinusoids, shot: 5, query: 5}\nbackbone: {name: mlp, hidden: [8]}\n"
        "learner: {steps: 2, val_tasks: 4, candidates: [{name: protonet}, {name: maml, inner_lr: 0.01}]}\n"
        "training: {steps: 2, meta_batch: 2, val_tasks: 4, mode: vmap}\nvalidate: {tasks: 4}\n"
        "baseline: {train: false}\n"
    )
    text = kshot("pipeline", "p.yaml").stdout
    assert "left out: protonet: " in text
    assert "maml: the best on val tasks after 2 steps each" in text
    assert Path("runs/s/report.html").is_file()


def test_a_project_of_missing_data(kshot: Kshot) -> None:
    Path("p.yaml").write_text("out: runs/p\ntasks: {data: ./nowhere}\n")
    result = kshot("pipeline", "p.yaml", code=1)
    assert "there is no file or folder" in result.stderr
    assert "correct data: in the project's tasks" in result.stderr
    Path("p.yaml").write_text("out: runs/p\ntasks: {data: omniglt}\n")
    assert "Did you mean 'omniglot'?" in kshot("pipeline", "p.yaml", code=1).stderr


def test_a_project_with_an_unknown_learner(kshot: Kshot, project: Path) -> None:
    project.write_text(project.read_text().replace("choose: auto", "choose: protonte"))
    result = kshot("pipeline", code=2)
    assert "error: the project: unknown learner 'protonte'. Did you mean 'protonet'?" in result.stderr
    project.write_text(project.read_text().replace("val_every", "val_evry"))
    assert "Did you mean 'val_every'?" in kshot("pipeline", code=2).stderr


def test_the_quickstart() -> None:
    config = (
        "learner: protonet\nbackbone: {name: conv4, channels: 8}\n"
        "data: {name: glyphs, way: 5, shot: 1, query: 5, train: {way: 10, query: 2}}\n"
        "training: {steps: 20, meta_batch: 1}\n"
    )
    Path("small.yaml").write_text(config)
    result = real("quickstart", "--fast", "--config", "small.yaml", "--out", "run")
    for part in (
        "1. Meta-training",
        "2. On scripts that it has never seen",
        "3. The same learner, not trained any further, on real handwriting",
        "$ kshot adapt run --support run/task/support --out run/task.safetensors",
        "of 15 right, from one example of each class",
        "Open run/report.html",
        "kshot adapt run --support MY_FOLDER/",
    ):
        assert part in result.stdout
    assert "Cyrillic and Lao script" in result.stdout
    assert Path("run/report.html").is_file()
    predicted = real("predict", "run/task.safetensors", "run/task/new", "--json")
    assert len(json.loads(predicted.stdout)) == 15


def test_a_finished_quickstart_is_left_alone(tmp_path: Path) -> None:
    from kshot.cli.quickstart import place

    out = tmp_path / "quickstart"
    assert place(out) == (out, False)
    (out / "checkpoints").mkdir(parents=True)
    assert place(out) == (out, True)
    (out / "report.html").touch()
    assert place(out) == (tmp_path / "quickstart-2", False)
