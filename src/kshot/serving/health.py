"""How a task's queries look beside its support: their distances, and how sure its answers are.

Of each query a few sums are kept, nothing of itself. How far queries lie from the nearest support example (as a
logarithm) was measured on val tasks (`calibration`), as it follows from how far the support's examples lie from others
of their class, with what it varies by from task to task and from query to query. A mean over n queries that lies
beyond what that explains, once in forty times by chance, is a drift.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kshot.metrics import proportion

BEYOND = 2.33
"""Standard deviations above the mean: one-sided, one of 100 undrifted tasks is farther. It has a margin for classes of
a kind that val does not hold: of each of Omniglot's val alphabets, with the calibration of the three others, 3 to 4
tasks of 100 are beyond 1.96, and 9 of the alphabet that fits worst; beyond 2.33 it is 1 to 2, and 5."""


@dataclass
class Seen:
    """Sums over queries."""

    queries: int = 0
    far: float = 0.0
    confidence: float = 0.0
    abstained: int = 0

    def __add__(self, other: Seen) -> Seen:
        return Seen(
            self.queries + other.queries,
            self.far + other.far,
            self.confidence + other.confidence,
            self.abstained + other.abstained,
        )

    @classmethod
    def of(cls, distances: Sequence[float], rows: Sequence[Mapping[str, Any]]) -> Seen:
        """Of the queries of one request.

        Args:
            distances: of each to the nearest support example.
            rows: what was predicted.
        """
        far = sum(math.log(max(distance, 1e-6)) for distance in distances)
        sure = sum(row["probability"] for row in rows)
        return cls(len(rows), far, sure, sum(row["abstain"] for row in rows))


class Watch:
    """The sums of a process that are not in the database yet, by task and version.

    Attributes:
        moving: held while they are taken from here into the database.
    """

    def __init__(self) -> None:
        self._lock, self.moving = threading.Lock(), threading.Lock()
        self._seen: dict[tuple[str, int], Seen] = {}

    def add(self, task: str, version: int, seen: Seen) -> None:
        """More queries of a task."""
        with self._lock:
            self._seen[task, version] = self._seen.get((task, version), Seen()) + seen

    def take(self) -> dict[tuple[str, int], Seen]:
        """All of them, which are the caller's from now on."""
        with self._lock:
            seen, self._seen = self._seen, {}
            return seen

    def of(self, task: str, version: int) -> Seen:
        """Those of one task."""
        with self._lock:
            return self._seen.get((task, version), Seen())


def drift(seen: Seen, reference: float, calibration: Mapping[str, Any]) -> dict[str, Any] | None:
    """Whether queries lie farther from the support than those of val tasks do; None where that was not measured, or
    there were none.

    Args:
        seen: of the task.
        reference: of its state.
        calibration: of its model.
    """
    known = calibration.get("drift")
    if not known or not seen.queries:
        return None
    spread = math.sqrt(known["between"] + known["within"] / seen.queries)
    expected = known["mean"] + known["slope"] * reference
    score = (seen.far / seen.queries - expected) / max(spread, 1e-9)
    return {"score": round(score, 3), "alarm": score > BEYOND, "queries": seen.queries}


def report(seen: Seen, reference: float, calibration: Mapping[str, Any], right: int, judged: int) -> dict[str, Any]:
    """What is said of a task's health.

    Args:
        seen: of its queries.
        reference: of its state.
        calibration: of its model.
        right, judged: of the feedback.
    """
    n = seen.queries
    found: dict[str, Any] = {
        "queries": n,
        "confidence": seen.confidence / n if n else None,
        "abstained": seen.abstained / n if n else None,
        "drift": drift(seen, reference, calibration),
        "feedback": None,
    }
    if judged:
        low, high = proportion(right, judged)
        found["feedback"] = {"accuracy": right / judged, "low": low, "high": high, "answers": judged}
    return found
