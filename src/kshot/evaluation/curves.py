"""Scores over the number of shots and over the number of inner steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kshot.engine import FeatureCache
from kshot.errors import KshotError
from kshot.evaluation.baselines import BASELINES
from kshot.evaluation.conventional import Conventional
from kshot.evaluation.methods import Method, best_method
from kshot.evaluation.scores import score_tasks
from kshot.evaluation.subsets import first_shots
from kshot.evaluation.text import columns, show
from kshot.learners.base import Learner
from kshot.metrics import METRICS, Interval, interval
from kshot.tasks.split import TaskSplit
from kshot.tasks.unlabeled import Unlabelling

SHOTS = (1, 2, 5, 10, 20, 50)
STEPS = (0, 1, 2, 3, 5, 10)


@dataclass
class Curve:
    """Scores over one number.

    Attributes:
        over: `"shots"` or `"steps"`.
        at: its values.
        metric: `"accuracy"` or `"mse"`.
        lines: what is compared, by what it is called: an interval at each value.
        notes: what a reader has to know.
    """

    over: str
    at: list[int]
    metric: str
    lines: dict[str, list[Interval]]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        lines = {name: [value.to_dict() for value in line] for name, line in self.lines.items()}
        return {"over": self.over, "at": self.at, "metric": self.metric, "lines": lines, "notes": self.notes}

    def __str__(self) -> str:
        rows = [[self.over, *map(str, self.at)]]
        rows += [[name, *(show(value, self.metric) for value in line)] for name, line in self.lines.items()]
        return "\n".join([*columns(rows), *(f"Note: {note}." for note in self.notes)])


def with_shots(split: TaskSplit, shots: Sequence[int]) -> tuple[TaskSplit, list[int]] | None:
    """The split with as many shots as its smallest class allows, and those of `shots` that it then has.

    Up to half of the smallest class's examples are kept for the queries. None where the split has no such option.
    """
    if split.kind == "sequence":
        return None  # its support is one sequence, not shots
    if split.pool is None:
        wanted = [s for s in shots if s >= 1]
        return (split.replace(shot=max(wanted)), wanted) if wanted else None
    if "shot" not in split.options:
        return None
    unlabelling = getattr(split, "unlabelling", Unlabelling())
    smallest = int(unlabelling.labelled_counts(split.pool.count.numpy()).min())
    smallest -= unlabelling.unlabeled if unlabelling.labelled == 1 else 0
    query = min(split.query, max(1, smallest // 2))
    possible = [s for s in shots if 1 <= s <= smallest - query]
    if not possible:
        return None
    try:
        return split.replace(shot=max(possible), query=query), possible
    except KshotError:
        return None


def shots_curve(
    learner: Learner,
    split: TaskSplit,
    *,
    shots: Sequence[int] = SHOTS,
    tasks: int = 200,
    seed: int = 1,
    network: Conventional | None = None,
    baselines: Sequence[str] = ("nearest_centroid",),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    cache: FeatureCache | None = None,
) -> Curve | None:
    """The score over the number of labelled examples of a class, all on the same queries, baselines beside it.

    The support of one shot is part of that of two, and so on, so differences along the curve are due to the shots.

    Args:
        shots: those that the classes have enough examples for, and the learner takes, are taken.
        network: the conventional network that the baselines stand on.
        settings: of each baseline, where they were chosen before.

    Returns:
        None where the split's sampling knows no shots, or the learner takes not even the fewest.
    """
    found = with_shots(split, shots)
    if found is None:
        return None
    most, at = found
    limit = learner.max_support
    if limit is not None and most.support_size > limit:
        found = with_shots(split, [shot for shot in at if most.replace(shot=shot).support_size <= limit])
        if found is None:
            return None
        most, at = found
    metric = METRICS[split.kind]
    lines: dict[str, list[Interval]] = {type(learner).__name__: []}
    cache = FeatureCache(learner) if cache is None else cache
    for shot in at:
        scores = score_tasks(learner, most, tasks, seed=seed, cache=cache, change=partial(first_shots, shots=shot))
        lines[type(learner).__name__].append(interval(scores))
    for name in baselines if network is not None else ():
        if name not in BASELINES[split.kind]:
            continue
        method = best_method(name, learner, split, network, seed=seed, settings=(settings or {}).get(name))
        if method is not None:
            lines[BASELINES[split.kind][name]] = [
                interval(method_scores(method, most, tasks, seed, shot)) for shot in at
            ]
    curve = Curve("shots", at, metric, lines)
    if most.query != split.query:
        curve.notes.append(f"{most.query} queries a class, so that there are enough examples for {max(at)} shots")
    if limit is not None and max(at) < max(shots):
        curve.notes.append(f"{type(learner).__name__} takes {limit} support examples at most")
    return curve


def method_scores(method: Method, split: TaskSplit, tasks: int, seed: int, shot: int) -> Tensor:
    """A baseline's scores on the first `shot` shots of a split's tasks."""
    parts = []
    size = max(1, min(tasks, 4096 // (split.support_size + split.query_size)))
    for first in range(0, tasks, size):
        episodes = split.sample(min(size, tasks - first), seed=seed, first=first)
        parts.append(method.scores(first_shots(episodes, shot).to(method.device)))
    return torch.cat(parts)


def steps_curve(
    learner: Learner,
    split: TaskSplit,
    *,
    steps: Sequence[int] = STEPS,
    tasks: int = 200,
    seed: int = 1,
    cache: FeatureCache | None = None,
) -> Curve | None:
    """The score over the number of inner steps; None for a learner that has none."""
    if "steps" not in learner.adapt_options:
        return None
    cache = FeatureCache(learner) if cache is None else cache
    line = [interval(score_tasks(learner, split, tasks, seed=seed, cache=cache, options={"steps": s})) for s in steps]
    metric = METRICS[split.kind]
    note = "the number of steps to use is chosen on val tasks, not by this curve"
    return Curve("steps", list(steps), metric, {type(learner).__name__: line}, [note])
