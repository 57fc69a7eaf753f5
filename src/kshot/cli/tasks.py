"""`kshot tasks`: the tasks of a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kshot.cli.handling import Group
from kshot.cli.options import Json, examples
from kshot.cli.output import Output
from kshot.cli.remote import Server, connect, labelled_files, say_task
from kshot.errors import ConfigError

app = typer.Typer(
    cls=Group,
    help="Tasks of a server (kshot serve): list, show, add, forget, rollback, feedback, health, download, delete.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog=examples(
        "kshot tasks list --server http://127.0.0.1:8000",
        "kshot tasks add task_0123456789abcdef01234567 --support more/",
        "kshot tasks health task_0123456789abcdef01234567",
    )
    + "\n\nThe server may come from KSHOT_SERVER; the key comes from KSHOT_KEY.",
)

Task = Annotated[str, typer.Argument(metavar="TASK", help="Its id (kshot tasks list).")]


@app.command("list", epilog=examples("kshot tasks list", "kshot tasks list --limit 1000 --json"))
def list_(
    limit: Annotated[int, typer.Option(min=1, help="So many, the newest first.")] = 50,
    server: Server = None,
    as_json: Json = False,
) -> None:
    """List tasks, the newest first."""
    output = Output(as_json)
    with connect(server) as client:
        found = list(client.tasks(limit))
    output.table(
        ["id", "name", "model", "version", "updated"],
        [[t["id"], t["name"] or "", t["model"], t["version"], t["updated"]] for t in found],
    )
    output.result(found)


@app.command("show", epilog=examples("kshot tasks show task_0123456789abcdef01234567"))
def show(task: Task, server: Server = None, as_json: Json = False) -> None:
    """Show a task, its versions and its examples."""
    output = Output(as_json)
    with connect(server) as client:
        found, versions, own = client.task(task), list(client.versions(task)), client.examples(task)
    say_task(output, found)
    output.table(
        ["version", "", "reason", "examples", "created"],
        [[v["version"], "*" if v["current"] else "", v["reason"], v["examples"], v["created"]] for v in versions],
    )
    output.table(["example", "label"], [[one["number"], one["label"] or "(none)"] for one in own])
    output.result({**found, "versions": versions, "own_examples": own})


@app.command("add", epilog=examples("kshot tasks add task_0123456789abcdef01234567 --support more/"))
def add(
    task: Task,
    support: Annotated[Path, typer.Option(help="A folder or zip of images with a subfolder per class.")],
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Add examples to a task."""
    x, labels = labelled_files(support)
    with connect(server) as client:
        _say(client.add_examples(task, x, labels), as_json)


@app.command("forget", epilog=examples("kshot tasks forget task_0123456789abcdef01234567 3"))
def forget(
    task: Task,
    number: Annotated[int, typer.Argument(metavar="EXAMPLE", help="Its number (kshot tasks show).")],
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Forget an example: the task is as if it had never been there."""
    with connect(server) as client:
        _say(client.forget_example(task, number), as_json)


@app.command("rollback", epilog=examples("kshot tasks rollback task_0123456789abcdef01234567 1"))
def rollback(
    task: Task,
    version: Annotated[int, typer.Argument(metavar="VERSION", help="The one to go back to (kshot tasks show).")],
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Go back to an earlier version."""
    with connect(server) as client:
        _say(client.rollback(task, version), as_json)


@app.command("feedback", epilog=examples("kshot tasks feedback task_0123456789abcdef01234567 cat --query photo.jpg"))
def feedback(
    task: Task,
    label: Annotated[str, typer.Argument(metavar="LABEL", help="What the query was.")],
    query: Annotated[Path | None, typer.Option(help="The image that was asked about.", show_default=False)] = None,
    predicted: Annotated[str | None, typer.Option(help="What was said of it.", show_default=False)] = None,
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Say what a query was."""
    if (query is None) == (predicted is None):
        raise ConfigError("expected --query FILE or --predicted LABEL, one of them")
    output = Output(as_json)
    with connect(server) as client:
        found = client.feedback(task, label, predicted=predicted, query=None if query is None else str(query))
    output.say(f"It was {found['label']}, and {found['predicted']} was said: {'right' if found['right'] else 'wrong'}")
    output.result(found)


@app.command("health", epilog=examples("kshot tasks health task_0123456789abcdef01234567"))
def health(task: Task, server: Server = None, as_json: Json = False) -> None:
    """Show how a task's queries look beside its examples, and how often it was right."""
    output = Output(as_json)
    with connect(server) as client:
        found = client.health(task)
    output.say(
        f"{found['queries']} queries" + _of(found["confidence"], "confidence") + _of(found["abstained"], "unsure")
    )
    drift, judged = found["drift"], found["feedback"]
    if drift is not None:
        output.say(
            f"Drift {drift['score']:+.2f}: "
            + ("ALARM: they lie farther than they should" if drift["alarm"] else "none")
        )
    if judged is not None:
        output.say(
            f"Right in {judged['accuracy']:.1%} of {judged['answers']} that were judged "
            f"(95% interval {judged['low']:.1%} to {judged['high']:.1%})"
        )
    output.result(found)


@app.command("download", epilog=examples("kshot tasks download task_0123456789abcdef01234567 --out task.safetensors"))
def download(
    task: Task,
    out: Annotated[Path, typer.Option(help="Where to save it.")] = Path("task.safetensors"),
    server: Server = None,
) -> None:
    """Download an adapted task, for kshot predict."""
    from kshot.artifacts.atomic import atomic_file

    with connect(server) as client:
        atomic_file(out, client.download(task))
    Output().say(f"Saved {out}. Next: kshot predict {out} FILES...")


@app.command("delete", epilog=examples("kshot tasks delete task_0123456789abcdef01234567"))
def delete(task: Task, server: Server = None) -> None:
    """Delete a task with all that is its own."""
    with connect(server) as client:
        client.delete(task)
    Output().say(f"{task} is deleted")


def _say(made: dict[str, Any], as_json: bool) -> None:
    output = Output(as_json)
    say_task(output, made)
    output.result(made)


def _of(value: float | None, what: str) -> str:
    return "" if value is None else f", {what} {value:.1%}"
