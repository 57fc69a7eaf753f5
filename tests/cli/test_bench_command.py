"""`kshot bench` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

from kshot.bench.workloads import workloads

QUICK = ("--rounds", 1, "--seconds", "0.01", "--only", "kshot vmap")


def test_the_list(kshot):
    assert set(workloads()) == {row["name"] for row in json.loads(kshot("bench", "--json").stdout)}
    assert "sinusoid-5" in kshot("bench").stdout


def test_a_measurement_is_kept_and_shown(kshot):
    done = kshot("bench", "sinusoid-1", *QUICK, "--threads", 1, "--out", "kept")
    assert "2 contenders agree; timing them in 1 rounds" in done.stdout
    assert "learn2learn (not installed; it does not build with Python 3.11 or later)" in done.stdout
    result = json.loads(Path("kept/sinusoid-1.json").read_text())
    assert set(result["contenders"]) == {"plain loop", "kshot vmap"}
    assert result["machine"]["threads"] == 1 and result["machine"]["ceilings"]["flops"] > 0
    assert result["contenders"]["kshot vmap"]["error"] < 1e-5
    assert Path("kept/bench.png").read_bytes().startswith(b"\x89PNG")
    shown = kshot("bench", "--table", "--out", "kept")
    assert "sinusoid-1: MAML on sinusoids" in shown.stdout and "kshot vmap" in shown.stdout
    assert "timing" not in shown.stdout
    assert list(json.loads(kshot("bench", "--table", "--out", "kept", "--json").stdout)) == ["sinusoid-1"]
    assert "there are no results in elsewhere" in kshot("bench", "--table", "--out", "elsewhere").stdout


def test_what_makes_no_sense(kshot):
    def error(*arguments):
        return kshot("bench", *arguments, code=2).stderr

    assert "there is no workload 'sinusoid-6'. Did you mean 'sinusoid-5'?" in error("sinusoid-6")
    assert "names and --all are two different things to ask for: give one of them" in error("lstm", "--all")
    assert "--table prints what is kept: give its folder with --out" in error("--table")
    Path("kept").mkdir()
    Path("kept/lstm.json").write_text("[]")
    assert "kept/lstm.json is no result of kshot bench: remove it, or give another folder" in error(
        "--table", "--out", "kept"
    )
