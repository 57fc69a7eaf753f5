"""What a learner has seen: the classes and examples of its training and validation, as its run recorded them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from kshot.datasets.pool import Pool
from kshot.errors import ArtifactError, KshotError
from kshot.learners.base import Learner
from kshot.tasks.source import TaskSource
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


def seen_classes(pool: Pool, hashes: Tensor) -> list[bool]:
    """Whether any example of each class of a pool is among the content hashes."""
    hit = torch.isin(pool.example_hashes(), hashes)
    return [
        bool(hit[int(start) : int(start + count)].any()) for start, count in zip(pool.start, pool.count, strict=True)
    ]


def train_and_val_hashes(source: TaskSource) -> Tensor | None:
    """The content hashes of a source's train and val examples; None where it has no pools of them."""
    seen: list[Tensor] = []
    hashed: dict[int, Tensor] = {}  # splits mostly share one table of examples
    for name in ("train", "val"):
        pool = source.splits[name].pool if name in source.splits else None
        if pool is not None:
            if id(pool.x) not in hashed:
                hashed[id(pool.x)] = pool.example_hashes()
            seen += [hashed[id(pool.x)][pool.rows(c)] for c in range(len(pool))]
    return torch.cat(seen).unique() if seen else None


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
    if learner.provenance.get("weights"):
        return None, "it began with another run's weights, and its run folder, which says what that had seen, is gone"
    found = train_and_val_hashes(source)
    return torch.zeros(0, dtype=torch.int64) if found is None else found, ""


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
