"""Which classes a learner may be evaluated on: those that it has never seen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from kshot.datasets.pool import Pool
from kshot.errors import ArtifactError, KshotError, OverlappingSplitsError, TooFewClassesError
from kshot.learners.base import Learner
from kshot.tasks.source import TaskSource
from kshot.tasks.split import TaskSplit
from kshot.tasks.unlabeled import UNLABELED_OPTIONS

_SAMPLING = frozenset(
    [
        "way",
        "shot",
        "query",
        "sampling",
        "max_support",
        "support_per_class",
        *UNLABELED_OPTIONS,
        "functions",
        "train",
        "val",
        "test",
        "data_dir",
        "skip_bad",
        "at_least",
    ]
)
"""Keys of a source's spec that say how its tasks look, or where its files lie, not which data it is."""


def run_folder(learner: Learner) -> Path | None:
    """The run that a learner came from, where its folder is still there; a copied run stands for itself."""
    own, run = learner.provenance.get("path"), learner.provenance.get("run")
    # The path of a shipped learner is its bare name, in no folder of the user's.
    if own and Path(own).is_absolute() and (Path(own).parent / "splits.json").is_file():
        return Path(own).parent
    return Path(run) if run and (Path(run) / "splits.json").is_file() else None


def same_data(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> bool:
    """Whether the specs of two task sources name the same data dealt out the same way, however their tasks look."""
    if not names_data(a) or not names_data(b):
        return False
    return data_only(a) == data_only(b)


def names_data(spec: Mapping[str, Any] | None) -> TypeGuard[Mapping[str, Any]]:
    """Whether the spec of a task source says which data it is; that of data made in memory cannot."""
    return spec is not None and "name_or_path" in spec


def data_only(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a source's spec that says which data it is."""
    return {key: value for key, value in spec.items() if key not in _SAMPLING}


def recorded_classes(learner: Learner) -> dict[str, list[str]]:
    """The names of the `train`, `val` and `test` classes that the learner's run recorded, as far as they are known.

    Raises:
        ArtifactError: the run's `splits.json` cannot be read.
    """
    run = run_folder(learner)
    splits: Mapping[str, Any] = learner.provenance.get("splits") or {}
    if run is not None and (run / "splits.json").is_file():
        try:
            splits = json.loads((run / "splits.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"expected the run's class names in {run / 'splits.json'}, got no such JSON: {error}"
            ) from error
    known = {name: list(splits[name]) for name in ("train", "val", "test") if isinstance(splits.get(name), Sequence)}
    if "train" not in known and learner.provenance.get("train_classes"):
        classes = learner.provenance["train_classes"]
        if isinstance(classes, Sequence) and not isinstance(classes, str):
            known["train"] = list(classes)
    return known


def unseen_split(learner: Learner, split: TaskSplit, *, allow_seen: bool = False) -> tuple[TaskSplit, list[str]]:
    """The split as the learner may be evaluated on it, with notes for the reader.

    On the data that the learner was trained on, those are the test classes that its run recorded, whatever has been
    added since. Other data is compared by content: a class of which the learner has seen any example, in training or in
    validation, is refused, whatever it is called there.

    Args:
        allow_seen: evaluate nevertheless, with a note that says so.

    Raises:
        OverlappingSplitsError: the learner has seen some of the classes; they are named.
        TooFewClassesError: none of the recorded test classes, or too few, are left.
    """
    pool, provenance = split.pool, learner.provenance
    if pool is None:
        return split, []
    recorded = recorded_classes(learner)
    if not provenance.get("source") and not recorded and run_folder(learner) is None:
        return split, [
            "what this learner was trained on is not recorded: whether it has seen these classes cannot be checked"
        ]
    spec = split._source.spec if split._source is not None else {}
    own, hashes, problem = same_data(provenance.get("source"), spec), None, ""
    if not own:
        hashes, problem = seen_hashes(learner)
        # Of data made in memory, without a run folder, the classes' names are all that there is to go by.
        if hashes is None and not names_data(provenance.get("source")) and recorded:
            own = set(pool.names) <= {c for names in recorded.values() for c in names}
    notes: list[str] = []
    if own and recorded.get("test") and split.name == "test":
        kept = [name in set(recorded["test"]) for name in pool.names]
        if all(kept):
            return split, notes
        if not any(kept):
            raise TooFewClassesError(
                f"none of the {len(recorded['test'])} test classes that the run recorded are in {split}: "
                "the data has changed since. Give the data that it was trained on, or other data"
            )
        dropped = len(kept) - sum(kept)
        notes.append(
            f"{dropped} class{'es' if dropped > 1 else ''} of the data that the run did not record for testing left out"
        )
        return split.subset(kept), notes
    if own:
        names = {c for part in ("train", "val") for c in recorded.get(part, _source_names(split, part))}
        seen = [name in names for name in pool.names]
    else:
        if hashes is None:
            return split, [f"whether the learner has seen these classes cannot be checked: {problem}"]
        seen = seen_classes(pool, hashes)
    if not any(seen):
        return split, notes
    names_seen = [name for name, is_seen in zip(pool.names, seen, strict=True) if is_seen]
    more = f" and {len(names_seen) - 5} more" if len(names_seen) > 5 else ""
    listed = ", ".join(names_seen[:5]) + more
    if allow_seen:
        return split, [f"{len(names_seen)} of the {len(pool)} classes are not new to the learner: {listed}"]
    raise OverlappingSplitsError(
        f"expected classes that this {type(learner).__name__} has never seen, but of the {len(pool)} classes of "
        f"{split} it has seen {len(names_seen)} in training or validation: {listed}. Leave those out, or evaluate on "
        "other data (allow_seen=True scores them all the same and says so)"
    )


def seen_classes(pool: Pool, hashes: Tensor) -> list[bool]:
    """Whether any example of each class of a pool is among the content hashes."""
    hit = torch.isin(pool.example_hashes(), hashes)
    return [
        bool(hit[int(start) : int(start + count)].any()) for start, count in zip(pool.start, pool.count, strict=True)
    ]


def seen_hashes(learner: Learner) -> tuple[Tensor | None, str]:
    """The content hashes of all that the learner was trained and selected on; or None, and why they are not known."""
    run = run_folder(learner)
    if run is not None and (run / "seen.safetensors").is_file():
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(run / "seen.safetensors")["hashes"], ""
        except (OSError, KeyError, SafetensorError) as error:
            raise ArtifactError(f"expected content hashes in {run / 'seen.safetensors'}, got none: {error}") from error
    try:
        source = training_source(learner)
    except KshotError as error:
        return None, f"its training data cannot be loaded ({error})"
    if source is None:
        return None, "what it was trained on is not recorded"
    pools = [source.splits[name].pool for name in ("train", "val") if name in source.splits]
    found = [pool.example_hashes()[torch.cat([pool.rows(c) for c in range(len(pool))])] for pool in pools if pool]
    return (torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)), ""


def training_source(learner: Learner) -> TaskSource | None:
    """The task source that the learner was trained on, loaded again from its provenance; None where that names no data.

    Raises:
        KshotError: its data is not there any more.
    """
    spec = learner.provenance.get("source")
    return _load(json.dumps(spec, sort_keys=True)) if names_data(spec) else None


@lru_cache(maxsize=2)
def _load(spec: str) -> TaskSource:
    from kshot import tasks

    return tasks.load(**json.loads(spec))


def _source_names(split: TaskSplit, part: str) -> list[str]:
    """The class names of another split of the same source."""
    source = split._source
    pool = source.splits[part].pool if source is not None and part in source.splits else None
    return [] if pool is None else list(pool.names)
