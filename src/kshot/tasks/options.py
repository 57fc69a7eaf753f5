"""Checks of what a split is asked for: whole numbers and ranges of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from kshot.errors import ConfigError

Range = int | tuple[int, int]
"""A number, or (smallest, largest), both included."""


def whole_number(name: str, value: Any, at_least: int = 1) -> int:
    """`value` as an int of at least `at_least`.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < at_least:
        raise ConfigError(f"expected {name} to be a whole number of at least {at_least}, got {value!r}")
    return int(value)


def whole_range(name: str, value: Any, at_least: int = 1) -> tuple[int, int]:
    """A number n as (n, n), or a pair as it is.

    Raises:
        ConfigError: it is neither, or the pair is the wrong way round.
    """
    if not isinstance(value, (tuple, list)):
        number = whole_number(name, value, at_least)
        return number, number
    if len(value) != 2:
        raise ConfigError(f"expected {name} to be a number or (smallest, largest), got {value!r}")
    low, high = (whole_number(f"each end of {name}", end, at_least) for end in value)
    if low > high:
        raise ConfigError(f"expected {name} to be (smallest, largest), got {value!r}: swap them")
    return low, high


def real_range(name: str, value: Any) -> tuple[float, float]:
    """A number x as (x, x), or a pair of numbers as it is.

    Raises:
        ConfigError: it is neither, or the pair is the wrong way round.
    """
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    numbers = [v for v in pair if isinstance(v, (int, float)) and not isinstance(v, bool) and np.isfinite(v)]
    if len(pair) != 2 or len(numbers) != 2 or numbers[0] > numbers[1]:
        raise ConfigError(f"expected {name} to be a number or (lowest, highest), got {value!r}")
    return float(numbers[0]), float(numbers[1])
