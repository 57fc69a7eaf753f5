"""The pipeline's walk: what is skipped, what is done anew, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kshot.cli.output import Output
from kshot.cli.project import Project
from kshot.cli.state import State, write_json
from kshot.cli.walk import Context, Outcome, Step, walk
from kshot.errors import ArtifactError, ConfigError, RunError


class Steps:
    """Two steps, the second on the result of the first, whose sections and results a test may change."""

    def __init__(self, out: Path) -> None:
        self.out, self.done, self.resumed = out, [], []
        self.section: dict[str, Any] = {"a": 1, "b": 1}
        self.value = 1
        self.breaks = False

    def run(self, context: Context, name: str) -> Outcome:
        self.resumed += [name] if context.resume else []
        if self.breaks and name == "b":
            raise KeyboardInterrupt
        self.done.append(name)
        write_json(self.out / f"{name}.json", self.value)
        return Outcome({"value": self.value if name == "a" else 0}, f"{name} is done", [f"{name}.json"])

    def walk(self, **options: Any) -> list[str]:
        project = Project.model_validate({"out": str(self.out), "tasks": {"data": "glyphs"}})
        steps = [
            Step(n, f"Do {n}", lambda c, n=n: self.section[n], needs, lambda c, n=n: self.run(c, n))  # type: ignore[misc]
            for n, needs in (("a", ()), ("b", ("a",)))
        ]
        self.done.clear()
        walk(steps, Context(project, self.out, Output()), **options)
        return self.done


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path)


def test_done_once(steps: Steps, capsys: pytest.CaptureFixture[str]) -> None:
    assert steps.walk() == ["a", "b"]
    assert "[1/2] Do a: not done yet" in capsys.readouterr().out
    assert steps.walk() == []
    assert "[2/2] Do b: skipped, nothing that goes into it has changed since" in capsys.readouterr().out


def test_a_changed_section(steps: Steps, capsys: pytest.CaptureFixture[str]) -> None:
    steps.walk()
    steps.section["a"] = 2
    assert steps.walk() == ["a"], "the same result as before: what depends on it stays"
    assert "its section of the project changed" in capsys.readouterr().out
    steps.section["a"], steps.value = 3, 5
    assert steps.walk() == ["a", "b"]
    assert "the result of 'a' changed" in capsys.readouterr().out


def test_a_lost_output(steps: Steps, capsys: pytest.CaptureFixture[str]) -> None:
    steps.walk()
    (steps.out / "b.json").unlink()
    assert steps.walk() == ["b"]
    assert "b.json is gone" in capsys.readouterr().out


def test_from_and_force(steps: Steps) -> None:
    steps.walk()
    assert steps.walk(start="b") == ["b"]
    assert steps.walk(force=True) == ["a", "b"]
    with pytest.raises(ConfigError, match=r"there is no step 'c' to begin from\. Known: a, b"):
        steps.walk(start="c")


def test_an_interrupted_step_is_taken_up(steps: Steps, capsys: pytest.CaptureFixture[str]) -> None:
    steps.breaks = True
    with pytest.raises(KeyboardInterrupt):
        steps.walk()
    steps.breaks = False
    assert steps.walk() == ["b"]
    assert steps.resumed == ["b"]
    assert "taken up where it stopped" in capsys.readouterr().out


def test_an_interrupted_step_with_other_inputs_begins_anew(steps: Steps) -> None:
    steps.breaks = True
    with pytest.raises(KeyboardInterrupt):
        steps.walk()
    steps.breaks, steps.section["b"] = False, 2
    assert steps.walk() == ["b"]
    assert steps.resumed == []


def test_a_damaged_state(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.json"
    path.write_text("{")
    with pytest.raises(ArtifactError, match="is damaged .* remove it"):
        State(path)
    path.write_text(json.dumps({"format": 99, "steps": {}}))
    with pytest.raises(ArtifactError, match="has format 99, expected 1: another version"):
        State(path)


def test_a_state_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"pipeline\.json cannot be written .*Choose another place"):
        write_json(tmp_path / "file" / "pipeline.json", {})
