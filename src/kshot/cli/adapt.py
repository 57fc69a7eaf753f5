"""`kshot adapt`: a learner and a few labelled files make a task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kshot.cli import remote
from kshot.cli.options import Json, SkipBad, examples
from kshot.cli.output import Output
from kshot.cli.remote import Server
from kshot.errors import UnsupportedError

if TYPE_CHECKING:
    from kshot.learners.adapted import AdaptedModel
    from kshot.learners.base import Learner

EXAMPLES = examples(
    "kshot adapt runs/mine --support new_classes/ --out task.safetensors",
    "kshot adapt characters --support letters.zip     # the learner that ships with kshot",
    "kshot adapt characters --support new_classes/ --server http://127.0.0.1:8000",
    "kshot adapt runs/omniglot-soft-kmeans --support new_classes/ --unlabeled scans/",
)


def command(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run folder, a saved learner, or a shipped one: characters. At a server: its name there.",
        ),
    ],
    support: Annotated[
        Path,
        typer.Option(help="The labelled examples: a folder or zip with a subfolder per class (a CSV for tables)."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Where to save the task.", show_default="task.safetensors; of a server's, nowhere"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Inner-loop steps, of a learner that takes any.", show_default=False)
    ] = None,
    unlabeled: Annotated[
        list[Path] | None,
        typer.Option(
            help="Files without labels, or a folder of them, for a learner that makes use of them (soft k-means). "
            "May be given several times.",
            show_default=False,
        ),
    ] = None,
    server: Server = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Adapt a learner to a new task, from a folder with a few examples of each class."""
    output = Output(as_json)
    with output.alone():
        if server is not None:
            remote.adapt(output, server, run, support, unlabeled or (), steps, out)
            return
        from kshot.artifacts import from_pretrained

        learner = from_pretrained(run)
        model = adapt_files(learner, support, unlabeled=unlabeled or (), steps=steps, skip_bad=skip_bad)
        path = model.save(out or Path("task.safetensors"))
        shots: dict[str, int] = model.metadata["shots"]
        counts = ", ".join(f"{label} ({count})" for label, count in shots.items())
        output.say(f"{type(learner).__name__} adapted to {len(shots)} classes (examples): {counts}")
        without = len(model.metadata.get("unlabeled", ()))
        if without:
            output.say(f"and by {without} example{'' if without == 1 else 's'} without a label")
        output.say(f"Saved {path}. Next: kshot predict {path} FILES...")
        found = {"task": str(path), "learner": type(learner).__name__, "run": run, "classes": shots}
        output.result(found | ({"unlabeled": without} if without else {}))


def adapt_files(
    learner: Learner,
    support: Path,
    *,
    unlabeled: Sequence[Path] = (),
    steps: int | None = None,
    skip_bad: bool = False,
) -> AdaptedModel:
    """`kshot.adapt` from files. The model's metadata holds `shots` (label: number of examples), `files`, and where
    there are any the files that are `unlabeled`.

    Args:
        support: a folder or zip with a subfolder per class, or a CSV.
        unlabeled: files without labels, and folders of them.

    Raises:
        UnsupportedError: the learner was saved without a transform, so nothing says how it reads files.
        DataError, SupportError: the files are no support set.
    """
    from kshot import datasets
    from kshot.cli.predict import expand
    from kshot.learners.adapted import adapt
    from kshot.learners.support import check_semi_supervised

    if learner.transform is None:
        raise UnsupportedError(
            f"this {type(learner).__name__} was saved without a transform, so nothing says how it reads files: it was "
            "trained on arrays or functions. Use kshot.adapt(learner, (x, labels)) in Python"
        )
    if unlabeled:
        check_semi_supervised(learner)  # before many files are read
    x, labels, files = datasets.read_support(support, learner.transform, skip_bad=skip_bad)
    options: dict[str, Any] = {} if steps is None else {"steps": steps}
    extra: list[str] = []
    if unlabeled:
        z, extra = datasets.read_examples(expand(unlabeled, learner.transform), learner.transform, skip_bad=skip_bad)
        options["unlabeled"] = learner.transform.normalise(z)
    # Bytes of images become numbers, columns of a table get the scale that the learner knows.
    model = adapt(learner, (learner.transform.normalise(x), labels), **options)
    model.metadata = {"shots": dict(sorted(Counter(labels).items())), "files": files, "support": str(support)}
    if extra:
        model.metadata["unlabeled"] = extra
    return model
