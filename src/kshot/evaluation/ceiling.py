"""The fully supervised ceiling: what a classifier with nearly all labels of the test classes reaches on such tasks.

It is trained on the test classes, which is why it is a ceiling and nothing is chosen by it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from kshot import randomness
from kshot.errors import KshotError
from kshot.evaluation.conventional import Conventional, fresh_network
from kshot.evaluation.scores import Progress, device_of
from kshot.learners.base import Learner
from kshot.metrics import Interval, interval
from kshot.tasks.loading import make_split
from kshot.tasks.pooled import PoolTasks
from kshot.tasks.split import TaskSplit
from kshot.training.pretrain import pretrain


@dataclass(frozen=True)
class Ceiling:
    """A fully supervised classifier's score.

    Attributes:
        score: mean accuracy over tasks of the split's way, on held-out examples.
        classes: test classes that it was trained to tell apart.
        examples: labels that it was trained with.
        held_out: examples of each class that it was not.
        seen: examples that passed through in training.
        seconds: that training took.
    """

    score: Interval
    classes: int
    examples: int
    held_out: int
    seen: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "score": self.score.to_dict()}


def supervised_ceiling(
    learner: Learner,
    split: TaskSplit,
    *,
    network: Conventional | None = None,
    classes: int = 100,
    examples: int = 50_000,
    tasks: int = 200,
    seed: int = 1,
    progress: Progress | None = None,
) -> Ceiling | None:
    """Trains the learner's architecture on the test classes, from the conventional network's weights where there are.

    A quarter of the examples of each class is held out. A task is a random set of `way` of the classes: each held-out
    example of these is given to the one of them that the classifier prefers.

    Args:
        classes: the most test classes to take.
        examples: that pass through in training.
        tasks: sets of classes.

    Returns:
        None for regression, and where the classes are too few or too small.
    """
    if not isinstance(split, PoolTasks):
        return None
    pool = split.pool
    chosen: dict[int, int] = {}
    for c in randomness.permutation(len(pool), seed, randomness.stream("ceiling/classes")).tolist():
        if len(chosen) < classes and int(pool.count[c]) >= 2:
            chosen.setdefault(int(pool.kin[c]), c)  # of different kin, as in a task
    part = pool.select(sorted(chosen.values()))
    way = min(split.way, len(part))
    if way < 2:
        return None
    held = (part.count // 4).clamp(min=1)
    kept = replace(part, count=part.count - held)
    rest = replace(part, start=part.start + kept.count, count=held)
    try:
        training = make_split(kept, split.transform, "ceiling", way=2, shot=1, query=1)
    except KshotError:
        return None
    trained = pretrain(
        lambda: fresh_network(learner, split) if network is None else copy.deepcopy(network.network.backbone),
        training,
        examples=examples,
        seed=seed,
        device=device_of(learner),
        progress=None if progress is None else lambda done, of, _: progress("supervised ceiling", done, of),
    )
    rows = torch.cat([rest.rows(c) * 4 + rest.turns[c] for c in range(len(rest))])
    label = torch.repeat_interleave(torch.arange(len(rest)), rest.count)
    with torch.no_grad():
        x = split._gather(rows.numpy())
        logits = torch.cat([trained(images) for images in x.split(256)])
    sets = randomness.distinct(len(rest), way, seed, randomness.stream("ceiling/tasks"), np.arange(tasks))
    scores = []
    for members in torch.from_numpy(sets):
        mine = torch.isin(label, members)
        predicted = members[logits[mine][:, members].argmax(-1)]
        scores.append(float((predicted == label[mine]).double().mean()))
    return Ceiling(
        score=interval(scores),
        classes=len(part),
        examples=int(kept.count.sum()),
        held_out=int(held.float().mean().round()),
        seen=trained.info["examples"],
        seconds=trained.info["seconds"],
    )
