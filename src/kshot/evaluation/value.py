"""The value table: what meta-training is worth in labels, in seconds and in tasks; and the fully supervised ceiling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kshot.artifacts.plain import finite
from kshot.engine import FeatureCache
from kshot.evaluation.baselines import BASELINES
from kshot.evaluation.ceiling import Ceiling
from kshot.evaluation.conventional import Conventional
from kshot.evaluation.costs import adaptation_cost
from kshot.evaluation.curves import SHOTS, Curve, shots_curve
from kshot.evaluation.evaluate import Evaluation
from kshot.evaluation.methods import PRETRAINED, best_method
from kshot.evaluation.text import columns, duration, show
from kshot.learners.base import Learner
from kshot.metrics import METRICS, Interval
from kshot.tasks.split import TaskSplit

FORMULA = "tasks = seconds of meta-training / (seconds to fine-tune on a task - seconds to adapt to it)"
"""When meta-training has paid for itself. What the conventional network's training cost is left out, in its favour."""

REPEATS = 5
"""Adaptations that are timed."""


@dataclass
class Value:
    """What meta-training is worth.

    Attributes:
        metric: `"accuracy"`, `"mse"` or `"bit_error"`.
        shot: labelled examples of each class (points, for regression) that the learner gets.
        score: the learner's with them.
        needed: by baseline: how many it needs for the same score, interpolated; infinite where it does not get there.
        most: the most that were tried.
        saved: labels saved a task against the baseline that needs fewest; infinite likewise; never below zero.
        adapt_seconds: the learner's, for a task.
        tune_seconds: fine-tuning's, for a task; None without it.
        training_seconds: of the meta-training; None where it is not recorded.
        break_even: tasks until it has paid for itself (`FORMULA`); infinite where adapting is no faster; None: unknown.
        ceiling: a classifier with all labels of the test classes but the held-out ones; None where there is none.
        curve: that the labels were read from.
        notes: what a reader has to know.
    """

    metric: str
    shot: int
    score: Interval | None
    needed: dict[str, float]
    most: int
    saved: float | None
    adapt_seconds: float
    tune_seconds: float | None
    training_seconds: float | None
    break_even: float | None
    ceiling: Ceiling | None = None
    curve: Curve | None = None
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "shot": self.shot,
            "score": None if self.score is None else self.score.to_dict(),
            "shots_needed": {name: finite(value) for name, value in self.needed.items()},
            "most_shots_tried": self.most,
            "labels_saved": finite(self.saved),
            "adapt_seconds": self.adapt_seconds,
            "fine_tune_seconds": self.tune_seconds,
            "training_seconds": self.training_seconds,
            "break_even_tasks": finite(self.break_even),
            "break_even_formula": FORMULA,
            "ceiling": None if self.ceiling is None else self.ceiling.to_dict(),
            "curve": None if self.curve is None else self.curve.to_dict(),
            "notes": self.notes,
        }

    def rows(self) -> list[list[str]]:
        """What is worth what, in words."""
        unit = "shots" if self.metric == "accuracy" else "points"
        rows = []
        if self.score is not None:
            own = unit if self.shot > 1 else unit[:-1]
            rows.append([f"the learner's score with {self.shot} {own}", show(self.score, self.metric)])
        for name, needed in self.needed.items():
            text = f"{needed:.3g}" if math.isfinite(needed) else f"more than {self.most}"
            rows.append([f"{unit} for the same with: {name}", text])
        if self.saved is not None:
            rows.append(
                [
                    "labels saved on a task",
                    f"{self.saved:.3g}" if math.isfinite(self.saved) else "more than could be tried",
                ]
            )
        rows.append(["time to adapt to a task", duration(self.adapt_seconds)])
        if self.tune_seconds is not None:
            rows.append(["time to fine-tune on a task", duration(self.tune_seconds)])
        if self.training_seconds is not None:
            rows.append(["meta-training took", duration(self.training_seconds)])
        if self.break_even is not None:
            text = (
                f"{math.ceil(self.break_even):,} tasks"
                if math.isfinite(self.break_even)
                else "never in time: adapting is not faster"
            )
            rows.append(["paid for itself, in time alone, after", text])
        if self.ceiling is not None:
            rows.append(
                [
                    f"ceiling: trained on {self.ceiling.examples:,} labels of the test classes",
                    show(self.ceiling.score, self.metric),
                ]
            )
        return rows

    def __str__(self) -> str:
        return "\n".join([*columns(self.rows()), f"({FORMULA})", *(f"Note: {note}." for note in self.notes)])


def value(
    learner: Learner,
    split: TaskSplit,
    *,
    network: Conventional | None = None,
    baselines: Sequence[str] = ("linear_probe", "nearest_centroid"),
    shots: Sequence[int] = SHOTS,
    tasks: int = 100,
    seed: int = 1,
    evaluation: Evaluation | None = None,
    ceiling: Ceiling | None = None,
    cache: FeatureCache | None = None,
) -> Value:
    """Fills in the value table.

    Args:
        split: unseen tasks, of the shot that is asked about.
        network: the conventional network that the baselines stand on.
        baselines: those whose need of labels is measured; fine-tuning takes longest.
        shots: numbers of shots to try.
        tasks: for each measurement.
        evaluation: with baselines, whose settings are used again.
        ceiling: see `kshot.evaluation.supervised_ceiling`.
    """
    kind = split.kind
    names = [name for name in baselines if name in BASELINES[kind] and (network is not None or name not in PRETRAINED)]
    settings = {} if evaluation is None else {name: b.settings for name, b in evaluation.baselines.items()}
    curve = shots_curve(
        learner,
        split,
        shots=sorted({*shots, split.shot}),
        tasks=tasks,
        seed=seed,
        network=network,
        baselines=names,
        settings=settings,
        cache=cache,
    )
    metric = METRICS[kind]
    score, needed, saved, most = None, {}, None, 0
    notes: list[str] = []
    if curve is not None and split.shot in curve.at:
        own = type(learner).__name__
        score, most = curve.lines[own][curve.at.index(split.shot)], max(curve.at)
        lines = {name: line for name, line in curve.lines.items() if name != own}
        needed = {
            name: shots_needed(curve.at, [v.mean for v in line], score.mean, metric) for name, line in lines.items()
        }
        if needed:
            saved = max(0.0, min(needed.values()) - split.shot) * max(1, split.way)
    else:
        why = "the classes have too few examples, or the sampling has no fixed shot"
        notes.append(f"labels saved not measured: {'sequences have no labels' if kind == 'sequence' else why}")
    adapt_seconds = adaptation_cost(learner, split, seed=seed, tasks=REPEATS).seconds
    tune_seconds = None
    if network is not None:
        tuned = best_method("fine_tuned", learner, split, network, seed=seed, settings=settings.get("fine_tuned"))
        if tuned is not None:
            tune_seconds = adaptation_cost(tuned.learner, split, seed=seed, tasks=REPEATS).seconds
    training = learner.provenance.get("seconds")
    break_even = None
    if training is not None and tune_seconds is not None:
        gained = tune_seconds - adapt_seconds
        break_even = float(training) / gained if gained > 0 else math.inf
    return Value(
        metric=metric,
        shot=split.shot,
        score=score,
        needed=needed,
        most=most,
        saved=saved,
        adapt_seconds=adapt_seconds,
        tune_seconds=tune_seconds,
        training_seconds=None if training is None else float(training),
        break_even=break_even,
        ceiling=ceiling,
        curve=curve,
        notes=notes,
    )


def shots_needed(at: Sequence[int], means: Sequence[float], target: float, metric: str) -> float:
    """The smallest number of shots that reaches a score, interpolated between those measured; infinite where none does.

    >>> shots_needed([1, 2, 5], [0.5, 0.625, 0.875], 0.75, "accuracy")
    3.5
    """
    sign = 1.0 if metric == "accuracy" else -1.0
    values, goal = [sign * m for m in means], sign * target
    if values[0] >= goal:
        return float(at[0])
    for i in range(1, len(at)):
        if values[i] >= goal:
            return at[i - 1] + (at[i] - at[i - 1]) * (goal - values[i - 1]) / (values[i] - values[i - 1])
    return math.inf
