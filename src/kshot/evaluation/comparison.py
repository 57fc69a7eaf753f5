"""What a comparison of learners found: a table, JSON, and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kshot.errors import UnsupportedError
from kshot.evaluation.text import amount, columns, duration, show, title
from kshot.metrics import Interval, interval, paired_difference
from kshot.tasks.source import TaskSource


@dataclass
class Compared:
    """A learner's result; JSON-able.

    Attributes:
        label: what the table calls it.
        metric: `"accuracy"`, of which more is better; of others less.
        scores: of each test task.
        transductive: whether a prediction may depend on the other queries.
        seconds, steps: of training.
        best_step: the step whose weights were selected on val tasks.
        mode: of the engine.
        curve: validations, each with `seconds` and `step` of training, `mean`, `half_width` and `n`.
        adapt_seconds: of one adaptation to a raw support set.
        task_bytes: of what an adaptation returns.
        peak_bytes: the most that torch allocated in one outer step; None where that cannot be measured.
        parameters: how many numbers are meta-learned.
        learner, backbone, training: how it was made and trained.
        settings: what all of the comparison have in common.
    """

    label: str
    metric: str
    scores: list[float]
    transductive: bool
    seconds: float
    steps: int
    best_step: int
    mode: str
    curve: list[dict[str, Any]]
    adapt_seconds: float
    task_bytes: int
    peak_bytes: int | None
    parameters: int
    learner: dict[str, Any]
    backbone: dict[str, Any] | None
    training: dict[str, Any]
    settings: dict[str, Any]

    @property
    def interval(self) -> Interval:
        """The mean score with its 95% interval over test tasks."""
        return interval(self.scores)

    @property
    def name(self) -> str:
        """The label, with what a reader has to know beside it."""
        return f"{self.label} (transductive)" if self.transductive else self.label

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.name}: {title(self.metric)} {show(self.interval, self.metric)} after {self.steps} steps in "
            f"{duration(self.seconds)}"
        )


@dataclass(frozen=True)
class LeftOut:
    """A learner that cannot do the tasks, and why."""

    label: str
    reason: str

    def __str__(self) -> str:
        return f"{self.label}: left out: {self.reason}"


@dataclass
class Comparison:
    """Learners at an equal budget of training time, the best one first; printing gives a table.

    Attributes:
        results: of each learner.
        left_out: learners that cannot do the tasks.
    """

    results: list[Compared]
    left_out: list[LeftOut] = field(default_factory=list)

    @classmethod
    def of(cls, found: Sequence[Compared | LeftOut], source: TaskSource) -> Comparison:
        """Sorts results.

        Raises:
            UnsupportedError: there is none.
        """
        results = [one for one in found if isinstance(one, Compared)]
        left_out = [one for one in found if isinstance(one, LeftOut)]
        if not results:
            reasons = "; ".join(_left_out(left_out))
            raise UnsupportedError(f"none of the learners could be compared on {source.name}. {reasons}")
        sign = -1 if results[0].metric == "accuracy" else 1
        return cls(sorted(results, key=lambda one: sign * one.interval.mean), left_out)

    @property
    def metric(self) -> str:
        return self.results[0].metric

    def to_the_best(self, one: Compared) -> Interval | None:
        """How a learner's scores differ from the best one's on the same tasks; None for the best one itself."""
        best = self.results[0]
        return None if one is best else paired_difference(one.scores, best.scores)

    def rows(self) -> list[list[str]]:
        """The table, its head first."""
        head = ["", title(self.metric), "to the best", "trained", "steps", "adapt", "a task", "peak of a step"]
        table = [head]
        for one in self.results:
            gap = self.to_the_best(one)
            table.append(
                [
                    one.name,
                    show(one.interval, self.metric),
                    "" if gap is None else show(gap, self.metric, sign=True),
                    duration(one.seconds),
                    f"{one.steps:,}",
                    duration(one.adapt_seconds),
                    amount(one.task_bytes),
                    amount(one.peak_bytes),
                ]
            )
        return table

    def head(self) -> str:
        """One line: which tasks, which budget."""
        asked = self.results[0].settings
        budget = duration(asked["budget_seconds"])
        return (
            f"{len(self.results)} learners, {budget} of training each, on the same {asked['tasks_count']:,} unseen "
            f"tasks of {asked['data']} ({asked['tasks']})"
        )

    def notes(self) -> list[str]:
        """What a reader of the table has to know."""
        asked = self.results[0].settings
        better = "more" if self.metric == "accuracy" else "less"
        lines = [
            f"± is half of the 95% interval over tasks ({better} is better); other training seeds vary on top of it. "
            "To the best: paired, on the same tasks.",
            "Trained: the time of outer steps, without validations. Adapt: one task, from raw examples, on "
            f"{asked['device']} with {asked['threads']} threads. A task: the bytes that an adaptation returns. "
            "Peak of a step: what torch allocates in one outer step.",
        ]
        if any(one.transductive for one in self.results):
            lines.append(
                "Transductive: predictions depend on the other queries; not comparable with inductive numbers."
            )
        if asked.get("chance"):
            lines.append(f"Guessing: {100 * asked['chance']:.2f}.")
        return lines + _left_out(self.left_out)

    def __str__(self) -> str:
        return "\n".join([self.head(), "", *columns(self.rows()), "", *self.notes()])

    def to_markdown(self) -> str:
        """The same as a page."""
        head, *rows = self.rows()
        ruler = ["---", *["---:"] * (len(head) - 1)]
        table = ["| " + " | ".join(cell or " " for cell in row) + " |" for row in [head, ruler, *rows]]
        return "\n".join([f"# {self.head()}", "", *table, "", *(f"- {note}" for note in self.notes())]) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: everything but the tasks one by one, which are in each result."""
        results = []
        for one in self.results:
            gap = self.to_the_best(one)
            row = {key: value for key, value in one.to_dict().items() if key not in ("scores", "settings", "metric")}
            row = {"label": row.pop("label"), **one.interval.to_dict(), **row}
            results.append({**row, "to_the_best": None if gap is None else gap.to_dict()})
        return {
            "metric": self.metric,
            "settings": self.results[0].settings,
            "results": results,
            "left_out": [asdict(one) for one in self.left_out],
        }

    def plot(self, path: str | Path) -> Path:
        """Draws scores against training time, adaptation time and memory into a PNG file.

        Raises:
            RunError: the file cannot be written.
        """
        from kshot.artifacts.atomic import atomic_file
        from kshot.evaluation.comparison_plot import picture

        return atomic_file(path, picture(self))


def _left_out(ones: Sequence[LeftOut]) -> list[str]:
    """A line for each reason, with all that it holds for."""
    reasons: dict[str, list[str]] = {}
    for one in ones:
        reasons.setdefault(one.reason, []).append(one.label)
    return [f"Left out: {', '.join(labels)}: {reason}" for reason, labels in reasons.items()]
