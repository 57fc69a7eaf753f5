"""kshot compare: from a folder of images to a table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import Kshot

from kshot.cli.compare import duration
from kshot.errors import ConfigError

TINY = ("--way", 2, "--shot", 1, "--query", 3, "--backbone", "conv4", "--set", "backbone.channels=4")
QUICK = ("--set", "data.options.size=16", "--budget", "0.2s", "--tasks", 10)
TWO = ("--learner", "protonet", "--learner", "maml,inner_lr=0.1,training.lr=0.01")


def test_a_comparison(kshot: Kshot, images: Path) -> None:
    result = kshot("compare", "--data", images, *TINY, *QUICK, *TWO, "--learner", "snail,max_support=1")
    out = Path("runs/compare-images")
    assert "ProtoNet: accuracy % " in result.stdout
    assert "SNAIL max_support=1: left out: " in result.stdout
    assert "2 learners, 200 ms of training each, on the same 10 unseen tasks of images" in result.stdout
    assert "ProtoNet: % of training: " in result.stderr
    found = json.loads((out / "comparison.json").read_text())
    assert {one["label"] for one in found["results"]} == {"ProtoNet", "MAML inner_lr=0.1, training.lr=0.01"}
    assert all(one["backbone"]["channels"] == 4 for one in found["results"])
    assert (out / "comparison.md").read_text().startswith("# 2 learners, 200 ms of training each")
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((out / "learners").iterdir())) == 2

    again = kshot("compare", "--data", images, *TINY, *QUICK, *TWO, "--json")
    assert "of training:" not in again.stderr, "what is done is not done again"
    assert json.loads(again.stdout)["results"] == found["results"]
    learner = next((out / "learners").glob("protonet-*"))
    assert "ProtoNet on 5 unseen tasks" in kshot("evaluate", learner, "--tasks", 5, "--no-baselines").stdout


def test_functions(kshot: Kshot) -> None:
    arguments = ("--data", "sinusoids", "--shot", 5, "--query", 5, "--budget", "0.1", "--tasks", 4, "--json")
    result = kshot("compare", *arguments, "--learner", "protonet", "--learner", "maml", "--out", "waves")
    found = json.loads(result.stdout)
    assert found["metric"] == "mse"
    assert [one["label"] for one in found["results"]] == ["MAML"]
    assert found["left_out"][0]["label"] == "ProtoNet"
    assert "the tasks of train are regression" in found["left_out"][0]["reason"]
    assert Path("waves/comparison.png").is_file()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_control_c_keeps_what_is_done(kshot: Kshot, images: Path) -> None:
    arguments = [str(word) for word in ("compare", "--data", images, *TINY, *QUICK, *TWO)]
    process = subprocess.Popen(
        [sys.executable, "-m", "kshot", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    first = process.stdout.readline()  # of the first learner, which is done then
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "interrupted. Resume with: the same command; what is done is kept in runs/compare-images" in errors
    assert "Traceback" not in errors
    assert kshot(*arguments).stdout.startswith(first)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "Missing option '--data'"),
        (("--data", "glyphs", "--learner", "protone"), 2, "unknown learner 'protone'. Did you mean 'protonet'?"),
        (("--data", "glyphs", "--learner", "maml,inner_rl=1"), 2, "unknown key learner.inner_rl for MAML"),
        (("--data", "glyphs", "--learner", "maml,inner_lr"), 2, "expected --learner maml,key.of.it=value"),
        (("--data", "glyphs", "--budget", "0"), 2, "expected --budget to be a time above 0"),
        (("--data", "glyphs", "--budget", "soon"), 2, "such as 90 (seconds), 2m or 1h, got 'soon'"),
        (("--data", "glyphs", "--set", "learner.inner_lr=1"), 2, "an option of a learner belongs to it"),
        (("--data", "glyphs", "--set", "training.stpes=3"), 2, "unknown key training.stpes. Did you mean 'steps'?"),
        (("--data", "glyphs", "--backbone", "conv5"), 2, "unknown backbone 'conv5'. Did you mean 'conv4'?"),
        (("--data", "digits"), 1, "digits has no train classes"),
        (
            ("--data", "sinusoids", "--learner", "protonet"),
            1,
            "none of the learners could be compared on sinusoids",
        ),
    ],
)
def test_bad_input(kshot: Kshot, arguments: tuple[str, ...], code: int, message: str) -> None:
    result = kshot("compare", *arguments, code=code)
    assert message in result.stderr
    assert not list(Path().glob("runs/*/results/*")), "nothing was measured"


def test_budgets() -> None:
    assert [duration(text) for text in ("90", "90s", " 2 m ", "1.5min", "1H")] == [90, 90, 120, 90, 3600]
    for text in ("-1", "0s", "1d", "", "m"):
        with pytest.raises(ConfigError, match="expected --budget to be a time above 0"):
            duration(text)
