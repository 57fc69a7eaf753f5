"""A command line in process, and tiny data to give to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import Kshot, write_images
from typer.testing import CliRunner


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and caches of a test lie in its own folder, and the user's environment says nothing. The baselines' settings
    are chosen by fewer tasks than a user's."""
    monkeypatch.setattr("kshot.evaluation.methods.SELECTION_TASKS", 3)
    for name in list(os.environ):
        if name.startswith("KSHOT_") and name != "KSHOT_CACHE":
            monkeypatch.delenv(name)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)


@pytest.fixture
def kshot() -> Kshot:
    """Runs a command in process: `kshot("data", "list").stdout`."""
    from kshot.cli.app import app

    def run(*arguments: object, code: int = 0, env: dict[str, str] | None = None) -> Any:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=env, prog_name="kshot")
        assert result.exit_code == code, f"{result.exit_code}: {result.output}{result.exception!r}"
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve classes of eight images each."""
    return write_images(tmp_path / "images", [f"class{c:02d}" for c in range(12)], 8)
