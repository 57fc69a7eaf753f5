"""A workload, run: answers compared, then timed in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch

from kshot.bench.clock import Timing, alternate
from kshot.bench.machine import Ceilings
from kshot.bench.workload import Comparison, Contender, Goal, Missing, Workload, compare

Result = dict[str, Any]


def run(
    workload: Workload,
    ceilings: Ceilings,
    *,
    rounds: int = 5,
    seconds: float = 1.0,
    only: Sequence[str] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """What came of a workload, JSON-able.

    Args:
        ceilings: of the machine.
        rounds, seconds: how often each contender has its turn, and how long.
        only: contenders to run beside the reference; all of them otherwise.

    Raises:
        UnsupportedError: contenders do not come to the same answers.
    """
    present: dict[str, Contender] = {}
    missing: list[Missing] = []
    for contender in workload.contenders():
        if isinstance(contender, Missing):
            missing.append(contender)
            say(f"{workload.name}: without {contender.name} ({contender.reason})")
        elif only is None or contender.name in (*only, workload.reference):
            present[contender.name] = contender
    comparisons = compare_all(workload, present, say)
    say(f"{workload.name}: {len(present)} contenders agree; timing them in {rounds} rounds")
    done = {name: _finished(c.wait, workload.device) for name, c in present.items()}
    timings = alternate({n: (c.step, done[n]) for n, c in present.items()}, rounds=rounds, seconds=seconds)
    timings = {n: t.over((present[n].amount or workload.amount) / workload.amount) for n, t in timings.items()}
    peaks = {name: c.peak() for name, c in present.items() if c.peak is not None}
    count = workload.count()
    rows = {}
    for name, timing in timings.items():
        row: Result = {
            "per_second": workload.amount / timing.median,
            "seconds": list(timing.seconds),
            "ours": present[name].ours,
        }
        if name in comparisons:
            row["error"] = comparisons[name].error
        if name in peaks:
            row["peak_bytes"] = peaks[name]
        if count is not None:
            row["flops_share"] = count.flops / timing.median / ceilings.flops
            row["bytes_share"] = count.bytes / timing.median / ceilings.bytes
        rows[name] = row
    return {
        "title": workload.title,
        "unit": workload.unit,
        "amount": workload.amount,
        "reference": workload.reference,
        "device": workload.device.type,
        "details": dict(workload.details()),
        "count": None if count is None else asdict(count),
        "contenders": rows,
        "missing": {m.name: m.reason for m in missing},
        "goals": [found for goal in workload.goals if (found := judge(goal, timings, peaks)) is not None],
    }


def _finished(wait: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Waits until a contender's work is done: a GPU's is, when its queue is empty."""

    def both() -> None:
        wait()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return both


def compare_all(workload: Workload, present: dict[str, Contender], say: Callable[[str], None]) -> dict[str, Comparison]:
    """Compares what each contender answers with the reference's answers."""
    reference = present[workload.reference]
    if reference.answers is None:
        return {}
    expected = reference.answers()
    found = {}
    for name, contender in present.items():
        if contender.answers is not None and contender is not reference:
            say(f"{workload.name}: {name}")
            found[name] = compare(
                name, contender.answers(), reference.name, expected, max(contender.tolerance, workload.tolerance)
            )
    return found


def judge(goal: Goal, timings: dict[str, Timing], peaks: dict[str, int]) -> Result | None:
    """What was reached of a goal; None where one of its sides is not here."""
    if goal.what == "memory":
        ours = [peaks[name] for name in goal.ours if name in peaks]
        theirs = [peaks[name] for name in goal.theirs if name in peaks]
        if not ours or not theirs:
            return None
        share = min(ours) / max(1, min(theirs))
        sides = {"ours": list(goal.ours), "theirs": list(goal.theirs)}
        return {**asdict(goal), **sides, "reached": share, "low": share, "high": share, "met": share <= goal.ratio}
    fastest = _fastest(goal.ours, timings)
    rival = _fastest(goal.theirs, timings)
    if fastest is None or rival is None:
        return None
    ratio, low, high = timings[fastest].times_faster(timings[rival])
    return {
        **asdict(goal), "ours": fastest, "theirs": rival, "reached": ratio, "low": low, "high": high,
        "met": ratio >= goal.ratio,
    }  # fmt: skip


def _fastest(names: Sequence[str], timings: dict[str, Timing]) -> str | None:
    present = [name for name in names if name in timings]
    return min(present, key=lambda name: timings[name].median) if present else None
