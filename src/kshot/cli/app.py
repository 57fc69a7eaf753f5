"""The typer application: every command of kshot."""

from __future__ import annotations

from typing import Annotated

import typer

from kshot.cli import (
    adapt,
    bench,
    compare,
    data,
    doctor,
    evaluate,
    init,
    keys,
    pipeline,
    predict,
    promote,
    quickstart,
    report,
    reproduce,
    serve,
    sweep,
    tasks,
    train,
)
from kshot.cli.handling import Commands
from kshot.cli.options import examples

app = typer.Typer(
    cls=Commands,
    name="kshot",
    help="Learn from many tasks, adapt to a new one from a few examples, prove it.",
    epilog=examples(
        "kshot quickstart",
        "kshot train --learner protonet --data my_images/ --way 5 --shot 1 --steps 500 --out runs/mine",
        "kshot adapt runs/mine --support new_classes/ --out task.safetensors",
        "kshot predict task.safetensors photo.jpg",
    )
    + "\n\nAny option may come from the environment: KSHOT_EVALUATE_TASKS=200 is `kshot evaluate --tasks 200`. "
    "KSHOT_DATA is where datasets lie, KSHOT_CACHE where decoded ones do; KSHOT_DEBUG=1 shows tracebacks. "
    "Exit codes: 2 for a wrong command line or configuration, 1 for any other error, 130 for Ctrl-C.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # kshot.cli.handling says what went wrong
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
)

for module in (
    train,
    evaluate,
    compare,
    sweep,
    bench,
    adapt,
    predict,
    serve,
    promote,
    report,
    reproduce,
    quickstart,
    doctor,
    init,
    pipeline,
):
    name = module.__name__.rpartition(".")[2]
    app.command(name, epilog=module.EXAMPLES)(module.command)
app.add_typer(data.app, name="data")
app.add_typer(keys.app, name="keys")
app.add_typer(tasks.app, name="tasks")


def _version(asked: bool) -> None:
    if asked:
        from kshot import __version__

        typer.echo(f"kshot {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Learn from many tasks, adapt to a new one from a few examples, prove it."""
