"""train, evaluate and report: from a folder of images to numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cli_helpers import Kshot, real, write_images

TINY = ("--way", 2, "--shot", 1, "--query", 3, "--backbone", "conv4", "--set", "backbone.channels=4")
QUICK = ("--set", "training.meta_batch=2", "--set", "training.val_tasks=10", "--set", "data.options.size=16")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `images/` and `run/`, which was trained on them."""
    folder = tmp_path_factory.mktemp("trained")
    write_images(folder / "images", [f"class{c:02d}" for c in range(12)], 8)
    real("train", "--data", folder / "images", *TINY, *QUICK, "--steps", 4, "--out", folder / "run")
    return folder


def test_a_run(trained: Path) -> None:
    run = trained / "run"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["learner"] == {"name": "protonet"}
    assert config["data"]["name"] == str(trained / "images")
    assert config["backbone"]["channels"] == 4
    assert config["training"]["steps"] == 4
    assert {path.name for path in (run / "learner").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert len((run / "metrics.jsonl").read_text().splitlines()) >= 1


def test_train_in_json(kshot: Kshot, images: Path) -> None:
    result = kshot("train", "--data", images, *TINY, *QUICK, "--steps", 2, "--json")
    found = json.loads(result.stdout)
    assert found["run"] == "runs/images-protonet"
    assert found["steps"] == 2
    assert 0 <= found["val"]["mean"] <= 1
    assert "learner:\n  name: protonet" in result.stderr, "the resolved configuration is said"


def test_the_environment_and_flags(kshot: Kshot, images: Path) -> None:
    environment = {"KSHOT_TRAINING__LR": "0.5", "KSHOT_TRAINING__SEED": "4", "KSHOT_TRAIN_STEPS": "2"}
    kshot("train", "--data", images, *TINY, *QUICK, "--seed", 7, "--learner", "anil", "--out", "run", env=environment)
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["training"]["lr"] == 0.5
    assert config["training"]["seed"] == 7
    assert config["training"]["steps"] == 2
    assert config["learner"] == {"name": "anil", "way": 2}


def test_functions(kshot: Kshot) -> None:
    Path("sines.yaml").write_text(
        "learner: {name: maml, inner_lr: 1e-2}\nbackbone: {name: mlp, hidden: [8]}\n"
        "data: {name: sinusoids, shot: 5, query: 5}\n"
        "training: {steps: 2, meta_batch: 2, val_tasks: 4, mode: vmap}\nout: runs/sines\n"
    )
    kshot("train", "sines.yaml")
    found = json.loads(kshot("evaluate", "runs/sines", "--shot", 3, "--tasks", 6, "--no-baselines", "--json").stdout)
    assert found["metric"] == "mse"
    assert found["settings"]["shot"] == 3


def test_sequences(kshot: Kshot) -> None:
    Path("copy.yaml").write_text(
        "learner: {name: ntm, hidden: 8, slots: 4, width: 3}\n"
        "data: {name: copy, options: {width: 2, length: [1, 3]}, test: {length: 4}}\n"
        "training: {steps: 2, meta_batch: 2, val_tasks: 4, mode: native}\nout: runs/copy\n"
    )
    result = kshot("train", "copy.yaml")
    assert "in_features: 3" in result.stderr + result.stdout
    evaluated = kshot("evaluate", "runs/copy", "--tasks", 6)
    assert "no baselines" in evaluated.output
    found = json.loads(kshot("evaluate", "runs/copy", "--tasks", 6, "--json").stdout)
    assert found["metric"] == "bit_error"
    assert found["settings"]["tasks"] == "test, width 2, length 4 to 4"
    assert 0 <= found["mean"] <= 1
    assert Path("runs/copy/evaluation-copy-5steps.json").exists()
    refused = kshot("evaluate", "runs/copy", "--data", "repeat_copy", "--tasks", 4, code=1)
    assert "answers with 2 bits a step, the tasks of test ask for 9" in " ".join(refused.output.split())
    assert "unknown option 'shot' for tasks of Copy" in kshot("evaluate", "runs/copy", "--shot", 3, code=2).output


def test_evaluate_on_the_own_test_classes(kshot: Kshot, trained: Path) -> None:
    result = kshot("evaluate", trained / "run", "--tasks", 6, "--no-baselines", "--json")
    found = json.loads(result.stdout)
    assert found["n"] == 6
    assert found["settings"]["tasks"] == "test, 2-way 1-shot, 3 queries a class"
    again = kshot("evaluate", trained / "run", "--data", trained / "images", "--tasks", 6, "--no-baselines", "--json")
    assert json.loads(again.stdout)["mean"] == found["mean"], "the path of its own data means the same"
    kept = trained / "run" / "evaluation-images-2way-1shot.json"
    assert json.loads(kept.read_text())["n"] == 6
    kshot("evaluate", trained / "run", "--tasks", 3, "--no-baselines")
    assert json.loads(kept.read_text())["n"] == 6, "a quick look does not cost the result of hours"
    assert json.loads(kept.with_name("evaluation-images-2way-1shot-2.json").read_text())["n"] == 3
    kshot("evaluate", trained / "run", "--tasks", 6, "--no-baselines")
    assert not kept.with_name("evaluation-images-2way-1shot-3.json").exists(), "the same again is the same"


def test_accuracy_by_instance(kshot: Kshot, images: Path, trained: Path) -> None:
    longer = ("--set", "data.train.shot=2")
    kshot("train", "--data", images, *TINY, *QUICK, *longer, "--learner", "lstmlearner", "--steps", 2, "--out", "lstm")
    asked = ("--tasks", 5, "--shot", 2, "--no-baselines", "--instances")
    result = kshot("evaluate", "lstm", *asked)
    assert "Accuracy at a class's example, before its label is seen:" in result.stdout
    assert len(json.loads(kshot("evaluate", "lstm", *asked, "--json").stdout)["by_instance"]) == 2
    before = sorted(p.name for p in (trained / "run").iterdir())
    refused = kshot("evaluate", trained / "run", *asked, code=1)
    assert "ProtoNet answers after its support" in refused.stderr
    assert "accuracy" not in refused.stdout, "told before an evaluation that would be lost"
    assert sorted(p.name for p in (trained / "run").iterdir()) == before
    seen = kshot("evaluate", "lstm", *asked, "--allow-seen", "--data", images, "--json")
    assert len(json.loads(seen.stdout)["by_instance"]) == 2
    longest = kshot("evaluate", "lstm", "--tasks", 5, "--shot", 3, code=1).stderr
    assert "this LSTMLearner was made or trained for at most 4 support examples, the tasks of test have 6" in longest


def test_one_training_with_and_without_the_queries_statistics(kshot: Kshot, images: Path, trained: Path) -> None:
    """Variants by name, too: FOMAML is `maml` of order 1."""
    kshot("train", "--data", images, *TINY, *QUICK, "--learner", "fomaml", "--steps", 2, "--out", "fomaml")
    asked = ("fomaml", "--tasks", 20, "--no-baselines", "--json")
    assert yaml.safe_load(Path("fomaml/config.yaml").read_text())["learner"]["order"] == 1
    found = {norm: json.loads(kshot("evaluate", *asked, "--norm", norm).stdout) for norm in ("support", "batch")}
    assert {norm: one["transductive"] for norm, one in found.items()} == {"support": False, "batch": True}
    assert json.loads(kshot("evaluate", *asked).stdout)["mean"] == found["support"]["mean"], "as it was trained"
    assert len(list(Path("fomaml").glob("evaluation-*.json"))) == 3, "one does not write over the other"
    refused = kshot("evaluate", trained / "run", "--norm", "batch", code=1).stderr
    assert "this ProtoNet has no batch normalisation whose statistics could be others: leave out --norm" in refused
    refused = kshot("evaluate", "fomaml", "--norm", "query", code=1).stderr
    assert "expected --norm to be support or batch, got 'query'" in refused


def test_evaluate_on_other_data(kshot: Kshot, trained: Path, tmp_path: Path) -> None:
    other = write_images(tmp_path / "other", [f"new{c}" for c in range(4)], 6, seed=5)
    found = json.loads(
        kshot("evaluate", trained / "run", "--data", other, "--way", 4, "--tasks", 5, "--no-baselines", "--json").stdout
    )
    assert found["settings"]["way"] == 4
    assert found["settings"]["source"]["transform"]["size"] == [16, 16], "read as the learner reads images"
    digits = kshot("evaluate", trained / "run", "--data", "digits", "--tasks", 5, "--no-baselines").stdout
    assert "ProtoNet on 5 unseen tasks of digits" in digits


def test_seen_classes_are_refused(kshot: Kshot, trained: Path, tmp_path: Path) -> None:
    copies = write_images(tmp_path / "copies", [f"class{c:02d}" for c in range(12)], 8)
    result = kshot("evaluate", trained / "run", "--data", copies, "--tasks", 5, code=1)
    assert "has never seen" in result.stderr
    found = kshot("evaluate", trained / "run", "--data", copies, "--tasks", 5, "--allow-seen", "--no-baselines")
    assert "are not new to the learner" in found.stdout


def test_evaluate_under_stress_beside_baselines(kshot: Kshot, trained: Path) -> None:
    result = kshot("evaluate", trained / "run", "--tasks", 4, "--stress", "--json")
    assert "use whichever is cheaper" in result.stderr or "se the learner" in result.stderr or "Do not" in result.stderr
    found = json.loads(result.stdout)
    assert set(found["baselines"]) == {"fine_tuned", "linear_probe", "nearest_centroid", "from_scratch"}
    assert found["stress"]["conditions"]


def test_report(kshot: Kshot, trained: Path) -> None:
    result = kshot("report", trained / "run", "--tasks", 6)
    assert f"Report: {trained / 'run' / 'report.html'}" in result.stdout
    assert "<html" in (trained / "run" / "report.html").read_text()
    json.loads((trained / "run" / "report.json").read_text())


def test_a_report_that_cannot_be_kept_is_not_begun(kshot: Kshot, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = kshot("report", trained / "run", "--tasks", 6, "--out", tmp_path / "file" / "report.html", code=1)
    assert "report.html cannot be written" in result.stderr
    assert "%" not in result.stderr, "nothing was measured"


def test_digits_are_for_evaluating(kshot: Kshot) -> None:
    result = kshot("train", "--data", "digits", code=1)
    assert "only test classes: they are for evaluating: kshot evaluate RUN --data" in result.stderr


def test_a_run_folder_is_never_overwritten_by_itself(kshot: Kshot, trained: Path) -> None:
    run = trained / "run"
    result = kshot("train", "--data", trained / "images", *TINY, *QUICK, "--out", run, code=1)
    assert f"error: {run} holds a run already, at step 4." in result.stderr
    assert f"kshot train --resume {run}" in result.stderr


def test_a_finished_run_resumed_stays(kshot: Kshot, trained: Path) -> None:
    before = (trained / "run" / "learner" / "model.safetensors").read_bytes()
    kshot("train", "--resume", trained / "run")
    assert (trained / "run" / "learner" / "model.safetensors").read_bytes() == before


def test_another_setting_in_a_resumed_run(kshot: Kshot, trained: Path) -> None:
    result = kshot("train", "--resume", trained / "run", "--set", "training.lr=1", code=2)
    assert result.stderr.startswith("error: ")
    assert "lr" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_control_c_saves_and_says_how_to_resume(images: Path) -> None:
    command = [sys.executable, "-m", "kshot", "train", "--data", images, *TINY, *QUICK, "--out", "run"]
    process = subprocess.Popen(
        [str(word) for word in [*command, "--steps", 100000, "--set", "training.val_every=1"]],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    for line in process.stderr:  # until it is under way
        if line.startswith("step "):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "interrupted. Resume with: kshot train --resume run" in errors
    assert "Traceback" not in errors
    assert any(Path("run/checkpoints").iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "expected a configuration, or --data"),
        (("quickstrat",), 2, "Did you mean 'quickstart'?"),
        (("--data", "omniglt"), 1, "there is no dataset called 'omniglt'. Did you mean 'omniglot'?"),
        (("--data", "sinusoid"), 1, "Did you mean 'sinusoids'?"),
        (("--data", "functions"), 1, "Tasks are generated of sinusoids, lines, "),
        (("--data", "none/here"), 1, "there is no file or folder none/here"),
        (("--data", "digits", "--learner", "protone"), 2, "unknown learner 'protone'. Did you mean 'protonet'?"),
        (("--data", "glyphs", "--set", "training.stpes=3"), 2, "unknown key training.stpes. Did you mean 'steps'?"),
        (
            ("--data", "glyphs", "--set", "training.steps=many"),
            2,
            "training.steps: expected a whole number, got 'many'",
        ),
        (("--data", "glyphs", "--set", "learner.inner_lr=1"), 2, "unknown key learner.inner_lr for ProtoNet"),
        (("--data", "glyphs", "--set", "data.options.fnots=6"), 2, "Did you mean 'fonts'?"),
        (
            ("--data", "glyphs", "--device", "gpu0"),
            2,
            "expected a device such as 'auto', 'cpu' or 'cuda:0', got 'gpu0'",
        ),
        (("--data", "glyphs", "--steps", "0"), 2, "Invalid value for '--steps'"),
        (("--data", "glyphs", "--way", "2000"), 1, "expected at least way=2000 classes"),
        (("--data", "glyphs", "--query", "50"), 1, "expected at least 51 examples"),
        (("--resume", "runs/none"), 1, "there is no run runs/none to resume"),
    ],
)
def test_bad_input(kshot: Kshot, arguments: tuple[str, ...], code: int, message: str) -> None:
    result = kshot("train", *arguments, code=code)
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert not Path("runs").exists(), "nothing was begun"


def test_too_few_classes_offers_the_shipped_learner(kshot: Kshot, tmp_path: Path) -> None:
    few = write_images(tmp_path / "few", ["a", "b", "c"], 5)
    result = kshot("train", "--data", few, code=1)
    assert "3 classes: too few for disjoint train, val and test splits" in result.stderr
    assert f"kshot adapt characters --support {few}" in result.stderr


def test_a_corrupt_image_in_training(kshot: Kshot, images: Path) -> None:
    (images / "class03" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = kshot("train", "--data", images, *TINY, *QUICK, "--steps", 1, code=1)
    assert "torn.png" in result.stderr
    result = kshot("train", "--data", images, *TINY, *QUICK, "--steps", 1, "--skip-bad", "--json")
    assert json.loads(result.stdout)["bad_files"] == ["class03/torn.png"]


def test_a_csv(kshot: Kshot, tmp_path: Path) -> None:
    rows = [f"{c + 0.01 * i},{-c},{c % 3},kind{c:02d}" for c in range(9) for i in range(8)]
    (tmp_path / "table.csv").write_text("a,b,c,label\n" + "\n".join(rows))
    kshot("train", "--data", tmp_path / "table.csv", "--way", 2, "--query", 3, "--steps", 2, "--out", "run", *QUICK[:4])
    found = kshot("evaluate", "run", "--tasks", 4, "--no-baselines").stdout
    assert "ProtoNet on 4 unseen tasks of table" in found
    result = kshot("adapt", "run", "--support", tmp_path / "table.csv")
    assert "ProtoNet adapted to 9 classes" in result.stdout


def test_data_of_another_kind(kshot: Kshot, trained: Path, tmp_path: Path) -> None:
    rows = [f"{c + 0.01 * i},{-c},kind{c:02d}" for c in range(9) for i in range(8)]
    table = tmp_path / "table.csv"
    table.write_text("width,height,label\n" + "\n".join(rows))
    kshot("train", "--data", table, "--way", 2, "--query", 3, "--steps", 2, "--out", "run", *QUICK[:4])
    reads = "this learner was trained on tables with the columns width, height"
    assert f"is a folder, but {reads}" in kshot("adapt", "run", "--support", trained / "images", code=1).stderr
    wrong = kshot("adapt", trained / "run", "--support", table, code=1).stderr
    assert "table.csv is a table, but this learner was trained on images: expected a folder" in wrong
    wrong = kshot("evaluate", "run", "--data", trained / "images", code=2).stderr
    assert "images holds images, but the learner was trained on tables with the columns width, height" in wrong
    wrong = kshot("evaluate", trained / "run", "--data", table, code=2).stderr
    assert "table.csv is a table, but the learner was trained on images" in wrong
    kshot("adapt", "run", "--support", table, "--out", "task.safetensors")
    picture = next((trained / "images").rglob("*.png"))
    assert f"is no table, but {reads}" in kshot("predict", "task.safetensors", picture, code=1).stderr
    table.write_text("width,height,label\n1,nan,a\n2,3,b\n")
    gap = kshot("adapt", "run", "--support", table, code=1).stderr
    assert "a value is missing in line 2, column 'height'" in gap
    assert "it is 'nan'. Fill it in; or train with the option missing='mean' (--set data.options.missing=mean)" in gap
