"""How the scores are distributed over tasks: an average hides its worst tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kshot.evaluation.evaluate import Evaluation
from kshot.evaluation.text import columns, number, title

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass
class Distribution:
    """The distribution of a score over tasks.

    Attributes:
        metric: `"accuracy"`, `"mse"` or `"bit_error"`.
        mean: over all tasks.
        quantiles: by share of the tasks, from the worst to the best.
        tails: mean score of the worst share of the tasks, by that share.
        hardest: the worst tasks: score, class names, number of the task.
        classes: mean score of the tasks that hold a class, the worst ones first, with the number of those tasks.
    """

    metric: str
    mean: float
    quantiles: dict[float, float]
    tails: dict[float, float]
    hardest: list[tuple[float, list[str], int]] = field(default_factory=list)
    classes: list[tuple[str, float, int]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "mean": self.mean,
            "quantiles": {str(q): value for q, value in self.quantiles.items()},
            "worst": {str(share): value for share, value in self.tails.items()},
            "hardest": [{"score": s, "classes": names, "task": t} for s, names, t in self.hardest],
            "hardest_classes": [{"class": name, "score": s, "tasks": n} for name, s, n in self.classes],
        }

    def __str__(self) -> str:
        rows = [["tasks", title(self.metric)], ["all", number(self.mean, self.metric)]]
        rows += [[f"worst {100 * share:.0f}%", number(value, self.metric)] for share, value in self.tails.items()]
        rows += [["median", number(self.quantiles[0.5], self.metric)]]
        lines = columns(rows)
        named = [(s, names) for s, names, _ in self.hardest if names]
        if named:
            lines += ["", "Hardest tasks:", *(f"  {number(s, self.metric)}: {', '.join(names)}" for s, names in named)]
        return "\n".join(lines)


def distribution(evaluation: Evaluation, hardest: int = 5, shares: tuple[float, ...] = (0.05, 0.1)) -> Distribution:
    """The distribution of an evaluation's scores, its worst tails, and what the hardest tasks are made of.

    Args:
        hardest: how many tasks and classes to name.
        shares: of the worst tasks to average over; at least one task each.
    """
    scores = evaluation.scores.numpy()
    better = scores if evaluation.metric == "accuracy" else -scores
    order = np.argsort(better, kind="stable")
    tails = {share: float(scores[order[: max(1, round(share * len(scores)))]].mean()) for share in shares}
    ranked = np.quantile(better, QUANTILES)
    return Distribution(
        metric=evaluation.metric,
        mean=float(scores.mean()),
        quantiles={q: float(abs(v)) for q, v in zip(QUANTILES, ranked, strict=True)},
        tails=tails,
        hardest=[(float(scores[t]), evaluation.names_of(t), t) for t in order[:hardest].tolist()],
        classes=_classes(evaluation, hardest),
    )


def _classes(evaluation: Evaluation, count: int) -> list[tuple[str, float, int]]:
    """The classes whose tasks go worst; those of fewer than three tasks say nothing."""
    ids = evaluation.class_ids
    if ids.numel() == 0 or not evaluation.class_names:
        return []
    scores = evaluation.scores[:, None].expand(ids.shape)[ids >= 0].numpy()
    tasks = np.bincount(ids[ids >= 0].numpy(), minlength=len(evaluation.class_names))
    sums = np.bincount(ids[ids >= 0].numpy(), weights=scores, minlength=len(evaluation.class_names))
    means = np.where(tasks >= 3, sums / np.maximum(tasks, 1), np.nan)
    worst = np.argsort(means if evaluation.metric == "accuracy" else -means, kind="stable")  # NaN comes last
    return [
        (evaluation.class_names[c], float(means[c]), int(tasks[c])) for c in worst[:count].tolist() if tasks[c] >= 3
    ]
