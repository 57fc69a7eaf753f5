"""A workload, run: answers compared, then timed in turn."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from kshot.bench.clock import Timing, alternate
from kshot.bench.machine import Ceilings, full_float32
from kshot.bench.workload import Answers, Comparison, Contender, Goal, Missing, Workload, compare
from kshot.engine import CompileWarning, compiling_fails

Result = dict[str, Any]


@full_float32()
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
    comparisons, unable = compare_all(workload, present, say)
    for one in unable:
        missing.append(one)
        del present[one.name]
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
            row["error"], row["errors"] = comparisons[name].error, comparisons[name].parts
        if present[name].precision != "float32":
            row["precision"] = present[name].precision
        if name in peaks:
            row["peak_bytes"] = peaks[name]
        if count is not None:
            row["flops_share"] = count.flops / timing.median / ceilings.flops_in(present[name].precision)
            row["bytes_share"] = count.bytes / timing.median / ceilings.bytes
        rows[name] = row
    judged = [(goal, judge(goal, timings, peaks)) for goal in workload.asked()]
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
        "goals": [found for _, found in judged if found is not None],
        "unjudged": [_sides(goal) for goal, found in judged if found is None],
    }


def _finished(wait: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Waits until a contender's work is done: a GPU's is, when its queue is empty."""

    def both() -> None:
        wait()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return both


def compare_all(
    workload: Workload, present: Mapping[str, Contender], say: Callable[[str], None]
) -> tuple[dict[str, Comparison], list[Missing]]:
    """Compares what each contender answers with the reference's answers, and has each take its first step.

    Returns:
        By name how far they are from the reference, and those that cannot do the work here: what could not be compiled
        would run uncompiled under the name of what is.

    Raises:
        UnsupportedError: the answers differ.
    """
    reference = present[workload.reference]
    expected = None if reference.answers is None else reference.answers()
    found: dict[str, Comparison] = {}
    unable: list[Missing] = []

    def attempt(contender: Contender, part: Callable[[], object]) -> None:
        try:
            with compiling_fails():
                part()
        except Exception as error:
            why = cannot(error)
            if why is None or contender is reference:
                raise
            unable.append(Missing(contender.name, why))
            say(f"{workload.name}: without {contender.name} ({why})")

    for name, contender in present.items():
        if expected is not None and contender.answers is not None and contender is not reference:
            say(f"{workload.name}: {name}")
            attempt(contender, functools.partial(_compare, workload, contender, expected, found))
    for contender in present.values():
        if contender.name not in {one.name for one in unable}:
            attempt(contender, contender.step)
    return found, unable


def _compare(workload: Workload, contender: Contender, expected: Answers, found: dict[str, Comparison]) -> None:
    assert contender.answers is not None
    limits = {key: max(limit, workload.tolerance) for key, limit in contender.tolerances.items()}
    tolerance = max(contender.tolerance, workload.tolerance)
    found[contender.name] = compare(
        contender.name, contender.answers(), workload.reference, expected, tolerance, limits
    )


def cannot(error: BaseException) -> str | None:
    """Why work cannot be done here, where that is what an error says: for want of memory, of a compiler, or of what is
    to be imported. None of any other, which is a mistake."""
    if isinstance(error, CompileWarning):
        return f"cannot be compiled: {error.reason}"
    text = " ".join(str(error).split())
    # torch's allocator on a CPU and JAX have no error of their own for it.
    full = isinstance(error, RuntimeError) and ("can't allocate memory" in text or "RESOURCE_EXHAUSTED" in text)
    if full or isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return textwrap.shorten(f"out of memory: {text}".rstrip(": "), 200, placeholder=" ...")
    return f"{type(error).__name__}: {text}" if isinstance(error, ImportError) else None


def judge(goal: Goal, timings: dict[str, Timing], peaks: dict[str, int]) -> Result | None:
    """What was reached of a goal; None where one of its sides is not here."""
    if goal.what == "memory":
        ours = [peaks[name] for name in goal.ours if name in peaks]
        theirs = [peaks[name] for name in goal.theirs if name in peaks]
        if not ours or not theirs:
            return None
        share = min(ours) / max(1, min(theirs))
        return {**_sides(goal), "reached": share, "low": share, "high": share, "met": share <= goal.ratio}
    fastest = _fastest(goal.ours, timings)
    rival = _fastest(goal.theirs, timings)
    if fastest is None or rival is None:
        return None
    ratio, low, high = timings[fastest].times_faster(timings[rival])
    return {
        **asdict(goal), "ours": fastest, "theirs": rival, "reached": ratio, "low": low, "high": high,
        "met": ratio >= goal.ratio,
    }  # fmt: skip


def _sides(goal: Goal) -> Result:
    return {**asdict(goal), "ours": list(goal.ours), "theirs": list(goal.theirs)}


def _fastest(names: Sequence[str], timings: dict[str, Timing]) -> str | None:
    present = [name for name in names if name in timings]
    return min(present, key=lambda name: timings[name].median) if present else None
