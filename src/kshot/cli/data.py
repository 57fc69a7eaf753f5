"""`kshot data`: which datasets there are, what is known of one, and getting one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kshot.cli.handling import Group
from kshot.cli.options import DataDir, Json, examples
from kshot.cli.output import Output

app = typer.Typer(
    cls=Group,
    help="Datasets: list them, describe one, download one.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog=examples("kshot data list", "kshot data get omniglot"),
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A registered dataset (kshot data list).")]


@app.command("list", epilog=examples("kshot data list", "kshot data list --json"))
def list_(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the datasets, and whether each is there."""
    from kshot import datasets, tasks

    output = Output(as_json)
    found = [datasets.info(name, data_dir) for name in datasets.names()]
    if not as_json:
        output.table(
            ["name", "there", "what"],
            [[d["name"], "yes" if d["available"] else "no", _short(str(d["description"]))] for d in found],
        )
        output.say(f"Local copies lie in {datasets.resolve_data_dir(data_dir)}. Get one with: kshot data get NAME")
        output.say("--data also takes the path of a folder (a subfolder per class), a zip of one, or a CSV;")
        output.say(f"and tasks that are generated: {', '.join(tasks.FAMILIES)} (functions);")
        output.say(f"{', '.join(tasks.SEQUENCES)} (sequences).")
    output.result(found)


@app.command("info", epilog=examples("kshot data info omniglot"))
def info(name: Name, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Say what is known of a dataset: description, licence, source, options, what is missing."""
    from kshot import datasets

    output = Output(as_json)
    found = datasets.info(name, data_dir)
    if not as_json:
        for key, value in found.items():
            if key == "options":
                output.say("options:")
                for option, default in value.items():
                    output.say(f"  {option}: {default}")
            elif value not in (None, "", []):
                output.say(f"{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    output.result(found)


@app.command("get", epilog=examples("kshot data get omniglot", "kshot data get cifar_fs --data-dir /data"))
def get(name: Name, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Download a dataset; what broke off goes on where it stopped, what is there stays."""
    from kshot import datasets

    output = Output(as_json)
    with output.alone():
        paths = datasets.get(name, data_dir)
        other = datasets.unpublished(name, data_dir)
        if paths:
            output.say(f"{name} is there: {', '.join(map(str, paths))}")
            for path, problem in other.items():
                output.say(
                    f"Note: {path} is not the published file ({problem}). It is used as it is: an archive that was "
                    "packed again differs so. If it is damaged, delete it and run this again."
                )
        else:
            output.say(f"{name} needs no files.")
        output.result({"name": name, "files": [str(path) for path in paths], "unpublished": other})


@app.command(
    "from-server",
    epilog=examples(
        "kshot data from-server --out asked/",
        "kshot data from-server --out asked/ --database postgresql://kshot@db/kshot --tenant acme",
    ),
)
def from_server(
    out: Annotated[Path, typer.Option(help="The folder to write; one that was gathered before is replaced.")],
    tenant: Annotated[list[str] | None, typer.Option(help="Of these alone.", show_default="all")] = None,
    model: Annotated[str | None, typer.Option(help="Tasks of this model alone.", show_default=False)] = None,
    database: Annotated[
        str | None,
        typer.Option(envvar="KSHOT_SERVE_DATABASE", help="The server's: sqlite:///kshot.db.", show_default=False),
    ] = None,
    settings: Annotated[Path | None, typer.Option(help="The server's settings file.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Gather the tasks that a server stores, and its feedback, as a dataset: train/TASK/LABEL/*.png.

    It opens the server's database with its master key, so it runs where the server does. What it writes are its
    tenants' images: keep them as carefully.
    """
    from kshot.serving.gathering import check_there, gather, inverted_models
    from kshot.serving.server import open_store
    from kshot.serving.settings import load_settings

    output = Output(as_json)
    found = load_settings(settings, {"database": database})
    check_there(found)
    opened, vault = open_store(found)
    try:
        gathered = gather(opened, vault, out, of=tenant or (), model=model, inverted=inverted_models(opened, model))
    finally:
        opened.close()
    splits = ", ".join(f"{name} {count:,}" for name, count in gathered.tasks.items())
    output.say(f"Gathered {gathered.examples:,} examples and {gathered.feedback:,} judged queries in {out}")
    output.say(f"Tasks: {splits}")
    for reason, count in gathered.left.items():
        output.say(f"Left out: {count:,}, {reason}")
    output.say(f"Next: kshot train --init RUN --data {out} --replay 0.5, of the run that is served")
    output.result({"out": str(out), **gathered.document()})


def _short(text: str, width: int = 90) -> str:
    return text if len(text) <= width else text[: width - 3].rstrip() + "..."
