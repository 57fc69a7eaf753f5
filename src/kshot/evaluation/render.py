"""A report as a page: what was measured, in the order in which a reader asks."""

from __future__ import annotations

import json
import math
from html import escape
from typing import TYPE_CHECKING

from kshot.evaluation import html, plots
from kshot.evaluation.audit import Audit
from kshot.evaluation.curves import Curve
from kshot.evaluation.distribution import Distribution
from kshot.evaluation.evaluate import Evaluation
from kshot.evaluation.stress import Stress
from kshot.evaluation.text import duration, number, show, title
from kshot.evaluation.value import FORMULA, Value
from kshot.metrics import interval

if TYPE_CHECKING:
    from kshot.evaluation.report import Report


def render(report: Report) -> str:
    """The HTML of a report."""
    evaluation = report.evaluation
    body = [html.heading(report.title, 1), html.paragraph(_lead(evaluation), "lead")]
    if report.audit is not None:
        body.append(html.paragraph(report.audit.recommendation, "answer"))
    body += _scores(evaluation)
    if report.value is not None:
        body += _value(report.value)
    for curve in report.curves:
        body += _curve(curve)
    body += _distribution(evaluation, report.distribution)
    if report.audit is not None:
        body += _audit(report.audit)
    if report.stress is not None:
        body += _stress(report.stress)
    body += _calibration(evaluation)
    body += _details(report)
    return html.page(report.title, body)


def _lead(evaluation: Evaluation) -> str:
    asked = evaluation.settings
    tasks = f"{asked.get('data', 'unnamed data')} ({asked.get('tasks', '')})"
    text = f"{evaluation.learner} on {len(evaluation.scores):,} unseen tasks of {tasks}."
    return text + (" Transductive: its predictions depend on the other queries." if evaluation.transductive else "")


def _scores(evaluation: Evaluation) -> list[str]:
    metric, baselines = evaluation.metric, list(evaluation.baselines.values())
    head = ["", f"{title(metric)}, all tasks"]
    name = evaluation.learner + (" (transductive)" if evaluation.transductive else "")
    rows = [[name, show(evaluation.interval, metric)]]
    if baselines:
        shared = len(baselines[0].scores)
        head += [f"first {shared} tasks", "learner better by", "baseline better on", "time a task"]
        rows[0] += [show(interval(evaluation.scores[:shared]), metric), "", "", ""]
        for b in baselines:
            better = show(b.advantage, metric, sign=True)
            rows.append(
                [
                    b.label,
                    "",
                    show(interval(b.scores), metric),
                    better,
                    f"{100 * b.wins:.0f}% of tasks",
                    duration(b.seconds),
                ]
            )
    text = "± is half of the 95% interval over tasks; where two methods are compared, of the paired differences."
    if metric != "accuracy":
        text += " Less is better."
    picture = html.picture(
        plots.plot_scores(evaluation), "The learner and the baselines on the same unseen tasks, 95% intervals."
    )
    chosen = [f"{b.label}: {_settings(b.settings)}" for b in baselines if b.settings]
    settings = [html.paragraph("Chosen on val tasks: " + "; ".join(chosen) + ".", "note")] if chosen else []
    return [
        html.heading("How good is it on unseen tasks?"),
        html.table(head, rows, first=True),
        html.paragraph(text, "note"),
        *settings,
        *picture,
        *html.notes(evaluation.notes),
    ]


def _settings(settings: dict[str, object]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())


def _value(value: Value) -> list[str]:
    body = [
        html.heading("What is meta-training worth?"),
        html.table(["", ""], value.rows()),
        html.paragraph(FORMULA + ".", "note"),
    ]
    if value.ceiling is not None:
        c = value.ceiling
        body.append(
            html.paragraph(
                f"The ceiling is a classifier of {c.classes} test classes, trained with about "
                f"{c.examples / c.classes:.0f} labels of each ({c.seen:,} examples passed, {duration(c.seconds)}) and "
                "judged on held-out examples of them. It stands for what many labels would give; it is no baseline: "
                "a new task has no such labels.",
                "note",
            )
        )
    return body + html.notes(value.notes)


def _curve(curve: Curve) -> list[str]:
    asks = {"shots": "What do more labels gain?", "steps": "What do more inner steps gain?"}
    rows = [[name, *(show(v, curve.metric) for v in line)] for name, line in curve.lines.items()]
    caption = f"{title(curve.metric)} over {curve.over}, the same queries throughout, 95% intervals."
    return [
        html.heading(asks.get(curve.over, curve.over)),
        *html.picture(plots.plot_curve(curve), caption),
        html.table([curve.over, *map(str, curve.at)], rows),
        *html.notes(curve.notes),
    ]


def _distribution(evaluation: Evaluation, found: Distribution) -> list[str]:
    metric = found.metric
    rows = [["mean", number(found.mean, metric)]]
    rows += [[f"mean of the worst {100 * share:.0f}%", number(score, metric)] for share, score in found.tails.items()]
    names = {0.0: "worst task", 0.05: "5% quantile", 0.5: "median", 0.95: "95% quantile", 1.0: "best task"}
    rows += [[name, number(found.quantiles[q], metric)] for q, name in names.items()]
    body = [
        html.heading("How does it vary over tasks?"),
        *html.picture(
            plots.plot_distribution(evaluation), f"Distribution of the score over {len(evaluation.scores):,} tasks."
        ),
        html.table(["tasks", title(metric)], rows),
    ]
    named = [(score, classes) for score, classes, _ in found.hardest if classes]
    if named:
        body += [
            html.heading("The hardest tasks", 3),
            html.table(
                ["classes", title(metric)], [[", ".join(classes), number(score, metric)] for score, classes in named]
            ),
        ]
    if found.classes:
        rows = [[name, number(score, metric), str(tasks)] for name, score, tasks in found.classes]
        body += [
            html.heading("The hardest classes", 3),
            html.table(["class", f"{title(metric)} of its tasks", "tasks"], rows),
        ]
    return body


def _audit(audit: Audit) -> list[str]:
    metric = audit.metric
    body = [
        html.heading("Audit"),
        html.heading("Does it overfit its training tasks?", 3),
        html.table(
            ["tasks of", title(metric)], [[f"{name} classes", show(v, metric)] for name, v in audit.splits.items()]
        ),
        html.paragraph(audit.verdict),
        html.heading("Do its predictions come from the support?", 3),
        html.table(
            ["probe", title(metric), "expected", ""],
            [
                [p.name, show(p.score, metric), p.expected, "as expected" if p.passed else "not as expected"]
                for p in audit.probes
            ],
        ),
        *(html.paragraph(p.meaning) for p in audit.probes),
    ]
    if audit.transfer:
        rows = [[name, f"{100 * entry['wins']:.0f}%"] for name, entry in audit.transfer.items()]
        body += [
            html.heading("On how many tasks is a baseline better?", 3),
            html.table(["baseline", "of the tasks"], rows),
            html.paragraph(audit.recommendation),
        ]
    if audit.scaling is not None:
        points = audit.scaling.points
        rows = [
            [str(p.classes), "-" if p.groups is None else str(p.groups), p.choice, show(p.score, metric)]
            for p in points
        ]
        body += [
            html.heading("What would more training classes gain?", 3),
            *html.picture(
                plots.plot_scaling(audit.scaling),
                f"Runs of {audit.scaling.steps} steps on parts of the training classes.",
            ),
            html.table(["training classes", "kinds", "choice", title(metric)], rows),
            *html.notes(audit.scaling.notes),
        ]
    return body + html.notes(audit.notes)


def _stress(stress: Stress) -> list[str]:
    metric = stress.metric
    rows = [["clean", "", show(stress.clean, metric), ""]]
    rows += [
        [c.name, f"{c.level:g}", show(c.score, metric), show(c.loss, metric, sign=True)] for c in stress.conditions
    ]
    body = [
        html.heading("What does it bear?"),
        *html.picture(plots.plot_stress(stress), "What each condition costs."),
        html.table(["condition", "level", title(metric), "worse by"], rows, first=True),
    ]
    for what, values in (("Evaluation seeds", stress.evaluation_seeds), ("Training seeds", stress.training_seeds)):
        if len(values) > 1:
            scores = list(values.values())
            spread = f"{number(min(scores), metric)} to {number(max(scores), metric)}"
            body.append(html.paragraph(f"{what}: {show(interval(scores), metric)} over {len(scores)}, from {spread}."))
    return body + html.notes(stress.notes)


def _calibration(evaluation: Evaluation) -> list[str]:
    found = evaluation.calibration
    if found is None:
        return []
    return [
        html.heading("Is its confidence right?"),
        html.paragraph(f"Expected calibration error: {100 * found.error:.2f} points (0 is perfect)."),
        *html.picture(plots.plot_calibration(evaluation), "Accuracy over confidence; larger dots hold more queries."),
    ]


def _details(report: Report) -> list[str]:
    settings = json.dumps(report.evaluation.settings, indent=1, ensure_ascii=False, default=str)
    learner = json.dumps(report.learner, indent=1, ensure_ascii=False, default=str)
    took = f" Measured in {duration(report.seconds)}." if report.seconds and math.isfinite(report.seconds) else ""
    return [
        html.heading("How it was measured"),
        html.paragraph(f"Tasks are a function of the seed below.{took}"),
        f"<pre>{escape(settings)}</pre>",
        f"<pre>{escape(learner)}</pre>" if report.learner else "",
        *html.notes(report.notes),
    ]
