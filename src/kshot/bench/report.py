"""What was measured, kept as JSON and shown: a table a workload, a plot of all of them."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kshot.bench.clock import Timing
from kshot.bench.run import Result
from kshot.errors import ConfigError

OURS, THEIRS = "#1f5fa8", "#9a9a9a"


def save(result: Result, folder: Path, name: str) -> Path:
    """Writes a result, `NAME.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def names(workloads: Iterable[str]) -> list[str]:
    """What results of workloads are called: those of a CPU, and those of a GPU."""
    return [key for name in workloads for key in (name, f"{name}.cuda")]


def load(folder: Path, names: Sequence[str]) -> dict[str, Result]:
    """The results that there are, by workload.

    Raises:
        ConfigError: a file that is none of them.
    """
    found = {}
    for name in names:
        path = folder / f"{name}.json"
        if not path.is_file():
            continue
        try:
            found[name] = json.loads(path.read_text(encoding="utf-8"))
            _ = found[name]["contenders"], found[name]["machine"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is no result of kshot bench: remove it, or give another folder") from error
    return found


def machine(machine: Mapping[str, Any]) -> str:
    """A machine's device and its ceilings, in a line."""
    ceilings = machine["ceilings"]
    products = f"{ceilings['flops'] / 1e9:,.0f} GFLOP/s"
    if "bf16_flops" in ceilings:  # results of before know of no other than float32
        exactly = ", without TF32," if machine.get("gpu") else ""
        products += f" in float32{exactly} and {ceilings['bf16_flops'] / 1e9:,.0f} in bf16"
    known = f" ({machine['instructions']})" if "instructions" in machine else ""
    what = machine.get("gpu") or f"{machine['cpu']}{known} with {machine['threads']} threads"
    return f"{what}: a matrix product reaches {products}, a copy {ceilings['bytes'] / 1e9:,.0f} GB/s"


def rows(result: Result) -> tuple[list[str], list[list[str]]]:
    """The table of a workload: its head, and a row for each contender, the fastest first."""
    contenders: Mapping[str, Any] = result["contenders"]
    reference = result["reference"]
    ratios = times_reference(result)
    optional = {"difference": "error", "peak": "peak_bytes", "of FLOP/s": "flops_share", "of bytes/s": "bytes_share"}
    columns = [column for column, key in optional.items() if any(key in row for row in contenders.values())]
    body = []
    for name, row in sorted(contenders.items(), key=lambda item: -item[1]["per_second"]):
        amount = result["amount"]
        slow, fast = (amount / pick(row["seconds"]) for pick in (max, min))
        cells = {
            "difference": f"{row['error']:.0e}" if "error" in row else "",
            "peak": _bytes(row["peak_bytes"]) if row.get("peak_bytes") else "",
            "of FLOP/s": f"{100 * row['flops_share']:.1f} %" if "flops_share" in row else "",
            "of bytes/s": f"{100 * row['bytes_share']:.0f} %" if "bytes_share" in row else "",
        }
        body.append(
            [name, _number(row["per_second"]), f"{_number(slow)} to {_number(fast)}", f"{ratios[name]:.2f}"]
            + [cells[column] for column in columns]
        )
    return ["contender", f"{result['unit']}/s", "slowest to fastest round", f"times {reference}", *columns], body


def times_reference(result: Result) -> dict[str, float]:
    """How many times as fast as the reference each contender is: the median of the ratios of the same round, which is
    also what goals are judged by."""
    timings = {name: Timing(tuple(row["seconds"])) for name, row in result["contenders"].items()}
    return {name: timing.times_faster(timings[result["reference"]])[0] for name, timing in timings.items()}


def missed(result: Result, share: float) -> list[str]:
    """Lines of the goals of which less than a share was reached, or of which nobody can say."""
    far = [
        goal
        for goal in result["goals"]
        if (goal["ratio"] / goal["reached"] if goal["what"] == "memory" else goal["reached"] / goal["ratio"]) < share
    ]
    return goals({**result, "goals": far})


def goals(result: Result) -> list[str]:
    """A line for each goal: reached, short, or not judged since nobody of one of its sides was measured."""
    lines = []
    for goal in result["goals"]:
        verdict = "reached" if goal["met"] else "SHORT"
        if goal["what"] == "memory":
            lines.append(
                f"{verdict}: {' or '.join(goal['ours'])} takes {100 * goal['reached']:.0f} % of the memory of "
                f"{' or '.join(goal['theirs'])} (at most {100 * goal['ratio']:.0f} % asked)"
            )
        else:
            lines.append(
                f"{verdict}: {goal['ours']} is {goal['reached']:.2f} times as fast as {goal['theirs']}, "
                f"{goal['low']:.2f} to {goal['high']:.2f} in the rounds ({goal['ratio']:g} asked)"
            )
    for goal in unjudged(result):
        lines.append(f"NOT JUDGED: {goal['asked']}, but there is no {goal['absent']}")
    return lines


def unjudged(result: Result) -> list[dict[str, str]]:
    """What was asked of a goal that could not be judged, and which side was not measured."""
    found = []
    for goal in result.get("unjudged", []):
        ours, theirs = (" or ".join(goal[side]) for side in ("ours", "theirs"))
        if goal["what"] == "memory":
            asked = f"{ours} is to take at most {100 * goal['ratio']:.0f} % of the memory of {theirs}"
        else:
            asked = f"{ours} is to be {goal['ratio']:.3g} times as fast as {theirs}"
        key = "peak_bytes" if goal["what"] == "memory" else "seconds"
        here = {name for name, row in result["contenders"].items() if key in row}
        absent = [side for side in ("ours", "theirs") if not here & set(goal[side])]
        found.append({"asked": asked, "absent": " and no ".join(" or ".join(goal[side]) for side in absent)})
    return found


def picture(results: Mapping[str, Result]) -> bytes:
    """Bars of every contender's speed over the reference's, a panel for each workload, as a PNG."""
    from matplotlib.figure import Figure

    across = min(3, len(results))
    down = math.ceil(len(results) / across)
    made = Figure(figsize=(4.6 * across, 2.3 * down), dpi=110, layout="constrained")
    panels = made.subplots(down, across, squeeze=False).ravel()
    for axes in panels[len(results) :]:
        axes.set_visible(False)
    for axes, (name, result) in zip(panels, results.items(), strict=False):
        times = times_reference(result)
        ranked = sorted(result["contenders"].items(), key=lambda item: times[item[0]])
        ratios = [times[key] for key, _ in ranked]
        axes.barh(range(len(ranked)), ratios, color=[OURS if row["ours"] else THEIRS for _, row in ranked], height=0.7)
        axes.set_yticks(range(len(ranked)), [key for key, _ in ranked], fontsize=7)
        axes.set_xscale("log")
        axes.set_xlim(min(0.5, 0.8 * min(ratios)), 3 * max(ratios))
        axes.minorticks_off()
        axes.tick_params(axis="x", labelsize=7)
        for i, ratio in enumerate(ratios):
            axes.text(ratio * 1.06, i, f"{ratio:.2g}", va="center", fontsize=7)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.set_title(f"{name}: times {result['reference']}", fontsize=8, loc="left")
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _number(value: float) -> str:
    """Three digits that say something, thousands apart."""
    if value >= 1000:
        return f"{round(value, -math.floor(math.log10(value)) + 2):,.0f}"
    return f"{value:.3g}"


def _bytes(value: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"
