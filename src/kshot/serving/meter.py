"""What tenants use, counted in memory and written down now and then."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timezone


class Meter:
    """Counts by day, tenant and what: requests, predictions, adaptations."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._used: dict[str, dict[tuple[str, str], float]] = defaultdict(lambda: defaultdict(float))

    def add(self, tenant: str, **amounts: float) -> None:
        """A tenant used so much more."""
        day = datetime.now(timezone.utc).date().isoformat()
        with self._lock:
            for what, amount in amounts.items():
                self._used[day][tenant, what] += amount

    def give_back(self, used: Mapping[str, Mapping[tuple[str, str], float]]) -> None:
        """What was taken, and could not be written down."""
        with self._lock:
            for day, amounts in used.items():
                for key, amount in amounts.items():
                    self._used[day][key] += amount

    def take(self) -> dict[str, dict[tuple[str, str], float]]:
        """All of it, which is the caller's from now on."""
        with self._lock:
            used = {day: dict(amounts) for day, amounts in self._used.items()}
            self._used.clear()
            return used
