"""`kshot sweep`: the same training with other values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kshot.cli import settings
from kshot.cli.handling import RESUME
from kshot.cli.options import DataDir, Device, Json, examples
from kshot.cli.output import Output
from kshot.errors import ConfigError
from kshot.processes import place

EXAMPLES = examples(
    "kshot sweep maml.yaml                                           # 40 trials, or as many as the file says",
    "kshot sweep maml.yaml --trials 100                              # go on with it",
    "kshot sweep maml.yaml --storage postgresql://user@host/sweeps   # the same on every machine that shall help",
)


def command(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="A YAML file: base, space, trials.", show_default=False)],
    trials: Annotated[
        int | None, typer.Option(min=1, help="How many, in all; by default the file's.", show_default=False)
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(help="Address of the database; by default a file, sweep.db, in --out.", show_default=False),
    ] = None,
    device: Device = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of runs and report; by default sweeps/NAME.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Search for better values: trials judged and pruned on val tasks, the best confirmed on other classes.

    Run it again to go on. Any number of processes and machines work on one sweep whose database they reach. It leaves
    sweep.md, sweep.png, sweep.json and best.yaml, which kshot train takes.
    """
    output = Output(as_json)
    with output.alone():
        if place().size > 1:
            raise ConfigError(
                "kshot sweep was started by torchrun, whose processes train one model together: start it as often as "
                "there are trials to run at a time, each on its own, with the same --storage"
            )
        from kshot.sweep import read_spec, sweep  # which says what to install, where that is missing

        spec = read_spec(config, read_base=settings.read)
        if trials is not None:
            spec = spec.model_copy(update={"trials": trials})
        out = out or Path("sweeps") / spec.name
        from kshot.databases import shown

        context.meta[RESUME] = f"the same command; what is done is kept in {out if storage is None else shown(storage)}"
        output.say(f"{spec.name}: {spec.trials} trials of {', '.join(spec.space)}, kept in {out}")
        result = sweep(spec, out, storage=storage, device=device, data_dir=data_dir, say=output.say)
        output.say(f"\n{result}")
        best = "" if result.best is None else f" Train it anew: kshot train {out / 'best.yaml'}."
        output.say(f"\nKept in {out}: sweep.md, sweep.png, sweep.json; the runs in trials/.{best}")
        output.result(result.to_dict())
