"""The numbers that a reproduction compares: scores, accuracies by instance, gains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kshot import engine
from kshot.errors import UnsupportedError
from kshot.evaluation.evaluate import check_options
from kshot.evaluation.scores import device_of, score_tasks
from kshot.evaluation.unseen import unseen_split
from kshot.functional import mask_logits
from kshot.learners.base import Learner, evaluating
from kshot.learners.gradient import GradientLearner
from kshot.learners.recurrent import RecurrentLearner
from kshot.metrics import Interval, interval, paired_difference
from kshot.tasks.source import TaskSource
from kshot.tasks.split import TaskSplit

if TYPE_CHECKING:
    from kshot.evaluation.reproduction_spec import Row

SEED = 1
"""Of the tasks, as in `kshot.evaluate`."""

_METRICS = {"logits": "accuracy", "bits": "bit_error"}


@dataclass(frozen=True)
class Measured:
    """A number with its interval.

    Attributes:
        interval: over tasks.
        metric: `"accuracy"`, `"mse"`, `"bit_error"` or `"points"`, a difference of accuracies.
        transductive: whether predictions depended on the other queries.
        difference: whether it is one, of two scores on the same tasks, more being better.
    """

    interval: Interval
    metric: str
    transductive: bool
    difference: bool = False

    @property
    def lower_is_better(self) -> bool:
        return self.metric in ("mse", "bit_error") and not self.difference

    @property
    def percent(self) -> tuple[float, float]:
        """Mean and half width; in percent, but for squared errors."""
        scale = 1.0 if self.metric == "mse" else 100.0
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
            raise UnsupportedError(f"{type(learner).__name__} adapts no norm layers: leave out the row's norm")
        learner = learner.with_norm(row.norm)
    metric = _METRICS.get(learner.outputs, "mse")
    if row.measure == "instance":
        return Measured(interval(by_instance(learner, split, tasks)[:, row.instance - 1]), metric, False)
    values = scores(learner, split, tasks, row.options)
    if row.measure == "score":
        return Measured(interval(values), metric, learner.transductive)
    if row.measure == "unlabelled":
        without = scores(learner, split.replace(unlabeled=0, distractors=0), tasks, row.options)
        return Measured(paired_difference(values, without), "points", learner.transductive, True)
    assert other is not None
    theirs = scores(other, split, tasks, {})
    gain = paired_difference(values, theirs) if metric == "accuracy" else paired_difference(theirs, values)
    return Measured(gain, "points" if metric == "accuracy" else "mse", learner.transductive or other.transductive, True)


def scores(learner: Learner, split: TaskSplit, tasks: int, options: dict[str, Any]) -> Tensor:
    """The scores of unseen tasks, float64 `[tasks]`."""
    split, _ = unseen_split(learner, split)
    return score_tasks(learner, split, tasks, seed=SEED, options=check_options(learner, options))


def by_instance(learner: Learner, split: TaskSplit, tasks: int) -> Tensor:
    """The accuracy at the first, second, ... example of a class in the support, each asked before its label is seen.

    Santoro et al. 2016, sec. 4.2, table 1: the support set is the paper's episode.

    Returns:
        float64 `[tasks, shot]`.

    Raises:
        UnsupportedError: the learner does not answer while it reads.
    """
    if not isinstance(learner, RecurrentLearner) or learner.outputs != "logits":
        raise UnsupportedError(
            f"{type(learner).__name__} answers after its support, not within it: accuracy by instance is of learners "
            "that read it example by example (MANN, LSTMLearner)"
        )
    split, _ = unseen_split(learner, split)
    found = []
    with torch.no_grad(), evaluating(learner):
        for first in range(0, tasks, 100):
            episodes = split.sample(min(100, tasks - first), seed=SEED, first=first, device=device_of(learner))
            support = engine.with_features(learner, episodes.widen(learner.way)).support  # type: ignore[arg-type]
            right = mask_logits(learner.online(support), support.classes).argmax(-1) == support.y
            # The how-manieth of its class an example is: those of its class up to it.
            same = (support.y.unsqueeze(-1) == support.y.unsqueeze(-2)) & support.mask.unsqueeze(-2)
            number = same.tril().sum(-1)
            each = []
            for instance in range(1, split.shot + 1):
                these = (number == instance) & support.mask
                each.append((right & these).sum(-1).double() / these.sum(-1).clamp(min=1))
            found.append(torch.stack(each, -1).cpu())
    return torch.cat(found)
