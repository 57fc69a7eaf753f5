"""How far a training is: a bar on a terminal, plain lines otherwise. Always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from kshot.metrics import METRICS, PERCENT

_REDRAW = 0.1
"""Seconds between two redrawings of the bar: a step may take less than the drawing."""


class Progress:
    """Silent; base of the others.

    Args:
        total: outer steps of the run.
        kind: of the tasks, which says what the score is.
    """

    def __init__(self, total: int, kind: str) -> None:
        self.total, self.kind = total, kind

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def step(self, step: int, loss: float) -> None:
        """After every outer step."""

    def report(self, step: int, row: Mapping[str, Any]) -> None:
        """After a validation, or now and then."""

    def say(self, text: str) -> None:
        """A message to the user."""

    def line(self, step: int, row: Mapping[str, Any]) -> str:
        parts = [f"step {step}/{self.total}"]
        if row.get("loss") is not None:
            parts.append(f"loss {row['loss']:.4f}")
        if row.get("val") is not None:
            half = row.get("val_half_width")
            if METRICS[self.kind] in PERCENT:
                name = "val wrong bits" if self.kind == "sequence" else "val"
                parts.append(
                    f"{name} {100 * row['val']:.2f}" + (f" ± {100 * half:.2f} %" if half is not None else " %")
                )
            else:
                parts.append(f"val mse {row['val']:.4f}" + (f" ± {half:.4f}" if half is not None else ""))
        if row.get("tasks_per_second") is not None:
            parts.append(f"{row['tasks_per_second']:.0f} tasks/s")
        return ", ".join(parts)


class Lines(Progress):
    """A line for each validation, and some 20 a run where there are none."""

    def __init__(self, total: int, kind: str) -> None:
        super().__init__(total, kind)
        self._every = max(1, total // 20)
        self._said = 0

    def report(self, step: int, row: Mapping[str, Any]) -> None:
        if row.get("val") is not None or step // self._every > self._said // self._every or step == self.total:
            self._said = step
            self.say(self.line(step, row))

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class Bar(Progress):
    """A bar with the loss and the last validation; validations stay above it as lines."""

    def __init__(self, total: int, kind: str) -> None:
        super().__init__(total, kind)
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("meta-training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("", total=total)
        self._drawn = -float("inf")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, step: int, loss: float) -> None:
        now = time.monotonic()
        if now - self._drawn > _REDRAW or step == self.total:
            self._drawn = now
            self._bar.update(self._task, completed=step, description=f"loss {loss:.4f}")

    def report(self, step: int, row: Mapping[str, Any]) -> None:
        if row.get("val") is not None:
            self.say(self.line(step, row))

    def say(self, text: str) -> None:
        self._bar.console.print(text, highlight=False, markup=False)


def make_progress(choice: bool | None, total: int, kind: str) -> Progress:
    """False: nothing; else a bar on a terminal, plain lines otherwise."""
    if choice is False:
        return Progress(total, kind)
    return Bar(total, kind) if sys.stderr.isatty() else Lines(total, kind)
