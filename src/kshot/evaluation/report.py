"""The report: everything that was measured, as one HTML file with its plots and one JSON file with every number."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import kshot
from kshot.artifacts import atomic_file, check_place
from kshot.artifacts.plain import finite
from kshot.engine import FeatureCache
from kshot.errors import KshotError
from kshot.evaluation.audit import Audit, audit, cache_for
from kshot.evaluation.baselines import BASELINES
from kshot.evaluation.budget import BUDGETS, Budget
from kshot.evaluation.ceiling import supervised_ceiling
from kshot.evaluation.conventional import Conventional, baseline_source, conventional_network
from kshot.evaluation.curves import Curve, steps_curve
from kshot.evaluation.distribution import Distribution, distribution
from kshot.evaluation.evaluate import Evaluation, evaluate
from kshot.evaluation.render import render
from kshot.evaluation.scaling import Scaling, scale
from kshot.evaluation.scores import Progress
from kshot.evaluation.stress import Stress, stress
from kshot.evaluation.unseen import unseen_split
from kshot.evaluation.value import Value, value
from kshot.learners.base import Learner
from kshot.tasks.source import TaskSource
from kshot.tasks.split import TaskSplit

T = TypeVar("T")


@dataclass
class Report:
    """What a report holds, and where it was written to.

    Attributes:
        evaluation: scores beside the baselines; the others may be missing.
        title: of the page.
        html, json: the files, once written.
    """

    evaluation: Evaluation
    distribution: Distribution
    title: str = ""
    value: Value | None = None
    audit: Audit | None = None
    curves: list[Curve] = field(default_factory=list)
    stress: Stress | None = None
    learner: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    html: Path | None = None
    json: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return {
            "kshot": kshot.__version__,
            "title": self.title,
            "learner": self.learner,
            "evaluation": self.evaluation.to_dict(per_task=True),
            "distribution": self.distribution.to_dict(),
            "value": None if self.value is None else self.value.to_dict(),
            "audit": None if self.audit is None else self.audit.to_dict(),
            "curves": [curve.to_dict() for curve in self.curves],
            "stress": None if self.stress is None else self.stress.to_dict(),
            "notes": self.notes,
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        parts: Sequence[tuple[str, Any]] = [
            ("", self.evaluation),
            ("Over tasks", self.distribution),
            *((f"Over {curve.over}", curve) for curve in self.curves),
            ("Audit", self.audit),
            ("Value", self.value),
            ("Stress", self.stress),
        ]
        texts = [
            f"{head}\n{'-' * len(head)}\n{part}" if head else str(part) for head, part in parts if part is not None
        ]
        texts += [f"Note: {note}." for note in self.notes]
        if self.html is not None:
            texts.append(f"Report: {self.html}")
        return "\n\n".join(texts)


def write_report(
    out: str | Path,
    evaluation: Evaluation,
    *,
    audit: Audit | None = None,
    curves: Sequence[Curve] = (),
    value: Value | None = None,
    stress: Stress | None = None,
    learner: Learner | None = None,
    title: str = "",
    notes: Sequence[str] = (),
    seconds: float = 0.0,
) -> Report:
    """Writes `report.html`, one file that needs no other and no network, and `report.json`.

    Args:
        out: a folder (a run), or the path of the HTML file, beside which the JSON is put.
        evaluation: and what else there is.

    Raises:
        RunError: the disk is full, or there is no permission.
    """
    html = _html_path(out)
    name = type(learner).__name__ if learner is not None else evaluation.learner
    report = Report(
        evaluation=evaluation,
        distribution=distribution(evaluation),
        title=title or f"{name} on {evaluation.settings.get('data', 'unseen tasks')}",
        value=value,
        audit=audit,
        curves=list(curves),
        stress=stress,
        learner={} if learner is None else describe(learner),
        notes=list(notes),
        seconds=seconds,
    )
    report.html, report.json = html, html.with_suffix(".json")
    atomic_file(report.json, json.dumps(finite(report.to_dict()), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    atomic_file(report.html, render(report))
    return report


def full_report(
    learner: Learner,
    source: TaskSource,
    out: str | Path,
    *,
    tasks: int | None = None,
    seed: int = 1,
    budget: str | Budget = "quick",
    split: TaskSplit | None = None,
    evaluation: Evaluation | None = None,
    baselines: bool = True,
    with_stress: bool = False,
    runs: Sequence[str] = (),
    title: str = "",
    progress: Progress | None = None,
) -> Report:
    """Measures everything that the budget allows, and writes the report.

    Args:
        learner: a trained one.
        source: what it was trained on, with train and val tasks for the audit.
        split: the unseen tasks; by default `source.test`.
        out: a folder (the run), or the path of the HTML file.
        tasks: unseen tasks; by default the budget's.
        seed: of all tasks.
        budget: "quick", under a minute for a small learner whose conventional network is there already; "full"; or
            your own.
        evaluation: of the learner on this split, made before with baselines; it is not made again.
        baselines: without them no conventional network is trained for the comparisons.
        with_stress: also the stress tests.
        runs: learners of the same configuration, trained with other seeds, for the stress tests.
        progress: called with (what, done, of).

    Raises:
        OverlappingSplitsError: the learner has seen classes of the split.
        UnsupportedError: it cannot do the tasks.
        RunError: the report cannot be written.
    """
    plan = BUDGETS[budget] if isinstance(budget, str) else budget
    check_place(_html_path(out))  # before hours of measuring
    began = time.perf_counter()
    notes: list[str] = []
    caches: dict[int, FeatureCache] = {}
    unseen, more = unseen_split(learner, source.test if split is None else split)
    cache = cache_for(caches, learner, unseen)
    if evaluation is None:
        evaluation = evaluate(
            learner,
            unseen,
            tasks or plan.tasks,
            seed=seed,
            baselines=baselines,
            baseline_tasks=plan.baseline_tasks,
            cache=cache,
            progress=progress,
        )
        evaluation.notes = more + [note for note in evaluation.notes if note not in more]

    def measured(what: str, measure: Callable[[], T], optional: bool = False, shown: bool = True) -> T | None:
        """A part of the report; what cannot be done or is out of time is noted instead of losing the rest."""
        if optional and time.perf_counter() - began > plan.seconds:
            notes.append(f"{what} left out: the time for a quick report was spent (a full one measures it)")
            return None
        if shown and progress is not None:
            progress(what, 0, 1)
        try:
            result = measure()
        except KshotError as error:
            notes.append(f"{what} left out: {error}")
            return None
        if shown and progress is not None:
            progress(what, 1, 1)
        return result

    network = None
    if baselines:
        network = measured("conventional network", lambda: _network(learner, unseen, progress), shown=False)
    count = plan.measure_tasks
    scaling: Scaling | None = None
    if plan.scaling_steps:
        scaling = measured(
            "scaling",
            lambda: scale(
                learner,
                source,
                split=unseen,
                steps=plan.scaling_steps,
                seconds=plan.scaling_seconds,
                tasks=count,
                seed=seed,
                progress=progress,
            ),
        )
    audited = measured(
        "audit",
        lambda: audit(
            learner, source, split=unseen, tasks=count, seed=seed, evaluation=evaluation, scaling=scaling, caches=caches
        ),
    )
    steps = measured("inner steps", lambda: steps_curve(learner, unseen, tasks=count, seed=seed, cache=cache))
    ceiling = measured(
        "ceiling",
        lambda: supervised_ceiling(
            learner, unseen, network=network, examples=plan.ceiling[0], classes=plan.ceiling[1], tasks=count, seed=seed
        ),
        optional=True,
    )
    worth = measured(
        "value",
        lambda: value(
            learner,
            unseen,
            network=network,
            baselines=plan.label_baselines if baselines else (),
            shots=plan.shots,
            tasks=count,
            seed=seed,
            evaluation=evaluation,
            ceiling=ceiling,
            cache=cache,
        ),
    )
    stressed = None
    if with_stress:
        stressed = measured(
            "stress",
            lambda: stress(
                learner, unseen, tasks=min(count, 100), seed=seed, runs=runs, cache=cache, progress=progress
            ),
        )
    curves = [curve for curve in (None if worth is None else worth.curve, steps) if curve is not None]
    return write_report(
        out,
        evaluation,
        audit=audited,
        curves=curves,
        value=worth,
        stress=stressed,
        learner=learner,
        title=title,
        notes=notes,
        seconds=time.perf_counter() - began,
    )


def _html_path(out: str | Path) -> Path:
    out = Path(out)
    return out if out.suffix in (".html", ".htm") else out / "report.html"


def describe(learner: Learner) -> dict[str, Any]:
    """What a learner is and where it comes from, JSON-able."""
    try:
        config: Any = learner.config
    except KshotError:
        config = repr(learner)
    provenance = {k: v for k, v in learner.provenance.items() if k not in ("splits", "train_classes")}
    return {
        "name": type(learner).__name__,
        "config": config,
        "parameters": sum(p.numel() for p in learner.parameters()),
        "transductive": learner.transductive,
        "provenance": provenance,
    }


def _network(learner: Learner, split: TaskSplit, progress: Progress | None) -> Conventional | None:
    source, _ = baseline_source(learner, split)
    if source is None or "train" not in source.splits or not BASELINES[split.kind]:
        return None
    return conventional_network(learner, source, progress=progress)[0]
