"""What commands print: plain lines for people, or one JSON document and nothing else on stdout."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import IO, Any


class Output:
    """Where a command's words go.

    Args:
        as_json: the result is printed as JSON, alone on stdout; all else goes to stderr.
        silent: nothing is printed, since another process says it.
    """

    def __init__(self, as_json: bool = False, silent: bool = False) -> None:
        self.as_json, self.silent = as_json, silent
        self._stdout: IO[str] = sys.stdout

    def say(self, line: str = "") -> None:
        """A line for people."""
        if not self.silent:
            print(line, file=sys.stderr if self.as_json else self._stdout, flush=True)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Rows in aligned columns."""
        for line in table(head, rows):
            self.say(line)

    def result(self, value: Any) -> None:
        """The command's result, where JSON was asked for."""
        if self.as_json and not self.silent:
            from kshot.artifacts.plain import finite

            print(json.dumps(finite(value), indent=2, ensure_ascii=False), file=self._stdout, flush=True)

    @contextlib.contextmanager
    def alone(self) -> Iterator[Output]:
        """With JSON, whatever else prints to stdout for the length of the block prints to stderr."""
        with contextlib.ExitStack() as stack:
            if self.as_json:
                stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            yield self


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines of left-aligned columns under a head.

    >>> table(["name", "way"], [["glyphs", 5], ["a", 20]])
    ['name    way', 'glyphs  5', 'a       20']
    """
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
