"""A choice that holds for what a block calls, however deep, and in its thread alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Switch:
    """Off, but within `with switch.set():`.

    >>> loud = Switch("loud")
    >>> with loud.set():
    ...     loud.on
    True
    >>> loud.on
    False

    Args:
        name: for debuggers.
    """

    def __init__(self, name: str) -> None:
        self._value: ContextVar[bool] = ContextVar(name, default=False)

    @property
    def on(self) -> bool:
        return self._value.get()

    @contextmanager
    def set(self, on: bool = True) -> Iterator[None]:
        token = self._value.set(on)
        try:
            yield
        finally:
            self._value.reset(token)


single_task = Switch("single task")
"""On where tasks take turns and no `vmap` is under way: layers may take kernels and memory formats that it does not
know."""

differentiated_twice = Switch("differentiated twice")
"""On where the gradient of what is computed will be differentiated itself: second derivatives of some kernels are
slow."""
