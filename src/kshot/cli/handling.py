"""What becomes of an exception: one line on stderr and an exit code, never a traceback unless KSHOT_DEBUG=1.

Exit codes: 2 for a wrong command line or configuration, 1 for any other error, 130 for Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
import typer.core

from kshot.errors import ConfigError, ElsewhereError, KshotError
from kshot.processes import place

RESUME = "kshot.resume"
"""Key of `Context.meta` under which a command says how it would be resumed."""


class Group(typer.core.TyperGroup):
    """A group of commands whose options may come from the environment: KSHOT_TRAIN_STEPS for `kshot train --steps`."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        words = [*ctx.command_path.split()[1:], cmd_name]
        for option in getattr(command, "params", []):
            if option.param_type_name == "option" and option.envvar is None and option.name != "help":
                long = max(option.opts, key=len).lstrip("-")
                option.envvar = "_".join(["kshot", *words, long]).replace("-", "_").upper()
                option.show_envvar = False  # the help of the root says it once for all
        return command


class Commands(Group):
    """The group of all commands, which turns their exceptions into messages and exit codes."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, BrokenPipeError):
            raise
        except (KeyboardInterrupt, typer.Abort) as error:
            how = ctx.meta.get(RESUME)
            if not place().rank:
                _print(f"interrupted. Resume with: {how}" if how else f"interrupted. {error}".rstrip())
            raise typer.Exit(130) from None
        except KshotError as error:
            _debug(error)
            # What is wrong for all of several processes is said once a machine, which may differ; what happened to
            # another one, by that one.
            if not isinstance(error, ElsewhereError) and not (isinstance(error, ConfigError) and place().local_rank):
                _print(f"error: {error}")
            raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
        except Exception as error:
            if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # click's own: a wrong command line
                _usage(error)
                raise typer.Exit(int(error.exit_code)) from None
            _debug(error)
            _print(f"error: {_one_line(error)} (not expected; for the traceback set KSHOT_DEBUG=1 and run it again)")
            raise typer.Exit(1) from None


def _usage(error: Any) -> None:
    context = getattr(error, "ctx", None)
    _print(f"error: {error.format_message()}")
    if context is not None:
        _print(f"See: {context.command_path} --help")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _debug(error: Exception) -> None:
    if os.environ.get("KSHOT_DEBUG", "") not in ("", "0"):
        import traceback

        traceback.print_exception(error, file=sys.stderr)


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
