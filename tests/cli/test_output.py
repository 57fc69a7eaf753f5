"""What commands print, and what becomes of exceptions."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from kshot.cli.handling import RESUME, Commands
from kshot.cli.output import Output
from kshot.errors import ConfigError, DataError


def test_json_is_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=True)
    with output.alone():
        print("a library's own words")
        output.say("ours")
        output.result({"x": [1.5, math.nan], "y": "ä"})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"x": [1.5, None], "y": "ä"}
    assert "a library's own words" in captured.err
    assert "ours" in captured.err


def app_that_raises(error: BaseException) -> typer.Typer:
    app = typer.Typer(cls=Commands)

    @app.command()
    def go(context: typer.Context) -> None:
        context.meta[RESUME] = "kshot train --resume runs/a"
        raise error

    @app.command()
    def other() -> None: ...

    return app


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("expected a, got b"), 1, "error: expected a, got b\n"),
        (ConfigError("unknown key"), 2, "error: unknown key\n"),
        (KeyboardInterrupt(), 130, "interrupted. Resume with: kshot train --resume runs/a\n"),
        (
            ZeroDivisionError("by\nzero"),
            1,
            "ZeroDivisionError: by zero (not expected; for the traceback set KSHOT_DEBUG=1",
        ),
        (PermissionError(13, "Permission denied", "x.txt"), 1, "error: PermissionError: Permission denied: x.txt (not"),
    ],
)
def test_an_exception_is_one_line(error: BaseException, code: int, message: str) -> None:
    result: Any = CliRunner().invoke(app_that_raises(error), ["go"])
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert len(result.stderr.splitlines()) == 1


def test_a_traceback_on_demand() -> None:
    result = CliRunner().invoke(app_that_raises(ZeroDivisionError("x")), ["go"], env={"KSHOT_DEBUG": "1"})
    assert "Traceback (most recent call last)" in result.stderr
    assert result.exit_code == 1


def test_a_wrong_command_line() -> None:
    result = CliRunner().invoke(app_that_raises(ZeroDivisionError("x")), ["go", "--colour"], prog_name="kshot")
    assert result.exit_code == 2
    assert result.stderr == "error: No such option: --colour\nSee: kshot go --help\n"
