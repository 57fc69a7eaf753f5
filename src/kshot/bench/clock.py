"""The same work by several contenders, one after the other and round by round: what the machine does meanwhile is in
all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Work = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """How long one contender took.

    Attributes:
        seconds: of one call, the mean of each round.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def over(self, amount: float) -> Timing:
        """The time of one part, where a call does `amount` of them."""
        return Timing(tuple(value / amount for value in self.seconds))

    def times_faster(self, other: Timing) -> tuple[float, float, float]:
        """By how much it is faster than another, round by round: the median, the smallest and the largest ratio."""
        ratios = [theirs / own for own, theirs in zip(self.seconds, other.seconds, strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


def alternate(
    contenders: Mapping[str, tuple[Work, Work]], *, rounds: int = 5, seconds: float = 1.0
) -> dict[str, Timing]:
    """Times calls of each contender in turn, the order turned about from round to round.

    Args:
        contenders: by name the work, each call the same amount, and what waits until all of it is done.
        rounds: how often each has its turn.
        seconds: of one turn, about; at least one call.
    """
    found: dict[str, list[float]] = {name: [] for name in contenders}
    calls = {name: _calls_in(*pair, seconds) for name, pair in contenders.items()}
    names = list(contenders)
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            found[name].append(_seconds(*contenders[name], calls[name]))
    return {name: Timing(tuple(values)) for name, values in found.items()}


def _calls_in(work: Work, wait: Work, seconds: float) -> int:
    """How many calls fill a turn; what the first ones have to set up is done by then."""
    _seconds(work, wait, 1)
    return max(1, round(seconds / max(1e-9, _seconds(work, wait, 1))))


def _seconds(work: Work, wait: Work, calls: int) -> float:
    wait()
    began = time.perf_counter()
    for _ in range(calls):
        work()
    wait()
    return (time.perf_counter() - began) / calls
