"""Scores on val tasks: what selects a learner."""

from __future__ import annotations

import math

import torch

from kshot import engine, metrics
from kshot.engine import FeatureCache
from kshot.engine.distributed import Group
from kshot.engine.fits import check_kind, check_support_size, check_target_size, check_way
from kshot.errors import UnsupportedError
from kshot.learners.base import Learner, evaluating
from kshot.metrics import Interval
from kshot.tasks.split import TaskSplit

SEED = 0
"""Of the val tasks: the same ones in every validation of every run, so that runs can be compared."""

EXAMPLES_AT_ONCE = 4096
"""Examples of the tasks that are validated at once."""


def validate(
    learner: Learner,
    split: TaskSplit,
    tasks: int,
    *,
    mode: str,
    seed: int = SEED,
    chunk: int | None = None,
    group: Group | None = None,
) -> Interval:
    """The mean score over tasks of a split, accuracy, mean squared error or bit error, with the learner in eval mode.

    Args:
        learner: left in the mode that it was in.
        split: the val tasks.
        tasks: how many.
        mode: of the engine; `"compile"` stands for `"vmap"`: a few validations do not pay for a graph of their own.
        chunk: the most tasks at once.
        group: processes that share the tasks; all of them get the result.

    Returns:
        The mean may be infinite or NaN, where the learner diverges.
    """
    mode = "vmap" if mode == "compile" else mode
    episode = split.support_size + split.query_size + split.unlabeled_size
    size = max(1, min(256, EXAMPLES_AT_ONCE // max(1, episode), chunk or tasks))
    device = next((p.device for p in learner.parameters()), torch.device("cpu"))
    group = group or Group()
    own, scores = group.share(tasks), []
    with evaluating(learner):
        cache = FeatureCache(learner)
        for first in range(own.start, own.stop, size):
            count = min(size, own.stop - first)
            episodes = split.sample(count, seed=seed, first=first, device=None if device.type == "cpu" else device)
            outputs = engine.predict_queries(learner, episodes, mode, cache=cache)
            scores.append(metrics.score(outputs, episodes.query, learner.outputs).cpu())
    values = torch.cat(scores) if scores else torch.zeros(0)
    if group.size > 1:
        everyone = torch.zeros(tasks, dtype=torch.float64)
        everyone[own.start : own.stop] = values
        values = group.sum(everyone).to(torch.float32)
    if not bool(torch.isfinite(values).all()):
        return Interval(float(values.mean()), math.inf, len(values))
    return metrics.interval(values)


def better(kind: str, score: float, than: float | None) -> bool:
    """Whether a score of tasks of a kind is better: a higher accuracy, a lower error; never one that is not finite."""
    if not math.isfinite(score):
        return False
    return than is None or (score > than if kind == "classification" else score < than)


def check_fits(
    learner: Learner, split: TaskSplit, shape: tuple[int, ...] | None = None, max_support: int | None = None
) -> None:
    """Raises UnsupportedError where a learner cannot do a split's tasks: their kind, way, size, targets or shape.

    Args:
        shape: of the examples.
        max_support: in place of the learner's own, where it is still to be trained.
    """
    name, have = type(learner).__name__, f"the tasks of {split.name} have"
    check_kind(learner, split.kind, f"the tasks of {split.name} are")
    if split.kind == "sequence" and learner.bits is not None:
        bits = int(split.sample(1, seed=0).query.y.shape[-1])
        if bits != learner.bits:
            raise UnsupportedError(
                f"this {name} answers with {learner.bits} bits a step, the tasks of {split.name} ask for {bits}: make "
                f"it with out_features={bits}"
            )
    check_way(learner, split.way, f"{have} up to")
    classes = getattr(learner, "classes", None)
    if isinstance(classes, int) and split.name == "train" and split.classes > classes:
        raise UnsupportedError(
            f"this {name} tells {classes} training classes apart, those of {split.name} are {split.classes}: make it "
            f"with classes={split.classes}"
        )
    check_support_size(learner, split.support_size, have, max_support)
    if split.kind == "regression":
        check_target_size(learner, int(split.sample(1, seed=0).query.y.shape[-1]), have)
    own = learner.input_shape
    if own is not None and shape is not None and tuple(own) != tuple(shape):
        raise UnsupportedError(
            f"this {name} takes examples of shape {list(own)}, those of {split.name} have {list(shape)}: change the "
            "backbone's in_channels, image_size or in_features, or load the data with another size"
        )
