"""`kshot compare`: learners at an equal budget of training time, on the same tasks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from kshot.cli.handling import RESUME
from kshot.cli.options import DataDir, Device, Json, Query, Shot, SkipBad, Way, examples
from kshot.cli.output import Output
from kshot.cli.progress import progress
from kshot.errors import ConfigError
from kshot.yaml_keys import put

EXAMPLES = examples(
    "kshot compare --data my_images/ --way 5 --shot 1                 # every learner, a minute each",
    "kshot compare --data glyphs --budget 5m --learner protonet --learner maml,inner_lr=0.4,inner_steps=1",
    "kshot compare --data sinusoids --shot 10 --budget 20s --json",
)

UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


def command(
    context: typer.Context,
    data: Annotated[
        str, typer.Option(help="A registered dataset, or the path of a folder, zip or CSV.", show_default=False)
    ],
    way: Way = None,
    shot: Shot = None,
    query: Query = None,
    budget: Annotated[str, typer.Option(help="Of training for each learner: 90 (seconds), 2m, 1h.")] = "60",
    learner: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,OPTION=VALUE...]",
            help="A learner and its options (also training.lr=0.01, train.way=20); once for each. By default all.",
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Of all learners; by default one that fits the data.", show_default=False)
    ] = None,
    tasks: Annotated[int, typer.Option(min=2, help="Unseen tasks to evaluate on.")] = 600,
    seed: Annotated[int | None, typer.Option(help="Of initialisation and training.", show_default=False)] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key of data, backbone and training: training.lr=0.01."),
    ] = None,
    device: Device = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder of the results; by default runs/compare-DATA.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Compare learners: trained for the same time, adapted to the same unseen tasks. Run it again to go on with it."""
    output = Output(as_json)
    with output.alone(), progress() as report:
        flags: dict[str, Any] = {}
        named = {
            "backbone.name": backbone,
            "data.name": data,
            "data.way": way,
            "data.shot": shot,
            "data.query": query,
            "data.data_dir": None if data_dir is None else str(data_dir.expanduser().absolute()),
            "data.skip_bad": skip_bad or None,
            "training.seed": seed,
            "training.device": device,
        }
        for path, value in named.items():
            if value is not None:
                put(flags, path, value)
        seconds = duration(budget)
        config = configuration(flags, set_ or [])
        out = out or Path(f"runs/compare-{Path(str(config['data']['name'])).stem}")
        context.meta[RESUME] = f"the same command; what is done is kept in {out}"

        from kshot.artifacts.atomic import atomic_file
        from kshot.cli.state import write_json
        from kshot.evaluation.compare import iter_compare
        from kshot.evaluation.comparison import Comparison
        from kshot.evaluation.contestants import contestants
        from kshot.training.config import build_source, parse_config

        training = dict(config.get("training", {}))
        device = str(training.pop("device", "auto"))
        contestants(learner, config.get("backbone"), training)  # what is wrong there is told before data is read
        source = build_source(parse_config({**config, "learner": "protonet"}))
        found = []
        for one in iter_compare(
            source,
            learner,
            budget_seconds=seconds,
            tasks=tasks,
            backbone=config.get("backbone"),
            training=training,
            device=device,
            out=out,
            progress=report,
        ):
            output.say(str(one))
            found.append(one)
        comparison = Comparison.of(found, source)
        output.say(f"\n{comparison}")
        result = comparison.to_dict()
        write_json(out / "comparison.json", result)
        atomic_file(out / "comparison.md", comparison.to_markdown())
        comparison.plot(out / "comparison.png")
        output.say(f"\nKept in {out}: comparison.md, comparison.png, comparison.json; the learners in learners/.")
        output.result(result)


def configuration(flags: dict[str, Any], sets: list[str]) -> dict[str, Any]:
    """The sections data, backbone and training, as `kshot train` would have them.

    Raises:
        ConfigError: there are others.
    """
    from kshot.cli.train import resolve

    config = resolve(None, flags, sets)
    if config["learner"] != {"name": "protonet"}:
        raise ConfigError("an option of a learner belongs to it: --learner maml,inner_lr=0.4")
    return {key: config[key] for key in ("data", "backbone", "training") if key in config}


def duration(text: str) -> float:
    """Seconds of what a user says.

    Raises:
        ConfigError: no such time, or none at all.

    >>> duration("90"), duration("1.5m"), duration("1h")
    (90.0, 90.0, 3600.0)
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]*)\s*", text.lower())
    if match is None or match[2] not in UNITS or float(match[1]) <= 0:
        raise ConfigError(f"expected --budget to be a time above 0, such as 90 (seconds), 2m or 1h, got {text!r}")
    return float(match[1]) * UNITS[match[2]]
