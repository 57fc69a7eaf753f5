"""Which unseen tasks a learner is evaluated on: its own data's recorded test classes, or all classes of other data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kshot.errors import ArtifactError

if TYPE_CHECKING:
    from kshot.learners.base import Learner
    from kshot.tasks.source import TaskSource
    from kshot.tasks.split import TaskSplit


TEST = {"way": 5, "shot": 1, "query": 15}
"""How test tasks look where neither the learner's training nor the user says it."""


def unseen_tasks(
    learner: Learner,
    data: str | None = None,
    *,
    way: int | None = None,
    shot: int | None = None,
    query: int | None = None,
    data_dir: Path | None = None,
    skip_bad: bool = False,
) -> TaskSplit:
    """The test split that an evaluation of a learner samples from.

    Args:
        learner: a trained one; its provenance says what it was trained on.
        data: a registered dataset, or the path of a folder, zip or CSV; None for the learner's own data.
        way, shot, query: in place of those that it was trained for.

    Raises:
        ArtifactError: without `data`, of a learner that does not say what it was trained on.
    """
    from kshot import tasks

    spec: dict[str, Any] = dict(learner.provenance.get("source") or {})
    given: dict[str, Any] = {"way": way, "shot": shot, "query": query}
    asked = {key: value for key, value in given.items() if value is not None}
    if data is None or is_own(spec, data):
        split = source_of(learner, data_dir=data_dir, skip_bad=skip_bad).test
        return split.replace(**asked) if asked else split
    if data in tasks.SEQUENCES:
        return tasks.load(data, **asked).test
    options = foreign_options(learner, data, skip_bad=skip_bad)
    own = {key: spec[key] for key in ("way", "shot", "query") if isinstance(spec.get(key), int)}
    # Only test is sampled from: what the other splits may be too small for is of no consequence.
    return tasks.load(data, data_dir=data_dir, way=2, shot=1, query=1, test={**TEST, **own, **asked}, **options).test


def source_of(learner: Learner, *, data_dir: Path | None = None, skip_bad: bool = False) -> TaskSource:
    """The task source that a learner was trained on.

    Raises:
        ArtifactError: the learner does not say what that was.
        KshotError: its data is not there any more.
    """
    from kshot import tasks

    spec: dict[str, Any] = dict(learner.provenance.get("source") or {})
    if "name_or_path" not in spec:
        raise ArtifactError(
            "this learner does not say which data it was trained on: name some to evaluate it on, with --data"
        )
    if data_dir is not None and spec["name_or_path"] not in tasks.GENERATED:
        spec["data_dir"] = str(data_dir.expanduser().absolute())
    if skip_bad:
        spec["skip_bad"] = True
    return tasks.load(**spec)


def is_own(spec: dict[str, Any], data: str) -> bool:
    """Whether `data` is what the task source `spec` was made of."""
    name, path = identify(data)
    trained_path = spec.get("path")
    if path is not None and trained_path is not None:
        return Path(trained_path) == path
    return path is None and trained_path is None and spec.get("name_or_path") == name


def identify(data: str) -> tuple[str, Path | None]:
    """The name of the dataset that `data` stands for, and the absolute path where it is a user's own."""
    from kshot import datasets, tasks

    if data in datasets.names() or data in tasks.GENERATED:
        return data, None
    path = Path(data).expanduser().absolute()
    table = path.name.lower().endswith((".csv", ".tsv", ".csv.gz", ".tsv.gz"))
    return ("csv" if table else "folder"), path


def foreign_options(learner: Learner, data: str, *, skip_bad: bool = False) -> dict[str, Any]:
    """How data that a learner was not trained on is read: by the learner's own transform, all classes in `test`."""
    from kshot import datasets, tasks

    name, path = identify(data)
    if name in tasks.GENERATED:
        return {}
    known = datasets.entry(name).options
    options: dict[str, Any] = {}
    if "transform" in known and learner.transform is not None:
        options["transform"] = learner.transform.to_dict()
    if path is not None or known.get("split") == "all":
        options["split"] = "all"
    if skip_bad:
        options["skip_bad"] = True
    return options
