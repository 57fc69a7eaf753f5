"""The plot of a sweep: scores as trials went on, their curves, and what mattered."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from kshot.evaluation.comparison_plot import logarithmic
from kshot.evaluation.text import title
from kshot.metrics import PERCENT

if TYPE_CHECKING:
    from kshot.sweep.results import SweepResult

ONE, BEST, PRUNED = "#1f5fa8", "#c8641e", "#9a9a9a"


def picture(result: SweepResult) -> bytes:
    """The figure as a PNG."""
    from matplotlib.figure import Figure

    factor = 100.0 if result.metric in PERCENT else 1.0
    made = Figure(figsize=(13, 4), dpi=120, layout="constrained")
    history, curves, bars = made.subplots(1, 3)
    for axes in (history, curves, bars):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.grid(color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
    _history(history, result, factor)
    _curves(curves, result, factor)
    _importance(bars, result)
    if result.kind != "classification":
        for axes in (history, curves):
            logarithmic(axes, "y")
            axes.set_ylim(*_worth_seeing(result))
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", metadata={"Software": None})  # the same numbers give the same bytes
    return buffer.getvalue()


def _worth_seeing(result: SweepResult) -> tuple[float, float]:
    """Ends of the axis of errors: what nearly diverged is cut off, or nothing else could be told apart."""
    values = sorted(v for trial in result.trials for v in trial.curve.values() if 0 < v < math.inf)
    return (0.8 * values[0], 5 * values[len(values) // 2]) if values else (0.1, 10.0)


def _history(axes: Any, result: SweepResult, factor: float) -> None:
    pick = max if result.kind == "classification" else min
    best: list[float] = []
    numbers: list[int] = []
    for trial in result.trials:
        if trial.value is None:
            last = [v for v in list(trial.curve.values())[-1:] if math.isfinite(v)]
            axes.plot([trial.number] * len(last), [factor * v for v in last], "x", color=PRUNED, markersize=4)
            continue
        axes.plot([trial.number], [factor * trial.value], "o", color=ONE, markersize=4)
        numbers.append(trial.number)
        best.append(pick([*best[-1:], factor * trial.value]))
    axes.step(numbers, best, where="post", color=BEST, linewidth=1.3)
    axes.set_xlabel("trial (x: ended early)", fontsize=8)
    axes.set_ylabel(f"{title(result.metric)} on val tasks", fontsize=8)


def _curves(axes: Any, result: SweepResult, factor: float) -> None:
    for trial in result.trials:
        points = [(step, factor * value) for step, value in sorted(trial.curve.items()) if math.isfinite(value)]
        best = trial is result.best
        colour = BEST if best else ONE if trial.value is not None else PRUNED
        look = {"color": colour, "linewidth": 1.8 if best else 0.8, "alpha": 1.0 if best else 0.6}
        axes.plot([p[0] for p in points], [p[1] for p in points], zorder=3 if best else 2, **look)
    axes.set_xlabel("steps (orange: the best, grey: ended early)", fontsize=8)


def _importance(axes: Any, result: SweepResult) -> None:
    axes.set_xlabel("importance (fANOVA)", fontsize=8)
    found = list(reversed(result.importance.items()))
    axes.barh([path for path, _ in found], [share for _, share in found], color=ONE, height=0.6)
    if not found:
        axes.set_yticks([])
        why = f"not told: {result.no_importance}"
        axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", fontsize=8, color=PRUNED)
