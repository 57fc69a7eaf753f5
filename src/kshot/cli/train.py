"""`kshot train`: meta-train a learner from a configuration and flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kshot.cli import settings
from kshot.cli.handling import RESUME
from kshot.cli.options import DataDir, Device, Json, Query, Shot, SkipBad, Way, examples
from kshot.cli.output import Output
from kshot.errors import ConfigError, RunError

EXAMPLES = examples(
    "kshot train --learner protonet --data my_images/ --way 5 --shot 1 --steps 500 --out runs/mine",
    "kshot train omniglot-protonet --set training.lr=5e-4      # a configuration that ships with kshot",
    "kshot train my.yaml --seed 1 --out runs/seed1",
    "kshot train --resume runs/mine",
)


def command(
    context: typer.Context,
    config: Annotated[
        str | None,
        typer.Argument(metavar="[CONFIG]", help="A YAML file, a run folder, or the name of a shipped configuration."),
    ] = None,
    learner: Annotated[str | None, typer.Option(help="protonet, maml, anil.", show_default=False)] = None,
    backbone: Annotated[
        str | None, typer.Option(help="conv4, resnet12, mlp; by default one that fits the data.", show_default=False)
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="A registered dataset, or the path of a folder, zip or CSV.", show_default=False),
    ] = None,
    way: Way = None,
    shot: Shot = None,
    query: Query = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Outer steps.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; by default runs/DATA-LEARNER.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key of the configuration: a.b=c.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of initialisation and tasks.", show_default=False)] = None,
    device: Device = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run where it stopped.")] = False,
    data_dir: DataDir = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Meta-train a learner. Defaults < CONFIG < environment (KSHOT_TRAINING__LR=...) < flags."""
    output = Output(as_json)
    with output.alone():
        flags: dict[str, Any] = {}
        named = {
            "learner.name": learner,
            "backbone.name": backbone,
            "data.name": data,
            "data.way": way,
            "data.shot": shot,
            "data.query": query,
            "training.steps": steps,
            "training.seed": seed,
            "training.device": device,
            "out": None if out is None else str(out),
        }
        for path, value in named.items():
            if value is not None:
                settings.put(flags, path, value)
        resolved = resolve(config, flags, set_ or (), resume=resume)
        run_folder = resolved["out"]
        context.meta[RESUME] = f"kshot train --resume {run_folder}"
        report = train(resolved, output, resume=resume, data_dir=data_dir, skip_bad=skip_bad)
        output.say(f"Next: kshot evaluate {run_folder}")
        output.result(report)


def resolve(config: str | None, flags: dict[str, Any], sets: Any = (), *, resume: bool = False) -> dict[str, Any]:
    """The configuration that the layers make: file < environment < flags.

    Raises:
        ConfigError: neither a file nor data; a file that is none.
        RunError: there is no run to resume.
    """
    base: dict[str, Any] = {}
    if config is not None:
        if resume and not Path(config).exists() and config not in settings.shipped():
            raise RunError(f"there is no run {config} to resume: expected a folder that kshot train wrote")
        base = settings.read(config)
        if Path(config).is_dir():
            base["out"] = str(config)
    merged = settings.merge(base, settings.from_environment())
    merged = settings.merge(merged, flags)
    merged = settings.merge(merged, settings.assignments(sets))
    if "name" not in (merged.get("data") or {}):
        raise ConfigError(
            "expected a configuration, or --data: a registered dataset (kshot data list) or the path of a folder, zip or CSV. "
            f"Shipped configurations: {', '.join(settings.shipped())}"
        )
    merged.setdefault("learner", {"name": "protonet"})
    if not merged.get("out"):
        learner = merged["learner"].get("name", "learner") if isinstance(merged["learner"], dict) else merged["learner"]
        merged["out"] = f"runs/{Path(str(merged['data']['name'])).stem}-{learner}"
    return merged
