"""The table of reproductions: published, ours, the budget, reached or not and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from kshot.evaluation.reproduction import Outcome, Result, judged, read_result
from kshot.evaluation.reproduction_spec import Specification, load, names
from kshot.metrics import LOWER_IS_BETTER

CPU_MINUTES = 10
"""What the training of a `cpu` profile may take."""

HEAD = ("learner", "setting", "published", "ours", "below it", "goal", "training", "transductive", "")


def entries(
    results: str | Path, profile: str = "cpu", only: Iterable[str] | None = None, *, seed: int | None = None
) -> list[tuple[Specification, Result | None]]:
    """The committed reproductions with their kept results; None where there is none, the configuration has changed
    since, or the reproduction has no such profile."""
    found = []
    for name in names() if only is None else only:
        spec = load(name)
        result = read_result(spec, profile, results, seed) if profile in spec.profiles else None
        if result is not None and result.digest != spec.digest(profile, seed):
            result = None
        if result is not None:  # of these very rows, as the digest says
            judgements = zip(spec.rows_of(profile), result.outcomes, strict=True)
            result = replace(result, outcomes=[judged(row, one) for row, one in judgements])
        found.append((spec, result))
    return found


def rows(found: list[tuple[Specification, Result | None]], profile: str = "cpu") -> list[list[str]]:
    """The cells of the table."""
    cells = []
    for spec, result in found:
        if result is None:
            there = profile in spec.profiles
            for row in spec.rows_of(profile) if there else spec.rows:
                published = "-" if row.published is None else f"{row.published:g}"
                verdict = "not run" if there else f"not run: {' and '.join(spec.profiles)} profile only"
                cells.append([spec.title, row.setting, published, "-", "", "", "", "", verdict])
            continue
        for one in result.outcomes:
            cells.append(
                [
                    spec.title,
                    one.setting,
                    _published(one),
                    _ours(one),
                    _below(one),
                    one.goal,
                    _training(result),
                    "yes" if one.transductive else "",
                    {True: "reached", False: "not reached", None: ""}[one.reached],
                ]
            )
    return cells


def shortfalls(found: list[tuple[Specification, Result | None]]) -> list[str]:
    """Why what is not reached is not: what its specification says of it by now, else the budgets."""
    lines = []
    for spec, result in found:
        if result is None:
            continue
        for row, one in zip(spec.rows_of(result.profile), result.outcomes, strict=True):
            if one.reached is False:
                lines.append(f"{spec.title}, {one.setting}: {row.reason or _budgets(result, spec)}")
    return lines


def spent(found: list[tuple[Specification, Result | None]]) -> str:
    """The training of all that was run and the measuring of those that say, in minutes."""
    run = [result for _, result in found if result is not None]
    seconds = [one.training["seconds"] for one in run]
    measured = [one.measuring for one in run if one.measuring is not None]
    longest = f", the longest {max(seconds) / 60:.1f}" if seconds else ""
    said = f"{sum(seconds) / 60:.0f} minutes of training for {len(run)} of {len(found)} reproductions{longest}"
    if not measured:
        return said
    others = len(run) - len(measured)
    return f"{said}; {sum(measured) / 60:.0f} of measuring" + (f" without {others} that say no time" if others else "")


def differences(found: list[tuple[Specification, Result | None]]) -> list[str]:
    """Where the published numbers are printed, and what is known not to be as there, beside the budgets."""
    return [
        f"{spec.title} ({spec.name}{'' if spec.paper == '-' else f', {spec.paper}'})"
        + (f": {spec.differs}" if spec.differs else "")
        for spec, _ in found
    ]


def markdown(found: list[tuple[Specification, Result | None]], profile: str = "cpu") -> str:
    """The table for the docs."""
    lines = ["| " + " | ".join(HEAD).rstrip() + " |", "|" + "---|" * len(HEAD)]
    lines += ["| " + " | ".join(row) + " |" for row in rows(found, profile)]
    lines += ["", f"In all {spent(found)}."]
    for title, more in (
        ("What falls short, and why:", shortfalls),
        ("Where the numbers are from, and what is not as there:", differences),
    ):
        items = [f"- {line}." for line in more(found)]
        lines += ["", title, "", *items] if items else []
    return "\n".join(lines) + "\n"


def to_dict(found: list[tuple[Specification, Result | None]]) -> list[dict[str, Any]]:
    """JSON-able: each reproduction's name, result and shortfalls."""
    return [
        {
            "name": spec.name,
            "result": None if result is None else result.to_dict(),
            "shortfalls": shortfalls([(spec, result)]),
        }
        for spec, result in found
    ]


def _published(one: Outcome) -> str:
    if one.published is None:
        return "-"
    return f"{one.published:g}" + (f" ± {one.interval:g}" if one.interval is not None else "")


def _below(one: Outcome) -> str:
    """By how much the published number is better, reached or not."""
    if one.published is None:
        return ""
    behind = (one.ours - one.published) if one.metric in LOWER_IS_BETTER else (one.published - one.ours)
    return f"{behind:.{_digits(one)}f}" if behind > 0 else ""


def _digits(one: Outcome) -> int:
    return 3 if one.metric in ("mse", "nll") else 2


def _ours(one: Outcome) -> str:
    digits = _digits(one)
    sign = "+" if one.metric == "points" else ""
    return f"{one.ours:{sign}.{digits}f} ± {one.half_width or 0.0:.{digits}f}"


def _budgets(result: Result, spec: Specification) -> str:
    t = result.training
    tasks = f"{t['meta_batch']} task" + ("" if t["meta_batch"] == 1 else "s")
    ours = f"trained {_minutes(result)} minutes: {t['steps']:,} steps of {tasks}"
    theirs = "does not say how long" if spec.paper_budget == "not said" else spec.paper_budget
    return ours + (f"; the paper {theirs}" if theirs else "")


def _training(result: Result) -> str:
    t = result.training
    seconds = t["seconds"] + t.get("before", 0.0)
    more = f" (over {CPU_MINUTES})" if result.profile == "cpu" and seconds > 60 * CPU_MINUTES else ""
    return f"{_minutes(result)} min{more}, {t['steps']:,} x {t['meta_batch']}"


def _minutes(result: Result) -> str:
    """Of the training, and of what it uses before that."""
    return " + ".join(f"{result.training[key] / 60:.1f}" for key in ("before", "seconds") if key in result.training)
