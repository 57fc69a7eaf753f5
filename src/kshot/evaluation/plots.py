"""The report's plots: PNG pictures as data URIs, drawn without a display and without matplotlib's global state."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kshot.evaluation.curves import Curve
from kshot.evaluation.evaluate import Evaluation
from kshot.evaluation.scaling import Scaling
from kshot.evaluation.stress import Stress
from kshot.evaluation.text import title
from kshot.metrics import PERCENT, Interval, interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#1f5fa8", "#c8641e", "#4c8c4a", "#8a5aa8", "#8c8c8c", "#b03a48")


def _figure(width: float = 6.4, height: float = 3.2) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(axis="both", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _picture(figure: Figure) -> str:
    """A figure as `data:image/png;base64,...`."""
    buffer = io.BytesIO()
    # No metadata: the same numbers give the same bytes, and no address of anything.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _scaled(values: Sequence[Interval], metric: str) -> tuple[list[float], list[float]]:
    factor = 100.0 if metric in PERCENT else 1.0
    means = [factor * v.mean for v in values]
    return means, [factor * v.half_width if math.isfinite(v.half_width) else 0.0 for v in values]


def plot_scores(evaluation: Evaluation) -> str:
    """The learner beside the baselines on the same tasks, with intervals."""
    baselines = list(evaluation.baselines.values())
    shared = len(baselines[0].scores) if baselines else len(evaluation.scores)
    names = [evaluation.learner, *(b.label for b in baselines)]
    values = [interval(evaluation.scores[:shared]), *(interval(b.scores) for b in baselines)]
    means, halves = _scaled(values, evaluation.metric)
    figure, axes = _figure(6.4, 0.8 + 0.42 * len(names))
    colours = [COLOURS[0], *[COLOURS[4]] * len(baselines)]
    axes.barh(
        range(len(names)), means, xerr=halves, color=colours, height=0.62, error_kw={"elinewidth": 1, "capsize": 2}
    )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    chance = evaluation.settings.get("chance")
    if evaluation.metric == "accuracy" and chance:
        axes.axvline(100 * chance, color="#b03a48", linestyle=":", linewidth=1, label="guessing")
        axes.legend(fontsize=7, frameon=False)
    axes.set_xlabel(f"{title(evaluation.metric)} on the same {shared} unseen tasks", fontsize=8)
    return _picture(figure)


def plot_curve(curve: Curve) -> str:
    """Scores over shots or steps, the intervals as bands."""
    figure, axes = _figure()
    for colour, (name, line) in zip(_cycle(len(curve.lines)), curve.lines.items(), strict=True):
        _band(axes, curve.at, line, curve.metric, name, colour)
    if curve.over == "shots" and max(curve.at) > 5 * min(curve.at):
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(curve.at, [str(x) for x in curve.at])
    axes.set_xlabel("labelled examples of each class" if curve.over == "shots" else "inner steps", fontsize=8)
    axes.set_ylabel(title(curve.metric), fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    return _picture(figure)


def plot_distribution(evaluation: Evaluation) -> str:
    """A histogram of the tasks' scores."""
    figure, axes = _figure(6.4, 2.6)
    factor = 100.0 if evaluation.metric in PERCENT else 1.0
    axes.hist((factor * evaluation.scores).tolist(), bins=_bins(evaluation), color=COLOURS[0])
    axes.set_xlabel(f"{title(evaluation.metric)} of a task", fontsize=8)
    axes.set_ylabel("tasks", fontsize=8)
    return _picture(figure)


def _bins(evaluation: Evaluation, most: int = 24) -> int | list[float]:
    """Bins that each hold as many of the possible accuracies: others would show a comb."""
    queries = int(evaluation.settings.get("way") or 0) * int(evaluation.settings.get("query") or 0)
    if evaluation.metric != "accuracy" or not queries:
        return most
    low, high = (round(queries * float(v)) for v in (evaluation.scores.min(), evaluation.scores.max()))
    width = max(1, math.ceil((high - low + 1) / most))
    count = math.ceil((high - low + 1) / width)
    return [100 * (low - 0.5 + width * i) / queries for i in range(count + 1)]


def plot_calibration(evaluation: Evaluation) -> str | None:
    """Accuracy over confidence; None where there are no probabilities."""
    found = evaluation.calibration
    if found is None:
        return None
    figure, axes = _figure(3.6, 3.2)
    axes.plot([0, 100], [0, 100], color="#8c8c8c", linestyle=":", linewidth=1)
    sizes = [6 + 90 * n / max(found.count) for n in found.count]
    axes.scatter([100 * c for c in found.confidence], [100 * a for a in found.accuracy], s=sizes, color=COLOURS[0])
    axes.set_xlabel("confidence %", fontsize=8)
    axes.set_ylabel("accuracy %", fontsize=8)
    return _picture(figure)


def plot_stress(stress: Stress) -> str:
    """What each condition costs, by level."""
    figure, axes = _figure(6.4, 3.4)
    names = list(dict.fromkeys(condition.name for condition in stress.conditions))
    for colour, name in zip(_cycle(len(names)), names, strict=True):
        points = [condition for condition in stress.conditions if condition.name == name]
        means, _ = _scaled([condition.loss for condition in points], stress.metric)
        axes.plot(range(1, len(points) + 1), means, marker="o", markersize=3, linewidth=1.4, color=colour, label=name)
    most = max((sum(c.name == name for c in stress.conditions) for name in names), default=1)
    axes.set_xticks(range(1, most + 1), ["mild", "medium", "strong"][:most] if most <= 3 else None)
    axes.set_ylabel(f"worse by ({title(stress.metric)})", fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    return _picture(figure)


def plot_scaling(scaling: Scaling) -> str:
    """Scores over the number of training classes."""
    figure, axes = _figure()
    for colour, choice in zip(COLOURS, ("all kinds", "few kinds"), strict=False):
        points = [point for point in scaling.points if point.choice == choice]
        if points:
            _band(axes, [p.classes for p in points], [p.score for p in points], scaling.metric, choice, colour)
    axes.set_xscale("log")
    axes.set_xlabel("training classes", fontsize=8)
    axes.set_ylabel(title(scaling.metric), fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    return _picture(figure)


def _band(axes: Any, at: Sequence[int], line: Sequence[Interval], metric: str, name: str, colour: str) -> None:
    means, halves = _scaled(line, metric)
    axes.plot(at, means, marker="o", markersize=3, linewidth=1.6, color=colour, label=name)
    low, high = [m - h for m, h in zip(means, halves, strict=True)], [m + h for m, h in zip(means, halves, strict=True)]
    axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
