"""Numbers as people read them, and tables of them in plain text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kshot.metrics import PERCENT, Interval


def show(value: Interval, metric: str, *, sign: bool = False) -> str:
    """An interval of accuracies and bit errors in percent, of squared errors as it is.

    >>> show(Interval(0.98194, 0.00123, 1000), "accuracy"), show(Interval(0.6713, 0.0214, 600), "mse")
    ('98.19 ± 0.12', '0.671 ± 0.021')
    >>> show(Interval(5.1e14, 1e15, 400), "mse")
    '5.10e+14 ± 1.00e+15'
    """
    plus = "+" if sign else ""
    return format(value, f"{plus}.2%") if metric in PERCENT else _plain(value, plus)


def number(value: float, metric: str) -> str:
    """One score, likewise."""
    if not math.isfinite(value):
        return "-"
    return f"{100 * value:.2f}" if metric in PERCENT else f"{value:.3g}"


def duration(seconds: float) -> str:
    """A time that is easy to read.

    >>> duration(0.0042), duration(95), duration(7300)
    ('4.2 ms', '1 min 35 s', '2 h 1 min')
    """
    if seconds < 1:
        return f"{1000 * seconds:.{1 if seconds < 0.01 else 0}f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds) // 60
    return f"{minutes} min {round(seconds) % 60} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def title(metric: str) -> str:
    """The head of a column of scores."""
    return {"accuracy": "accuracy %", "bit_error": "wrong bits %"}.get(metric, "MSE")


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of aligned columns, the first to the left and the others to the right.

    >>> columns([["", "MSE"], ["MAML", "0.67"]])
    ['       MSE', 'MAML  0.67']
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _plain(value: Interval, plus: str) -> str:
    if abs(value.mean) >= 1e6 or not math.isfinite(value.mean):
        return format(value, f"{plus}.2e")
    digits = 3 if abs(value.mean) < 10 else 2
    return format(value, f"{plus}.{digits}f")


def amount(size: float | None) -> str:
    """A number of bytes that is easy to read.

    >>> amount(640), amount(113_344), amount(105.25e6), amount(None)
    ('640 B', '113 kB', '105 MB', '-')
    """
    if size is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
