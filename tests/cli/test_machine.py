"""doctor, the allocator, the datasets, help and version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import Kshot, real

from kshot.cli import allocator, doctor
from kshot.cli.app import app

COMMANDS = [
    *("train", "evaluate", "compare", "adapt", "predict", "report", "reproduce"),
    *("quickstart", "doctor", "init", "pipeline", "serve", "promote", "bench", "sweep"),
]


@pytest.mark.parametrize(
    "command",
    [[c] for c in COMMANDS]
    + [["data", c] for c in ("list", "info", "get")]
    + [["keys", c] for c in ("create", "list", "revoke", "quota")],
)
def test_every_help_has_an_example(kshot: Kshot, command: list[str]) -> None:
    text = kshot(*command, "--help").stdout
    assert f"Examples:\n    kshot {' '.join(command)}" in text


def test_every_command_is_there() -> None:
    registered = {info.name for info in app.registered_commands}
    assert registered == set(COMMANDS)


def test_version(kshot: Kshot) -> None:
    from kshot import __version__

    assert kshot("--version").stdout == f"kshot {__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'rich', 'PIL', 'pydantic'}"
    code = f"import sys; from kshot.cli.app import app; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_a_wrong_command(kshot: Kshot) -> None:
    result = kshot("trian", code=2)
    assert "error: No such command 'trian'" in result.stderr


def test_doctor(kshot: Kshot) -> None:
    found = {entry["name"]: entry for entry in json.loads(kshot("doctor", "--json").stdout)}
    assert {"python", "torch", "threads", "compiler", "allocator", "data", "cache", "extras", "disk"} <= set(found)
    assert found["python"]["ok"]
    assert "glyphs" in found["data"]["found"]
    assert "omniglot" in found["data"]["found"]
    assert "kshot data get" in found["data"]["advice"]
    assert kshot("doctor").stdout.startswith("ok    python")


def test_doctor_names_a_cache_that_cannot_be_written(kshot: Kshot, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = kshot("doctor", env={"KSHOT_CACHE": str(tmp_path / "file")})
    assert "look  cache" in result.stdout
    assert "Set KSHOT_CACHE elsewhere." in result.stdout


def test_a_check_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise OSError("no such machine")

    monkeypatch.setattr(doctor, "_disk", broken)
    last = doctor.examine()[-1]
    assert not last.ok
    assert last.found == "could not be examined: OSError: no such machine"


def test_the_allocator_is_raised_in_the_process_of_the_command() -> None:
    said = {entry["name"]: entry["found"] for entry in json.loads(real("doctor", "--json").stdout)}["allocator"]
    assert said.startswith("glibc, mmap and trim thresholds raised" if allocator.is_glibc() else "not glibc")


def test_the_allocator_obeys_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not allocator.raise_thresholds()


def test_no_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "is_glibc", lambda: False)
    assert not allocator.raise_thresholds()
    assert allocator.describe() == "not glibc: nothing to tune"


def test_data(kshot: Kshot, tmp_path: Path) -> None:
    found = {entry["name"]: entry for entry in json.loads(kshot("data", "list", "--json").stdout)}
    assert found["digits"]["available"]
    assert not found["omniglot"]["available"]
    assert "glyphs    yes" in kshot("data", "list").stdout
    assert "licence: MIT" in kshot("data", "info", "omniglot").stdout
    assert f"location: {tmp_path / 'omniglot'}" in kshot("data", "info", "omniglot", "--data-dir", tmp_path).stdout
    assert kshot("data", "get", "digits").stdout == "digits needs no files.\n"
    result = kshot("data", "info", "omniglt", code=1)
    assert "error: there is no dataset called 'omniglt'. Did you mean 'omniglot'?" in result.stderr


def test_the_data_dir_comes_from_the_environment(kshot: Kshot, tmp_path: Path) -> None:
    assert str(tmp_path) in kshot("data", "list", env={"KSHOT_DATA": str(tmp_path)}).stdout


def test_any_option_may_come_from_the_environment(kshot: Kshot) -> None:
    assert json.loads(kshot("data", "info", "digits", env={"KSHOT_DATA_INFO_JSON": "1"}).stdout)["name"] == "digits"
    kshot("init", env={"KSHOT_INIT_DATA": "digits"})
    assert "data: digits " in Path("project.yaml").read_text()
    kshot("init", "--force", "--data", "omniglot", env={"KSHOT_INIT_DATA": "digits"})
    assert "data: omniglot " in Path("project.yaml").read_text(), "a flag wins over the environment"


def test_init(kshot: Kshot) -> None:
    from kshot.cli.project import read_project

    assert "kshot pipeline project.yaml" in kshot("init").stdout
    project = read_project(Path("project.yaml"))
    assert project.tasks.data == "glyphs"
    assert project.out == f"runs/{Path.cwd().name}"
    assert project.learner.choose == "auto"
    assert len(project.learner.candidates) == 3
    result = kshot("init", code=1)
    assert "error: project.yaml is there already: choose another name, or overwrite it with --force" in result.stderr
    kshot("init", "--force", "--data", "my images: all")
    assert read_project(Path("project.yaml")).tasks.data == "my images: all"


def test_a_project_with_a_typing_error(kshot: Kshot) -> None:
    Path("p.yaml").write_text("out: x\ntasks: {data: glyphs, shots: 3}\nvalidate: {taks: 5}\nlearner: {steps: 0}\n")
    result = kshot("pipeline", "p.yaml", code=2)
    assert "unknown key 'tasks.shots'. Did you mean 'shot'?" in result.stderr
    assert "unknown key 'validate.taks'. Did you mean 'tasks'?" in result.stderr
    assert "learner.steps: Input should be greater than or equal to 1, got 0" in result.stderr
    result = kshot("pipeline", "none.yaml", code=2)
    assert "there is no project none.yaml: expected the project.yaml that `kshot init` writes" in result.stderr


def test_closed_pipes_are_no_error() -> None:
    command = f"{sys.executable} -m kshot data list --json | head -n 1"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, env=dict(os.environ))
    assert result.stdout == "[\n"
    assert "Traceback" not in result.stderr
