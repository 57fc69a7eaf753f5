"""A backbone that begins with the weights of another learner's, and what that one had seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from kshot import capture
from kshot.artifacts import from_pretrained, load_state
from kshot.errors import ArtifactError, ConfigError, KshotError, UnsupportedError, few
from kshot.learners.base import Learner
from kshot.models import Backbone, Frozen
from kshot.models.norms import batch_norms
from kshot.randomness import seeded
from kshot.tasks.source import TaskSource
from kshot.training.pretrain import find_backbone
from kshot.training.seen import seen_classes, seen_hashes


def begin_with(backbone: Backbone | None, path: str | Path, source: TaskSource, *, frozen: bool = False) -> Backbone:
    """A backbone with the weights of a saved learner's.

    Args:
        backbone: takes the weights over; None: one like the saved learner's.
        path: of a run or of a saved learner.
        source: of the tasks that it will be used for.
        frozen: the weights shall stay as they are.

    Raises:
        ConfigError: there is no learner, or it has no such backbone; it has seen test classes of the source, or what it
            has seen is not known; weights that were never used in eval mode shall be frozen.
    """
    learner, where = _saved(path), f"backbone.weights: {path}"
    try:
        found = find_backbone(learner)
    except UnsupportedError as error:
        raise ConfigError(f"{where}: a {type(learner).__name__} has no backbone to begin with") from error
    if not isinstance(found, Backbone):
        raise ConfigError(
            f"{where}: its backbone is a {type(found).__name__}, whose arguments are not known: derive it from "
            "kshot.models.Backbone"
        )
    _check_unseen(learner, source, where)
    if backbone is None:
        with seeded(0):  # the initial weights are drawn in vain
            backbone = capture.build(found.config)
    assert isinstance(backbone, Backbone)
    if backbone.input_shape not in (None, source.example_shape):
        raise ConfigError(
            f"{where}: its {type(backbone).__name__} takes examples of shape {list(backbone.input_shape or ())}, those "
            f"of {source.name} have {list(source.example_shape)}: load the data with that size, or begin with another"
        )
    try:
        load_state(backbone, found.state_dict(), "its backbone")
    except ArtifactError as error:
        raise ConfigError(
            f"{where}: {error}. Leave the other keys of the backbone out to have one like that learner's"
        ) from error
    if not frozen:
        return backbone
    if any(not layer.running_mean.any() for _, layer in batch_norms(backbone)):
        raise ConfigError(
            f"{where}: a {type(learner).__name__} normalises by the statistics of each task, and has none for a frozen "
            "backbone to use: freeze the backbone of another learner, such as ProtoNet, or do not freeze it"
        )
    return Frozen(backbone)


def go_on_with(path: str | Path, source: TaskSource) -> Learner:
    """The learner of a run, to be trained further on other tasks.

    Raises:
        ConfigError: there is no learner; it has seen test classes of the source, or what it has seen is not known.
    """
    learner = _saved(path, "init")
    _check_unseen(learner, source, f"init: {path}")
    learner.provenance = {"weights": describe_weights(path)}
    return learner.train().requires_grad_(requires_grad=True)


def describe_weights(path: str | Path) -> dict[str, Any]:
    """What a learner that begins with these weights carries along: where they are from, and what they took."""
    before = _saved(path).provenance
    earlier = before.get("weights") or {}
    took = {key: (before.get(key) or 0) + (earlier.get(key) or 0) for key in ("examples", "seconds")}
    return {"path": str(Path(path).absolute()) if Path(path).exists() else str(path), **took}


def seen_before(learner: Learner) -> Tensor | None:
    """The content hashes of what the weights that a learner begins with had seen; None where it begins with none."""
    weights = learner.provenance.get("weights")
    return None if not weights else seen_hashes(_saved(weights["path"]))[0]


def _saved(path: str | Path, key: str = "backbone.weights") -> Learner:
    try:
        learner: Learner = from_pretrained(path)
    except KshotError as error:
        raise ConfigError(f"{key}: {error}") from error
    return learner


def _check_unseen(learner: Learner, source: TaskSource, where: str) -> None:
    pool = source.splits["test"].pool if "test" in source.splits else None
    if pool is None:
        return
    hashes, problem = seen_hashes(learner)
    if hashes is None:
        raise ConfigError(
            f"{where}: whether it has seen the test classes of {source.name} cannot be checked: {problem}. Give the "
            "folder of a run"
        )
    names = [name for name, seen in zip(pool.names, seen_classes(pool, hashes), strict=True) if seen]
    if names:
        raise ConfigError(
            f"{where}: it was trained or selected on {len(names)} of the {len(pool)} test classes of {source.name}: "
            f"{few(names)}. What begins with it could not be tested on them: begin with a run that "
            "has the same test classes"
        )
