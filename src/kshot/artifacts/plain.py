"""What JSON can say of a value."""

from __future__ import annotations

import math
from typing import Any


def finite(value: Any) -> Any:
    """The value with None, JSON's null, for every number in it that is infinite or NaN, which JSON does not have; keys
    as strings, tuples as lists."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
