"""Progress of long work: a bar on a terminal, a plain line now and then otherwise. Always on stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Report = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

_LINES = 4
"""Plain lines for one piece of work."""


@contextlib.contextmanager
def progress() -> Iterator[Report]:
    """What to report to; the bars disappear at the end."""
    if not sys.stderr.isatty():
        yield _plain()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield report


def _plain() -> Report:
    said: dict[str, int] = {}

    def report(what: str, done: int, total: int) -> None:
        part = done * _LINES // total if total else 0
        if said.get(what, 0) < part:
            said[what] = part
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)

    return report
