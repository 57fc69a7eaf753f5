"""Ctrl-C and SIGTERM end a training between two steps, not within one."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from kshot.errors import LostProcessError


class Interrupts:
    """While the block lasts, the first SIGINT or SIGTERM is noted in `asked`; a second one raises KeyboardInterrupt.

    Outside the main thread, where Python gives no signals, nothing is changed; a signal that the process ignores (a
    background job's SIGINT) stays ignored.

    Args:
        say: told what is going on.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.asked = False
        self._say = say
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Where one of several processes is lost, torchrun ends the others: they end by themselves, and say why.
        lost = kind is not None and issubclass(kind, LostProcessError)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if lost and number == signal.SIGTERM else handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt("stopped at once; the last checkpoint is intact")
        self.asked = True
        message = f"{signal.Signals(number).name}: finishing this step, then saving. Once more to stop at once."
        try:
            self._say(message)
        except RuntimeError:  # it came in the middle of a write to the same stream, which cannot be entered twice
            with contextlib.suppress(OSError, ValueError, AttributeError):  # without a stderr the signal still counts
                os.write(sys.__stderr__.fileno(), f"{message}\n".encode())  # type: ignore[union-attr]
