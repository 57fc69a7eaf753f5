"""`kshot init`: a commented project.yaml to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kshot.cli.options import examples
from kshot.errors import RunError

EXAMPLES = examples("kshot init", "kshot init letters.yaml --data my_images/")


def command(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("project.yaml"),
    data: Annotated[str, typer.Option(help="A registered dataset, or the path of a folder, zip or CSV.")] = "glyphs",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,
) -> None:
    """Write a commented project.yaml, whose steps `kshot pipeline` walks."""
    from kshot.cli.project import template

    if path.exists() and not force:
        raise RunError(f"{path} is there already: choose another name, or overwrite it with --force")
    name = path.stem if path.stem != "project" else Path.cwd().name
    try:
        path.write_text(template(name, data), encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error
    typer.echo(f"Wrote {path}. Read it, then run: kshot pipeline {path}")
