"""The plot of a comparison: scores against training time, adaptation time and memory."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

from kshot.evaluation.text import title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kshot.evaluation.comparison import Compared, Comparison

LEGEND_ROWS = 24
"""As many as fit beside the axes."""

STYLES = ("-", "--", ":", "-.")
COLOURS = ("#1f5fa8", "#c8641e", "#4c8c4a", "#8a5aa8", "#8c8c8c", "#b03a48", "#2a9d9d", "#b08a00", "#555555")


def picture(comparison: Comparison) -> bytes:
    """The figure as a PNG."""
    buffer = io.BytesIO()
    # No metadata: the same numbers give the same bytes.
    figure(comparison).savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def figure(comparison: Comparison) -> Figure:
    """Validations over seconds of training, test scores over an adaptation's time and over a step's memory."""
    from matplotlib.figure import Figure

    columns = max(1, math.ceil(len(comparison.results) / LEGEND_ROWS))
    made = Figure(figsize=(10.9 + 2.1 * columns, 4.2), dpi=120, layout="constrained")
    training, adapting, memory = made.subplots(1, 3)
    for axes in (training, adapting, memory):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.grid(color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
    for number, one in enumerate(comparison.results):
        look = {
            "color": COLOURS[number % len(COLOURS)],
            "linestyle": STYLES[number // len(COLOURS) % len(STYLES)],
        }
        _curve(training, one, f"{number + 1}  {one.name}", look)
        _point(adapting, one, 1000 * one.adapt_seconds, number, look)
        if one.peak_bytes:
            _point(memory, one, one.peak_bytes / 1e6, number, look)
    training.set_xlabel("seconds of training", fontsize=8)
    training.set_ylabel(f"{title(comparison.metric)} on val tasks", fontsize=8)
    adapting.set_xlabel("milliseconds of an adaptation", fontsize=8)
    memory.set_xlabel("megabytes at the peak of an outer step", fontsize=8)
    for axes in (adapting, memory):
        logarithmic(axes, "x")
        axes.set_ylabel(f"{title(comparison.metric)} on test tasks", fontsize=8)
    if comparison.metric != "accuracy":
        for axes in (training, adapting, memory):
            logarithmic(axes, "y")  # errors differ by factors
    handles = training.get_legend_handles_labels()
    made.legend(*handles, loc="outside right upper", ncols=columns, fontsize=7, frameon=False)
    return made


def logarithmic(axes: Any, which: str) -> None:
    """A logarithmic axis with plain numbers on it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _factor(one: Compared) -> float:
    return 100.0 if one.metric == "accuracy" else 1.0


def _curve(axes: Any, one: Compared, label: str, look: dict[str, str]) -> None:
    points = [point for point in one.curve if math.isfinite(point["mean"])]
    seconds, means = [point["seconds"] for point in points], [_factor(one) * point["mean"] for point in points]
    axes.plot(seconds, means, marker="o", markersize=2.5, linewidth=1.3, label=label, **look)


def _point(axes: Any, one: Compared, x: float, number: int, look: dict[str, str]) -> None:
    score, half = one.interval
    axes.errorbar([x], [_factor(one) * score], yerr=[_factor(one) * half], fmt="o", markersize=4, color=look["color"])
    # The number of its place in the table: names would lie upon each other.
    axes.annotate(str(number + 1), (x, _factor(one) * score), xytext=(4, 3), textcoords="offset points", fontsize=7)
