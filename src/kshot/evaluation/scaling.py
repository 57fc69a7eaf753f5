"""The score over the number and the diversity of training classes: short runs, trained anew, on parts of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from kshot.capture import build
from kshot.datasets.splits import shuffled
from kshot.errors import KshotError, UnsupportedError
from kshot.evaluation.scores import Progress, device_of, score_tasks
from kshot.evaluation.text import columns, show
from kshot.learners.base import Learner
from kshot.metrics import METRICS, Interval, interval
from kshot.randomness import seeded
from kshot.tasks.source import TaskSource
from kshot.tasks.split import TaskSplit
from kshot.training import Trainer
from kshot.training.optimizers import of_a_script

FRACTIONS = (0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Point:
    """One short run.

    Attributes:
        classes: that it was trained on (functions, for regression).
        groups: kinds of classes among them (alphabets, say); None where the data names none.
        choice: `"all kinds"`, or `"few kinds"`, where as many classes come from as few kinds as possible.
        score: on unseen tasks.
    """

    classes: int
    groups: int | None
    choice: str
    score: Interval

    def to_dict(self) -> dict[str, Any]:
        return {"classes": self.classes, "groups": self.groups, "choice": self.choice, "score": self.score.to_dict()}


@dataclass
class Scaling:
    """Scores over the number of training classes, all from runs of the same length."""

    metric: str
    steps: int
    points: list[Point]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        points = [point.to_dict() for point in self.points]
        return {"metric": self.metric, "steps": self.steps, "points": points, "notes": self.notes}

    def __str__(self) -> str:
        rows = [["training classes", "kinds", "unseen tasks"]]
        for p in self.points:
            kinds = "-" if p.groups is None else f"{p.groups} ({p.choice})"
            rows.append([str(p.classes), kinds, show(p.score, self.metric)])
        return "\n".join(
            [*columns(rows), f"Each trained anew for {self.steps} steps.", *(f"Note: {note}." for note in self.notes)]
        )


def scale(
    learner: Learner,
    source: TaskSource,
    *,
    split: TaskSplit | None = None,
    steps: int = 100,
    meta_batch: int | None = None,
    seconds: float = 300.0,
    fractions: Sequence[float] = FRACTIONS,
    tasks: int = 200,
    seed: int = 1,
    progress: Progress | None = None,
) -> Scaling:
    """Trains the learner anew, for a short while each time, on parts of its training classes.

    Args:
        learner: gives architecture, hyperparameters and, as its run recorded them, optimizer, learning rate and
            schedule; itself left alone.
        split: the unseen tasks; by default `source.test`.
        steps: outer steps of each run.
        meta_batch: tasks a step; by default the learner's own.
        seconds: a budget: no run is begun after it.
        fractions: of the training classes; classes are added in a random order, so each part holds the one before.
        tasks: unseen tasks to score each run on.

    Raises:
        UnsupportedError: the learner cannot be built anew from its configuration, or the source has no training tasks.
    """
    if "train" not in source.splits:
        raise UnsupportedError(f"{source.name} has no training classes to train on parts of")
    if source.kind == "sequence":
        raise UnsupportedError(f"the sequences of {source.name} are drawn endlessly: there are no parts to train on")
    metric = METRICS[source.kind]
    unseen = source.test if split is None else split
    result = Scaling(metric, steps, [])
    began = time.perf_counter()
    plans = _plans(source.train, fractions, seed)
    for done, (part, classes, groups, choice) in enumerate(plans):
        if done and time.perf_counter() - began > seconds:
            left = len(plans) - done
            result.notes.append(
                f"{left} more run{'s' if left > 1 else ''} left out: the budget of {seconds:.0f} s was spent"
            )
            break
        if progress is not None:
            progress("training on parts of the classes", done, len(plans))
        score = interval(
            score_tasks(_trained(learner, source, part, steps, meta_batch, seed), unseen, tasks, seed=seed)
        )
        result.points.append(Point(classes, groups, choice, score))
    if progress is not None:
        progress("training on parts of the classes", len(plans), len(plans))
    return result


def _trained(
    learner: Learner, source: TaskSource, train: TaskSplit, steps: int, meta_batch: int | None, seed: int
) -> Learner:
    with seeded(seed):
        fresh: Learner = build(learner.config)
    part = TaskSource(
        source.name,
        {"train": train, **{name: split for name, split in source.splits.items() if name != "train"}},
        example_shape=source.example_shape,
        transform=source.transform,
    )
    batch = meta_batch or int(learner.provenance.get("meta_batch") or 4)
    recorded = {name: learner.provenance.get(name) for name in ("lr", "optimizer", "schedule")}
    Trainer(
        fresh,
        part,
        **{name: value for name, value in recorded.items() if value is not None and not of_a_script(value)},
        steps=steps,
        meta_batch=batch,
        seed=seed,
        device=device_of(learner),
        val_every=max(1, steps // 4),
        val_tasks=50,
        progress=False,
    ).fit()
    return fresh


def groups_of(split: TaskSplit) -> list[str] | None:
    """The kind of each class: its name up to the last slash (an alphabet, a script); None where there is none."""
    if split.pool is None or not all("/" in name for name in split.pool.names):
        return None
    groups = [name.rpartition("/")[0] for name in split.pool.names]
    return groups if 1 < len(set(groups)) < len(groups) else None


Plan = tuple[TaskSplit, int, int | None, str]


def _plans(train: TaskSplit, fractions: Sequence[float], seed: int) -> list[Plan]:
    if train.pool is None:
        return _function_plans(train, fractions)
    names, groups = train.pool.names, groups_of(train)
    order = shuffled(names, seed)
    plans: list[Plan] = []
    for fraction in sorted(fractions):
        count = max(train.way, round(fraction * len(names)))
        choices = {"all kinds": order[:count]}
        if groups is not None and count < len(names):
            kinds = sorted(set(groups), key=lambda g: order[[groups[c] for c in order].index(g)])
            rank = {kind: i for i, kind in enumerate(kinds)}
            choices["few kinds"] = sorted(order, key=lambda c: rank[groups[c]])[:count]
        for choice, classes in choices.items():
            kinds_there = None if groups is None else len({groups[c] for c in classes})
            try:
                split = train.subset(torch.tensor(classes))
            except KshotError:  # too few of different kin for the way
                continue
            if all(plan[1] != count or plan[3] != choice for plan in plans):
                plans.append((split, count, kinds_there, choice))
    return plans


def _function_plans(train: TaskSplit, fractions: Sequence[float]) -> list[Plan]:
    plans: list[Plan] = []
    for fraction in sorted(fractions):
        count = max(1, round(1000 * fraction))
        try:
            plans.append((train.replace(functions=count), count, None, "all kinds"))
        except KshotError:  # a family whose functions are drawn at the inputs
            return []
    return plans
