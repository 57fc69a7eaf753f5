"""The numbers that a reproduction compares: scores, accuracies by instance, gains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kshot.errors import UnsupportedError
from kshot.evaluation.evaluate import check_options
from kshot.evaluation.instances import by_instance
from kshot.evaluation.scores import iter_scores, score_tasks
from kshot.evaluation.unseen import unseen_split
from kshot.functional import masked_gaussian_nll
from kshot.learners.base import Learner
from kshot.learners.gradient import GradientLearner
from kshot.metrics import METRICS, Interval, interval, paired_difference
from kshot.tasks.source import TaskSource
from kshot.tasks.split import TaskSplit

if TYPE_CHECKING:
    from kshot.evaluation.reproduction_spec import Row

SEED = 1
"""Of the tasks, as in `kshot.evaluate`."""


@dataclass(frozen=True)
class Measured:
    """A number with its interval.

    Attributes:
        interval: over tasks.
        metric: `"accuracy"`, `"mse"`, `"bit_error"`, `"nll"` or `"points"`, a difference of accuracies.
        transductive: whether predictions depended on the other queries.
        difference: whether it is one, of two scores on the same tasks, more being better.
    """

    interval: Interval
    metric: str
    transductive: bool
    difference: bool = False

    @property
    def percent(self) -> tuple[float, float]:
        """Mean and half width; in percent, but for squared errors and likelihoods."""
        scale = 1.0 if self.metric in ("mse", "nll") else 100.0
        return scale * self.interval.mean, scale * self.interval.half_width


def measure(learner: Learner, source: TaskSource, row: Row, tasks: int, other: Learner | None) -> Measured:
    """What a row asks for, of a learner on the test tasks of a source.

    Args:
        other: the learner that a row `against` another one compares with.

    Raises:
        UnsupportedError: the learner cannot do such tasks, or has no such measure.
    """
    split = source.test.replace(**row.tasks) if row.tasks else source.test
    if row.norm is not None:
        if not isinstance(learner, GradientLearner):
            raise UnsupportedError(f"{type(learner).__name__} knows one norm alone: leave out the row's norm")
        learner = learner.with_norm(row.norm)
    metric = METRICS[learner.kind]
    if row.measure == "instance":
        return Measured(interval(by_instance(learner, split, tasks, seed=SEED)[:, row.instance - 1]), metric, False)
    scored = likelihoods if row.metric == "nll" else scores
    metric = "nll" if row.metric == "nll" else metric
    values = scored(learner, split, tasks, row.options)
    if row.measure == "score":
        return Measured(interval(values), metric, learner.transductive)
    if row.measure == "unlabelled":
        without = scores(learner, split.replace(unlabeled=0, distractors=0), tasks, row.options)
        return Measured(paired_difference(values, without), "points", learner.transductive, True)
    assert other is not None
    theirs = scored(other, split, tasks, {})
    gain = paired_difference(values, theirs) if metric == "accuracy" else paired_difference(theirs, values)
    return Measured(
        gain, "points" if metric == "accuracy" else metric, learner.transductive or other.transductive, True
    )


def scores(learner: Learner, split: TaskSplit, tasks: int, options: dict[str, Any]) -> Tensor:
    """The scores of unseen tasks, float64 `[tasks]`."""
    split, _ = unseen_split(learner, split)
    return score_tasks(learner, split, tasks, seed=SEED, options=check_options(learner, options))


def likelihoods(learner: Learner, split: TaskSplit, tasks: int, options: dict[str, Any]) -> Tensor:
    """The negative log-likelihood of each task's targets, a point's mean, float64 `[tasks]`: lower is better.

    Raises:
        UnsupportedError: the learner gives no distribution.
        OverlappingSplitsError: it has seen some of the classes.
    """
    if learner.outputs != "mean_variance":
        raise UnsupportedError(
            f"{type(learner).__name__} predicts no variance, so its targets have no likelihood: use CNP or ANP"
        )
    split, _ = unseen_split(learner, split)
    found = iter_scores(learner, split, tasks, seed=SEED, options=check_options(learner, options))
    return torch.cat([masked_gaussian_nll(one.outputs, one.episodes.query).double().cpu() for one in found])
