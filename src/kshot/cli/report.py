"""`kshot report`: everything measured of a run, as one HTML file and one JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kshot.cli.options import DataDir, Json, Query, Shot, SkipBad, Way, examples
from kshot.cli.output import Output
from kshot.cli.progress import progress
from kshot.errors import ArtifactError

EXAMPLES = examples(
    "kshot report runs/mine",
    "kshot report runs/mine --full --stress --runs runs/seed1 --runs runs/seed2",
    "kshot report runs/mine --data other_images/ --out other.html",
)


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or a saved learner.")],
    data: Annotated[
        str | None,
        typer.Option(help="Other data for the unseen tasks: a name, or a folder, zip or CSV.", show_default=False),
    ] = None,
    way: Way = None,
    shot: Shot = None,
    query: Query = None,
    tasks: Annotated[int | None, typer.Option(min=2, help="Unseen tasks.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="Of the tasks.")] = 1,
    full: Annotated[bool, typer.Option("--full", help="Measure more: minutes to hours instead of a minute.")] = False,
    stress: Annotated[bool, typer.Option("--stress", help="Also label noise, corruption, imbalance.")] = False,
    runs: Annotated[
        list[str] | None, typer.Option(help="Runs of the same configuration with other seeds, for the spread.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The HTML file or its folder; by default the run.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Write the report of a run: scores beside baselines, audit, curves, value, in one HTML file and one JSON file."""
    output = Output(as_json)
    with output.alone(), progress() as shown:
        from kshot.artifacts import from_pretrained
        from kshot.cli.splits import source_of, unseen_tasks
        from kshot.evaluation import full_report

        learner = from_pretrained(run)
        source = source_of(learner, data_dir=data_dir, skip_bad=skip_bad)
        if out is None:
            if not Path(run).is_dir():
                raise ArtifactError(f"{run} ships with kshot, where no report may be written: say where with --out")
            out = Path(run)
        split = unseen_tasks(learner, data, way=way, shot=shot, query=query, data_dir=data_dir, skip_bad=skip_bad)
        report = full_report(
            learner,
            source,
            out,
            tasks=tasks,
            seed=seed,
            budget="full" if full else "quick",
            split=split,
            with_stress=stress,
            runs=runs or (),
            progress=shown,
        )
        output.say(str(report))
        output.result(report.to_dict())
