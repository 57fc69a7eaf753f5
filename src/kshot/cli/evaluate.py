"""`kshot evaluate`: a learner on unseen tasks, beside the baselines on the same episodes."""

from __future__ import annotations

from typing import Annotated

import typer

from kshot.cli.options import DataDir, Device, Json, Query, Shot, SkipBad, Way, examples
from kshot.cli.output import Output

EXAMPLES = examples(
    "kshot evaluate runs/mine                            # the run's own test classes, which it has never seen",
    "kshot evaluate runs/mine --data my_images/ --json",
    "kshot evaluate characters --data digits --way 10 --shot 5 --tasks 200",
)


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, a saved learner, or a shipped one.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="A registered dataset, or the path of a folder, zip or CSV; by default what the run was trained on.",
            show_default=False,
        ),
    ] = None,
    way: Way = None,
    shot: Shot = None,
    query: Query = None,
    tasks: Annotated[int, typer.Option(min=2, help="Unseen tasks to evaluate on.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the tasks.")] = 1,
    stress: Annotated[bool, typer.Option("--stress", help="Also label noise, corruption, imbalance.")] = False,
    baselines: Annotated[bool, typer.Option("--baselines/--no-baselines", help="Beside the ordinary methods.")] = True,
    device: Device = None,
    data_dir: DataDir = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Evaluate a learner on unseen tasks: the score with its 95% interval, and the baselines on the same episodes."""
    output = Output(as_json)
    with output.alone():
        ...
