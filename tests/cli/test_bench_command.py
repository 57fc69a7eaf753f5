"""`kshot bench` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kshot.bench import Contender, Goal, Workload
from kshot.bench.workloads import workloads

QUICK = ("--rounds", 1, "--seconds", "0.01")
ONE = (*QUICK, "--only", "kshot vmap")


def test_the_list(kshot):
    assert set(workloads()) == {row["name"] for row in json.loads(kshot("bench", "--json").stdout)}
    assert "sinusoid-5" in kshot("bench").stdout


def test_a_measurement_is_kept_and_shown(kshot):
    done = kshot("bench", "sinusoid-1", *ONE, "--threads", 1, "--out", "kept")
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


class Adding(Workload):
    """Adds numbers up, in one way or with a rival that is not there."""

    name, title, reference = "adding", "Sums", "loop"
    goals = (Goal(("kshot",), ("loop",), 1e-9),)

    def contenders(self):
        yield Contender("loop", lambda: sum(range(9)), lambda: {"sum": torch.tensor(36.0)})
        yield Contender("kshot", lambda: 36, lambda: {"sum": torch.tensor(36.0)}, ours=True)


class Rivals(Adding):
    name, goals = "rivals", (Goal(("kshot",), ("rival",), 1.0),)


class Apart(Adding):
    """Has none of the others' contenders but the reference."""

    name, goals = "apart", ()

    def contenders(self):
        yield Contender("loop", lambda: None)
        yield Contender("other", lambda: None)


def failing(error):
    class Failing(Adding):
        name = "failing"

        def contenders(self):
            raise error

    return Failing


@pytest.fixture
def small(monkeypatch):
    """Workloads that take no time, in place of all others."""

    def there(*classes):
        monkeypatch.setattr("kshot.bench.workloads.workloads", lambda: {one.name: one for one in classes})

    return there


def test_a_contender_that_there_is_not(kshot, small):
    small(Adding, Apart)
    said = kshot("bench", "adding", *QUICK, "--only", "kshto", code=2).stderr
    assert "there is no contender 'kshto' in adding. Did you mean 'kshot'? All: loop, kshot" in said
    assert "in these workloads. Known: kshot, loop, other" in kshot("bench", "--all", "--only", "zzz", code=2).stderr
    # Of several workloads those that have it.
    found = json.loads(kshot("bench", "--all", *QUICK, "--only", "other", "--json").stdout)
    assert {name: set(result["contenders"]) for name, result in found.items()} == {"apart": {"loop", "other"}}


def test_a_goal_that_nobody_can_judge_is_not_reached(kshot, small):
    small(Adding, Rivals)
    kshot("bench", "adding", *QUICK, "--require", "0.5")
    done = kshot("bench", "--all", *QUICK, "--require", "0.5", code=1)
    line = "NOT JUDGED: kshot is to be 1 times as fast as rival, but there is no rival"
    assert f"less than 0.5 of what was asked: rivals: {line}" in done.stderr and line in done.stdout


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (MemoryError("no room"), "failing: out of memory: no room"),
        (torch.OutOfMemoryError("no room"), "failing: out of memory: no room"),
        (ImportError("a library of yesterday"), "failing: ImportError: a library of yesterday"),
    ],
)
def test_the_others_are_worth_having(kshot, small, error, why):
    small(failing(error), Adding)
    done = kshot("bench", "--all", *QUICK, "--json", "--out", "kept", code=1)
    assert set(json.loads(done.stdout)) == {"adding"} and why in done.stderr
    assert Path("kept/adding.json").is_file() and not Path("kept/failing.json").exists()
    small(failing(error))
    kshot("bench", "failing", *QUICK, "--out", "elsewhere", code=1)  # without anything to plot


def test_a_mistake_is_told_at_once(kshot, small):
    small(failing(ZeroDivisionError("oh")), Adding)
    assert "ZeroDivisionError: oh (not expected" in kshot("bench", "--all", *QUICK, code=1).stderr


def test_both_devices_are_told_apart(kshot, small, monkeypatch):
    """A GPU that is a CPU: what is asked of it, measured and kept."""

    class Both(Adding):
        on_gpu, gpu_goals = True, (Goal(("kshot",), ("loop",), 1e9),)

    from kshot.bench import machine

    small(Both)
    ceilings, describe = machine.measure_ceilings, machine.describe
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(machine, "measure_ceilings", lambda device: ceilings(64, 0.01, "cpu"))
    monkeypatch.setattr(
        machine,
        "describe",
        lambda device: describe("cpu") | ({"gpu": "A GPU", "tf32": False} if device == "cuda" else {}),
    )
    done = kshot("bench", "adding", *QUICK, "--out", "kept")
    assert "A GPU: a matrix product reaches" in done.stdout and "GFLOP/s in float32, without TF32, and" in done.stdout
    cpu, gpu = (json.loads(Path(f"kept/{name}.json").read_text()) for name in ("adding", "adding.cuda"))
    assert cpu["goals"][0]["met"] and not gpu["goals"][0]["met"]
    assert gpu["device"] == "cuda" and gpu["machine"]["gpu"] == "A GPU" and gpu["machine"]["ceilings"]["bf16_flops"]
