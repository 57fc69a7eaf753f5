"""`kshot pipeline`: walks the steps of a project, from the definition of its tasks to its server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kshot.cli.handling import RESUME
from kshot.cli.options import examples
from kshot.cli.output import Output

EXAMPLES = examples("kshot pipeline project.yaml", "kshot pipeline project.yaml --from train", "kshot pipeline --force")


def command(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="[PROJECT]", help="What kshot init wrote.")] = Path("project.yaml"),
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STEP",
            help="Do this step and those after it anew: tasks, data, learner, baseline, train, validate, report, "
            "deploy, monitor.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Do every step anew.")] = False,
) -> None:
    """Walk a project's steps; what nothing has changed for is skipped, what was interrupted is taken up."""
    from kshot.cli.project import read_project
    from kshot.cli.steps import STEPS
    from kshot.cli.walk import Context, walk

    project = read_project(path)
    again = f"kshot pipeline {path}"
    context.meta[RESUME] = again
    output = Output()
    out = Path(project.out)
    walk(STEPS, Context(project, out, output), start=start, force=force)
    output.say(f"Done: open {out / 'report.html'}. Change {path} and run it again: only what it concerns is done anew.")
