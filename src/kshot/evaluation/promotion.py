"""Whether a refined learner may take the place of the one that it was refined from: better on the new tasks, and on the
old ones no worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kshot.errors import UnsupportedError
from kshot.evaluation.evaluate import evaluate
from kshot.evaluation.unseen import unseen_split
from kshot.learners.base import Learner
from kshot.metrics import Interval, interval, paired_difference
from kshot.tasks.split import TaskSplit
from kshot.training.seen import seen_classes, seen_hashes

TOLERANCE = 0.005
"""Half a point of accuracy: as much as may be lost on the old tasks."""


@dataclass(frozen=True)
class Promotion:
    """A candidate beside the learner that is served, on the same unseen tasks.

    Attributes:
        new, old: accuracies of the served learner and of the candidate, on new tasks and on old ones.
        gain: on the new tasks, candidate less served, task by task.
        change: on the old tasks, likewise: below zero, something was forgotten.
        tolerance: how much may be forgotten.
        tasks: of each kind.
    """

    new: tuple[Interval, Interval]
    old: tuple[Interval, Interval]
    gain: Interval
    change: Interval
    tolerance: float
    tasks: int

    @property
    def problems(self) -> list[str]:
        """Why it is not promoted; nothing where it is."""
        found = []
        if self.gain.low <= 0:
            found.append(f"it is not surely better on the new tasks: {points(self.gain)}")
        if self.change.mean < -self.tolerance:
            found.append(
                f"it forgets: {points(self.change)} on the old tasks, where at most {100 * self.tolerance:.1f} may be "
                "lost: train it with a larger share of them (--replay)"
            )
        return found

    @property
    def promoted(self) -> bool:
        """Whether it may take the other's place."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "promoted": self.promoted,
            "problems": self.problems,
            "tasks": self.tasks,
            "tolerance": self.tolerance,
            "new": {**_both(self.new), "gain": self.gain.to_dict()},
            "old": {**_both(self.old), "change": self.change.to_dict()},
        }


def promotion(
    candidate: Learner,
    served: Learner,
    new: TaskSplit,
    old: TaskSplit,
    *,
    tasks: int = 600,
    seed: int = 1,
    tolerance: float = TOLERANCE,
) -> Promotion:
    """Scores both learners on the same tasks of classes that neither has seen.

    Args:
        candidate, served: of classes.
        new: of what was asked of late, its `test` split.
        old: of what the served learner was trained on, its `test` split.
        tasks: of each.
        seed: of the tasks.
        tolerance: how much accuracy may be lost on the old ones.

    Raises:
        UnsupportedError: they are not for classes.
        OverlappingSplitsError: one has seen classes of a split.
    """
    on_new = compared(candidate, served, new, tasks=tasks, seed=seed)
    on_old = compared(candidate, served, old, tasks=tasks, seed=seed)
    return Promotion(on_new[:2], on_old[:2], on_new[2], on_old[2], tolerance, tasks)


def compared(
    candidate: Learner, served: Learner, split: TaskSplit, *, tasks: int = 600, seed: int = 1
) -> tuple[Interval, Interval, Interval]:
    """Accuracies of the served learner and of the candidate on the same tasks of classes that neither has seen, and
    candidate less served, task by task.

    Raises:
        UnsupportedError: the tasks are not of classes.
        OverlappingSplitsError: one has seen classes of the split.
    """
    if split.kind != "classification":
        raise UnsupportedError("expected tasks of classes: whether a learner of values forgets is measured by hand")
    # The classes that the one may be judged on are the other's, too: both get the same tasks.
    same, _ = unseen_split(served, _new_to(split, (served, candidate)), allow_seen=False)
    a, b = (evaluate(one, same, tasks, seed=seed, baselines=False) for one in (served, candidate))
    if not torch.equal(a.class_ids, b.class_ids):
        raise UnsupportedError(
            "the tasks of the two differ: one has seen some of their classes. Load data that neither saw"
        )
    return interval(a.scores), interval(b.scores), paired_difference(b.scores, a.scores)


def _new_to(split: TaskSplit, learners: Sequence[Learner]) -> TaskSplit:
    """The split without classes of which one of the learners has seen an example: somebody who asks a server twice may
    show it the same picture in two tasks."""
    if split.pool is None:
        return split
    known = [hashes for hashes, _ in map(seen_hashes, learners) if hashes is not None]
    seen = [any(one) for one in zip(*(seen_classes(split.pool, hashes) for hashes in known), strict=True)]
    return split if all(seen) or not any(seen) else split.subset([not one for one in seen])


def _both(accuracies: tuple[Interval, Interval]) -> dict[str, Any]:
    return {"served": accuracies[0].to_dict(), "candidate": accuracies[1].to_dict()}


def points(difference: Interval) -> str:
    """A difference of accuracies in words."""
    low, high = 100 * difference.low, 100 * difference.high
    return f"{100 * difference.mean:+.2f} points (95% interval {low:+.2f} to {high:+.2f})"
