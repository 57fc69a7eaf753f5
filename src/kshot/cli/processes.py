"""Commands that `torchrun` starts several of."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def rank() -> int:
    """Which of the processes that train together this one is; 0 for one alone, and for the one that speaks."""
    return int(os.environ.get("RANK", "0")) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Takes leave of the others at the end; after an error nobody is waited for."""
    yield
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from kshot.engine.distributed import leave

        leave()
