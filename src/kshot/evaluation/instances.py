"""Accuracy by instance: how soon a learner that reads its support knows a class."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot import engine
from kshot.errors import UnsupportedError
from kshot.evaluation.scores import device_of, example_shape
from kshot.evaluation.unseen import unseen_split
from kshot.functional import mask_logits
from kshot.learners.base import Learner, evaluating
from kshot.learners.recurrent import RecurrentLearner
from kshot.tasks.split import TaskSplit
from kshot.training.validation import check_fits


def answers_while_it_reads(learner: Learner) -> RecurrentLearner:
    """The learner, if it is one that can be asked within its support.

    Raises:
        UnsupportedError: it is none.
    """
    if not isinstance(learner, RecurrentLearner) or learner.outputs != "logits":
        raise UnsupportedError(
            f"{type(learner).__name__} answers after its support, not within it: accuracy by instance is of learners "
            "that read it example by example (MANN, LSTMLearner)"
        )
    return learner


def by_instance(
    learner: Learner, split: TaskSplit, tasks: int = 1000, *, seed: int = 1, allow_seen: bool = False
) -> Tensor:
    """The accuracy at the first, second, ... example of a class in the support, each asked before its label is seen.

    Santoro et al. 2016, sec. 4.2, table 1: the support set is the paper's episode, so ten instances are ten shots.

    Args:
        learner: one that reads its support example by example.
        split: the unseen tasks; `source.test.replace(shot=10)`.
        tasks: how many.
        seed: of the tasks.
        allow_seen: ask about classes that the learner has seen, too.

    Returns:
        float64 `[tasks, shot]`.

    Raises:
        UnsupportedError: the learner does not answer while it reads, or cannot do such tasks: more support than it was
            trained for, say.
    """
    reader = answers_while_it_reads(learner)
    split, _ = unseen_split(learner, split, allow_seen=allow_seen)
    check_fits(learner, split, example_shape(split))
    found = []
    with torch.no_grad(), evaluating(learner):
        for first in range(0, tasks, 100):
            episodes = split.sample(min(100, tasks - first), seed=seed, first=first, device=device_of(learner))
            support = engine.with_features(learner, episodes.widen(learner.way)).support
            right = mask_logits(reader.online(support), support.classes).argmax(-1) == support.y
            # The how-manieth of its class an example is: those of its class up to it.
            same = (support.y.unsqueeze(-1) == support.y.unsqueeze(-2)) & support.mask.unsqueeze(-2)
            number = same.tril().sum(-1)
            each = []
            for instance in range(1, split.shot + 1):
                these = (number == instance) & support.mask
                each.append((right & these).sum(-1).double() / these.sum(-1).clamp(min=1))
            found.append(torch.stack(each, -1).cpu())
    return torch.cat(found)
