"""`kshot data`: which datasets there are, what is known of one, and getting one."""

from __future__ import annotations

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


def _short(text: str, width: int = 90) -> str:
    return text if len(text) <= width else text[: width - 3].rstrip() + "..."
