"""`kshot adapt`: a learner and a few labelled files make a task."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kshot.cli.options import Json, SkipBad, examples
from kshot.cli.output import Output
from kshot.errors import UnsupportedError

if TYPE_CHECKING:
    from kshot.learners.adapted import AdaptedModel
    from kshot.learners.base import Learner

EXAMPLES = examples(
    "kshot adapt runs/mine --support new_classes/ --out task.safetensors",
    "kshot adapt characters --support letters.zip     # the learner that ships with kshot",
)


def command(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run folder, a saved learner, or a shipped one: characters.")
    ],
    support: Annotated[
        Path,
        typer.Option(help="The labelled examples: a folder or zip with a subfolder per class (a CSV for tables)."),
    ],
    out: Annotated[Path, typer.Option(help="Where to save the task.")] = Path("task.safetensors"),
    steps: Annotated[
        int | None, typer.Option(help="Inner-loop steps, of a learner that takes any.", show_default=False)
    ] = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Adapt a learner to a new task, from a folder with a few examples of each class."""
    output = Output(as_json)
    with output.alone():
        from kshot.artifacts import from_pretrained

        learner = from_pretrained(run)
        model = adapt_files(learner, support, steps=steps, skip_bad=skip_bad)
        path = model.save(out)
        shots: dict[str, int] = model.metadata["shots"]
        counts = ", ".join(f"{label} ({count})" for label, count in shots.items())
        output.say(f"{type(learner).__name__} adapted to {len(shots)} classes (examples): {counts}")
        output.say(f"Saved {path}. Next: kshot predict {path} FILES...")
        output.result({"task": str(path), "learner": type(learner).__name__, "run": run, "classes": shots})


def adapt_files(learner: Learner, support: Path, *, steps: int | None = None, skip_bad: bool = False) -> AdaptedModel:
    """`kshot.adapt` from files. The model's metadata holds `shots` (label: number of examples) and `files`.

    Raises:
        UnsupportedError: the learner was saved without a transform, so nothing says how it reads files.
        DataError, SupportError: the files are no support set.
    """
    from kshot import datasets
    from kshot.learners.adapted import adapt

    if learner.transform is None:
        raise UnsupportedError(
            f"this {type(learner).__name__} was saved without a transform, so nothing says how it reads files: it was "
            "trained on arrays or functions. Use kshot.adapt(learner, (x, labels)) in Python"
        )
    x, labels, files = datasets.read_support(support, learner.transform, skip_bad=skip_bad)
    options: dict[str, Any] = {} if steps is None else {"steps": steps}
    # Bytes of images become numbers, columns of a table get the scale that the learner knows.
    model = adapt(learner, (learner.transform.normalise(x), labels), **options)
    model.metadata = {"shots": dict(sorted(Counter(labels).items())), "files": files, "support": str(support)}
    return model
