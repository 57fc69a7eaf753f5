"""`kshot reproduce`: what there is, one of them, the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import Kshot

from kshot.evaluation import reproduction, reproduction_spec, reproduction_table

SPEC: dict[str, Any] = {
    "title": "ProtoNet",
    "paper": "a test",
    "config": {
        "learner": "protonet",
        "backbone": {"name": "conv4", "channels": 4},
        "data": {"name": "glyphs", "way": 3, "shot": 1, "query": 2},
        "training": {"steps": 2, "meta_batch": 1, "val_tasks": 2},
    },
    "profiles": {"cpu": {}},
    "rows": [{"setting": "3-way", "published": 99.9, "within": 1, "count": 10}],
}


@pytest.fixture
def only_mine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The committed reproductions are one, that takes no time."""
    for module in (reproduction_spec, reproduction_table, reproduction):
        monkeypatch.setattr(module, "load", lambda name: reproduction_spec.parse(SPEC, name))
    for module in (reproduction_spec, reproduction_table):
        monkeypatch.setattr(module, "names", lambda: ["mine"])


def test_what_there_is(kshot: Kshot) -> None:
    lines = kshot("reproduce").stdout.splitlines()
    assert lines[0].split() == ["name", "what", "paper"]
    assert any(line.startswith("omniglot-protonet ") and "Snell" in line for line in lines)
    assert {"name", "title", "paper"} == set(json.loads(kshot("reproduce", "--json").stdout)[0])


@pytest.mark.usefixtures("only_mine")
def test_all_and_the_table(kshot: Kshot) -> None:
    empty = kshot("reproduce", "--table").stdout
    assert "not run" in empty
    assert f"there are no results in {Path.cwd() / 'reproductions'}: give their folder with --results" in empty
    said = kshot("reproduce", "--all").stdout
    assert "mine: 2 steps" in said
    assert "short: ProtoNet, 3-way: trained" in said
    assert Path("reproductions/mine.cpu.json").is_file()
    assert Path("reproductions/mine.cpu.metrics.jsonl").is_file()
    again = kshot("reproduce", "--all").stdout
    assert "mine: 2 steps" not in again, "what has a result is not run again"
    assert "not reached" in again
    [entry] = json.loads(kshot("reproduce", "--table", "--json").stdout)
    assert entry["result"]["outcomes"][0]["published"] == 99.9
    tried = json.loads(kshot("reproduce", "mine", "--tasks", "3", "--json").stdout)
    assert tried["outcomes"][0]["tasks"] == 3, "printed, and not kept"
    assert json.loads(Path("reproductions/mine.cpu.json").read_text())["outcomes"][0]["tasks"] == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "there is no reproduction 'nothing'"),
        (["omniglot-protonet", "--table"], "a name, --all and --table are three different things"),
        (["--all", "--tasks", "9"], "--tasks is to try out one reproduction, of which nothing is kept: give its name"),
        (["--table", "--profile", "gpu"], "expected --profile cpu or full, got 'gpu'"),
        (["--table", "--results", "a_file"], "expected a folder for --results, got a_file, a file"),
        (["omniglot-protonet", "--results", "a_file"], "expected a folder for --results, got a_file, a file"),
    ],
)
def test_what_makes_no_sense(kshot: Kshot, arguments: list[str], message: str) -> None:
    Path("a_file").write_text("")
    assert message in kshot("reproduce", *arguments, code=2).stderr


@pytest.mark.usefixtures("only_mine")
def test_results_that_cannot_be_written_are_refused_before_any_training(kshot: Kshot) -> None:
    Path("a_file").write_text("")
    refused = kshot("reproduce", "mine", "--results", "a_file/in_it", code=1)
    assert "a_file/in_it/.place cannot be written" in refused.stderr
    assert "mine: 2 steps" not in refused.stdout
    assert not Path("runs").exists()
