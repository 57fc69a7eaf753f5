"""Commands that `torchrun` starts several of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from kshot.processes import place


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Takes leave of the others at the end; after an error nobody is waited for."""
    yield
    if place().size > 1:
        from kshot.engine.distributed import leave

        leave()
