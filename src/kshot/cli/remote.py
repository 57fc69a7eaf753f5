"""What commands do at a server in place of here: adapt and predict with `--server`, and all of `kshot tasks`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kshot.cli.output import Output

if TYPE_CHECKING:
    from kshot.client import Client

Server = Annotated[
    str | None,
    typer.Option(
        "--server", envvar="KSHOT_SERVER", help="Do it at a server: http://127.0.0.1:8000.", show_default=False
    ),
]

HERE = "http://127.0.0.1:8000"


def connect(server: str | None) -> Client:
    """A client of a server; its key is `$KSHOT_KEY`."""
    from kshot.client import Client

    return Client(server or HERE)


def labelled_files(support: Path) -> tuple[list[bytes], list[str]]:
    """The images of a folder or a zip with a subfolder per class, as they are, and their labels.

    Raises:
        DataError: there are none.
    """
    from kshot.datasets.reading import labelled_images

    x, labels, _ = labelled_images(support)
    return x, labels


def adapt(
    output: Output,
    server: str,
    model: str,
    support: Path,
    unlabeled: Sequence[Path],
    steps: int | None,
    out: Path | None,
) -> None:
    """`kshot adapt` at a server: a task there, and with `out` a copy of it here."""
    from kshot.artifacts.atomic import atomic_file
    from kshot.cli.predict import expand

    x, labels = labelled_files(support)
    files = expand(unlabeled)
    with connect(server) as client:
        made = client.create_task(
            x, labels, unlabeled=[path.read_bytes() for path in files], model=model, name=support.stem, steps=steps
        )
        say_task(output, made)
        if "label_next" in made:
            output.say("To label next: " + ", ".join(str(files[i]) for i in made["label_next"][:5]))
        if out is not None:
            atomic_file(out, client.download(made["id"]))
            output.say(f"Saved {out}")
    counts = ", ".join(f"{label} ({count})" for label, count in sorted(Counter(labels).items()))
    output.say(f"Classes (examples): {counts}. Next: kshot predict {made['id']} FILES... --server {server}")
    output.result(made)


def predict(
    output: Output, server: str, task: str, files: Sequence[Path], top: int | None, lines: Any
) -> list[dict[str, Any]]:
    """`kshot predict` at a server: a row a file."""
    rows: list[dict[str, Any]] = []
    with connect(server) as client:
        for start in range(0, len(files), 64):
            part = files[start : start + 64]
            for path, said in zip(part, client.predict(task, [str(path) for path in part], top=top), strict=True):
                ranked = dict(sorted(said["probabilities"].items(), key=lambda pair: -pair[1]))
                rows.append({"file": str(path), **said, "probabilities": ranked})
    if not output.as_json:
        for line, row in zip(lines(rows, top or 3), rows, strict=True):
            output.say(f"{line}  (not sure)" if row["abstain"] else line)
    output.result(rows)
    return rows


def say_task(output: Output, made: dict[str, Any]) -> None:
    """What a server said of a version of a task, in words."""
    classes = len(made["classes"])
    output.say(f"{made['id']}, version {made['version']}: {made['examples']} examples of {classes} classes")
    known = made.get("leave_one_out")
    if known:
        output.say(
            f"Each example left out in turn is told right in {known['accuracy']:.1%} of {known['examples']} cases "
            f"(95% interval {known['low']:.1%} to {known['high']:.1%})"
        )
    elif made.get("checking"):
        output.say(f"How good it is shows in a while: kshot tasks show {made['id']}")
    for one in made.get("suspects", []):
        output.say(f"Example {one['example']} looks like {one['instead']} ({one['probability']:.0%}): check its label")
