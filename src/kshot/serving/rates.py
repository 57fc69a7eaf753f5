"""How many requests a second a tenant may make: a bucket of tokens each (Turner 1986)."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

KEPT = 10_000
"""Buckets that are remembered: a tenant that is forgotten has a full one."""


class Rates:
    """The buckets of all tenants of one process.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, tenant: str, rate: float) -> float:
        """Takes a token.

        Args:
            tenant: whose.
            rate: tokens a second; twice as many in a full bucket.

        Returns:
            0 where there was one, else seconds until there is.
        """
        now, full = self._clock(), max(1.0, 2 * rate)
        tokens, last = self._buckets.get(tenant, (full, now))
        tokens = min(full, tokens + rate * (now - last))
        self._buckets[tenant] = (tokens - 1 if tokens >= 1 else tokens, now)
        self._buckets.move_to_end(tenant)
        if len(self._buckets) > KEPT:
            self._buckets.popitem(last=False)
        return 0.0 if tokens >= 1 else (1 - tokens) / rate
