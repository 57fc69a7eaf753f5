"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, alone on stdout.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out files that cannot be decoded, and count them.")]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", envvar="KSHOT_DATA", help="Folder of local copies of the datasets."),
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.", show_default=False)]
Way = Annotated[int | None, typer.Option("--way", help="Classes a task.", show_default=False)]
Shot = Annotated[int | None, typer.Option("--shot", help="Labelled support examples a class.", show_default=False)]
Query = Annotated[int | None, typer.Option("--query", help="Query examples a class.", show_default=False)]


def examples(*lines: str) -> str:
    """The end of a command's help: its examples, one a line, kept as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
