"""`kshot predict`: labels with probabilities for new files, from an adapted task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kshot.cli import remote
from kshot.cli.options import Json, SkipBad, examples
from kshot.cli.output import Output
from kshot.cli.remote import Server
from kshot.errors import DataError, UnsupportedError

if TYPE_CHECKING:
    from kshot.datasets.transform import Transform
    from kshot.learners.adapted import AdaptedModel

EXAMPLES = examples(
    "kshot predict task.safetensors photo.jpg",
    "kshot predict task.safetensors *.png --json --top 3",
    "kshot predict task_0123456789abcdef01234567 photo.jpg --server http://127.0.0.1:8000",
)


def command(
    task: Annotated[
        Path, typer.Argument(metavar="TASK", help="The file that kshot adapt saved; at a server: the task's id.")
    ],
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="The files to label; a folder: all in it.")],
    run: Annotated[
        str | None,
        typer.Option(help="The learner that the task belongs to, if it has moved.", show_default=False),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Only the K likeliest labels of each file.", show_default=False)
    ] = None,
    server: Server = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Label files with an adapted task: the likeliest classes with their probabilities."""
    output = Output(as_json)
    with output.alone():
        if server is not None and not task.is_file():  # which KSHOT_SERVER knows nothing of
            remote.predict(output, server, str(task), expand(files), top, lines)
            return
        from kshot.artifacts import load_adapted

        model = load_adapted(task, run=run)
        found = predict_files(model, expand(files, model.learner.transform), skip_bad=skip_bad)
        if top is not None:
            found = [{**row, "probabilities": dict(list(row["probabilities"].items())[:top])} for row in found]
        if not as_json:
            for line in lines(found, top or 3):
                output.say(line)
        output.result(found)


def expand(paths: Sequence[Path], transform: Transform | None = None) -> list[Path]:
    """The files as they are, and for a folder the files in it that are not hidden: of a learner of images, the images.

    Raises:
        DataError: there is no such file, or nothing in a folder.
    """
    from kshot.datasets.images import is_image
    from kshot.datasets.transform import ImageTransform

    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
            if not inside:
                raise DataError(f"expected files in {path}, got an empty folder")
            if isinstance(transform, ImageTransform):
                images = [p for p in inside if is_image(p.name)]
                if not images:
                    raise DataError(f"expected images in {path}, got {inside[0].name} and no image")
                inside = images
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"there is no file {path}: check the path; it is relative to {Path.cwd()}")
    return files


def predict_files(model: AdaptedModel, files: Sequence[Path], *, skip_bad: bool = False) -> list[dict[str, Any]]:
    """One `{"file", "label", "probability", "probabilities": {label: p}}` a file, or a row of a table (`file:line`).

    Raises:
        UnsupportedError: the task's learner was saved without a transform.
        DataError: a file cannot be read.
    """
    from kshot import datasets

    transform = model.learner.transform
    if transform is None:
        raise UnsupportedError(
            "the learner of this task was saved without a transform, so nothing says how it reads files: use "
            "kshot.artifacts.load_adapted(path).predict(x) in Python"
        )
    x, names = datasets.read_examples(files, transform, skip_bad=skip_bad)
    probabilities = model.probabilities(transform.normalise(x)).tolist()
    rows = []
    for name, values in zip(names, probabilities, strict=True):
        ranked = sorted(zip(map(str, model.labels), values, strict=True), key=lambda pair: -pair[1])
        rows.append(
            {
                "file": name,
                "label": ranked[0][0],
                "probability": round(ranked[0][1], 6),
                "probabilities": {label: round(value, 6) for label, value in ranked},
            }
        )
    return rows


def lines(rows: Sequence[dict[str, Any]], top: int) -> list[str]:
    """A line a file: its name, and the likeliest labels."""
    width = max((len(row["file"]) for row in rows), default=0)
    return [
        f"{row['file'].ljust(width)}  "
        + "  ".join(f"{label} {value:.1%}" for label, value in list(row["probabilities"].items())[:top])
        for row in rows
    ]
