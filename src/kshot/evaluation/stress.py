"""How much a learner loses when tasks are not as clean as the training ones, and how much it varies with the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kshot.engine import FeatureCache
from kshot.errors import KshotError
from kshot.evaluation.corruptions import (
    IMAGE_CORRUPTIONS,
    TABLE_CORRUPTIONS,
    corrupt_queries,
    unequal_shots,
    wrong_labels,
    wrong_targets,
)
from kshot.evaluation.curves import with_shots
from kshot.evaluation.scores import Change, Progress, example_shape, score_tasks
from kshot.evaluation.text import columns, show
from kshot.evaluation.unseen import unseen_split
from kshot.learners.base import Learner
from kshot.metrics import METRICS, Interval, interval, paired_difference
from kshot.tasks.split import TaskSplit

LABEL_NOISE = (0.1, 0.2, 0.4)
IMBALANCE = (2, 5)
"""Shots of the largest class over those of the smallest."""
QUERIES = 5


@dataclass(frozen=True)
class Condition:
    """The score under one condition.

    Attributes:
        name: of what was done.
        level: how strongly.
        score: on the same tasks.
        loss: by how much it is worse than without; positive is worse, whichever the metric.
    """

    name: str
    level: float
    score: Interval
    loss: Interval

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "level": self.level, "score": self.score.to_dict(), "loss": self.loss.to_dict()}


@dataclass
class Stress:
    """Scores under stress.

    Attributes:
        metric: `"accuracy"`, `"mse"` or `"bit_error"`.
        clean: the score without.
        conditions: what was tried.
        evaluation_seeds: mean scores on as many tasks drawn by other seeds, the first of them by this one.
        training_seeds: scores of other runs of the same configuration, by run.
        notes: what a reader has to know.
    """

    metric: str
    clean: Interval
    conditions: list[Condition]
    evaluation_seeds: dict[int, float] = field(default_factory=dict)
    training_seeds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "clean": self.clean.to_dict(),
            "conditions": [condition.to_dict() for condition in self.conditions],
            "evaluation_seeds": {str(seed): value for seed, value in self.evaluation_seeds.items()},
            "training_seeds": self.training_seeds,
            "notes": self.notes,
        }

    def __str__(self) -> str:
        rows = [["condition", "level", "score", "worse by"], ["clean", "", show(self.clean, self.metric), ""]]
        rows += [
            [c.name, f"{c.level:g}", show(c.score, self.metric), show(c.loss, self.metric, sign=True)]
            for c in self.conditions
        ]
        lines = columns(rows)
        for what, values in (
            (f"draws of {self.clean.n} tasks", self.evaluation_seeds),
            ("runs of different training seeds", self.training_seeds),
        ):
            if len(values) > 1:
                spread = interval(list(values.values()))
                lines.append(
                    f"Over {len(values)} {what}: {show(spread, self.metric)} (95% interval of the mean over them)."
                )
        return "\n".join([*lines, *(f"Note: {note}." for note in self.notes)])


def stress(
    learner: Learner,
    split: TaskSplit,
    *,
    tasks: int = 100,
    seed: int = 1,
    seeds: int = 5,
    runs: Sequence[str] = (),
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> Stress:
    """Scores a learner on the same tasks made worse, one thing at a time.

    Wrong labels in the support (a share of the examples gets another class of the task; noisy targets, for regression);
    corrupted queries; classes of unequal size at the same total number of labels; other tasks; and, given other runs of
    the same configuration, other training seeds.

    Args:
        split: unseen tasks.
        tasks: for each condition.
        seeds: of tasks to try.
        runs: paths of learners trained with other seeds.
        cache: features of the learner computed before.
    """
    metric = METRICS[split.kind]
    cache = FeatureCache(learner) if cache is None else cache
    notes = []
    if split.pool is not None and isinstance(split.options.get("query"), int) and split.query > QUERIES:
        split = split.replace(query=QUERIES)  # corrupted queries are in no cache: fewer of them are enough
        notes.append(f"{QUERIES} queries a class, so that a clean score may differ from one with more")
    clean = score_tasks(learner, split, tasks, seed=seed, cache=cache)
    result = Stress(metric, interval(clean), [], notes=notes)
    planned = _conditions(split, seed)
    for done, (name, level, change) in enumerate(planned):
        if progress is not None:
            progress("stress", done, len(planned))
        scores = score_tasks(learner, split, tasks, seed=seed, cache=cache, change=change)
        worse = paired_difference(clean, scores) if metric == "accuracy" else paired_difference(scores, clean)
        result.conditions.append(Condition(name, level, interval(scores), worse))
    _imbalance(learner, split, tasks, seed, cache, result)
    for s in range(seed, seed + seeds):
        result.evaluation_seeds[s] = float(score_tasks(learner, split, tasks, seed=s, cache=cache).mean())
    if runs:
        from kshot.artifacts import from_pretrained

        result.training_seeds[type(learner).__name__] = float(clean.mean())
        for run in runs:
            other = from_pretrained(run)
            own, notes = unseen_split(other, split)
            result.notes += [f"{run}: {note}" for note in notes]
            result.training_seeds[str(run)] = float(score_tasks(other, own, tasks, seed=seed).mean())
    if progress is not None:
        progress("stress", len(planned), len(planned))
    return result


def _conditions(split: TaskSplit, seed: int) -> list[tuple[str, float, Change]]:
    if split.kind == "sequence":
        return []
    if split.kind == "regression":
        return [("noise on the support targets", level, wrong_targets(level, seed)) for level in (0.1, 0.25, 0.5)]
    found: list[tuple[str, float, Change]] = [
        ("wrong support labels", level, wrong_labels(level, seed)) for level in LABEL_NOISE
    ]
    corruptions = IMAGE_CORRUPTIONS if len(example_shape(split) or ()) == 3 else TABLE_CORRUPTIONS
    for name, (corruption, levels) in corruptions.items():
        found += [(name, level, corrupt_queries(corruption, level, seed)) for level in levels]
    return found


def _imbalance(learner: Learner, split: TaskSplit, tasks: int, seed: int, cache: FeatureCache, result: Stress) -> None:
    """Classes of unequal size, against as many labels spread evenly."""
    if split.kind != "classification":
        if split.kind == "sequence":
            result.notes.append(
                "sequences have neither labels nor classes to disturb: only the seeds of tasks are varied"
            )
        return
    shots = max(3, split.shot)
    enough = with_shots(split, (2 * shots,))
    if enough is None:
        result.notes.append(f"imbalance left out: it needs classes with {2 * shots} examples for the support")
        return
    most, _ = enough
    try:
        even = score_tasks(learner, most, tasks, seed=seed, cache=cache, change=unequal_shots(shots, 1))
        for ratio in (1, *IMBALANCE):
            scores = score_tasks(learner, most, tasks, seed=seed, cache=cache, change=unequal_shots(shots, ratio))
            name = f"imbalance, {shots} shots on average"
            result.conditions.append(Condition(name, ratio, interval(scores), paired_difference(even, scores)))
    except KshotError as error:
        result.notes.append(f"imbalance left out: {error}")
    else:
        result.notes.append(
            "imbalance: the ratio of the largest class to the smallest; how much worse it is than ratio 1"
        )
