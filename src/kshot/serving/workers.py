"""Several processes that answer at one port: each a whole server over the same database.

The parent binds the port and watches: a worker that ends by itself is started again, and when the parent is told to
end, or is killed, the workers finish what they began and end with it.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing as mp
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from kshot.errors import RunError

SHORT = 10.0
"""Seconds: a worker that ends sooner did not come up."""

TRIES = 3
"""How often in a row a worker may not come up before all is given up."""

PATIENCE = 60.0
"""Seconds that a worker may take to finish what it began."""

_log = logging.getLogger("kshot.serving")

Worker = Callable[[socket.socket], None]


def run_workers(work: Worker, bound: socket.socket, count: int) -> None:
    """Runs `work(bound)` in so many processes until SIGTERM or Ctrl-C.

    Args:
        work: picklable; serves at the socket until SIGTERM.
        bound: the socket.
        count: of processes.

    Raises:
        RunError: they do not come up.
    """
    with tempfile.TemporaryDirectory(prefix="kshot-metrics-") as folder:
        # Counters of all workers, which any of them can tell: prometheus_client reads this when it is imported.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        try:
            _Workers(work, bound, count).run()
        finally:
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]


class _Workers:
    def __init__(self, work: Worker, bound: socket.socket, count: int) -> None:
        self.work, self.bound, self.count = work, bound, count
        self.processes: dict[BaseProcess, float] = {}
        self.ending = threading.Event()
        self.short = 0

    def run(self) -> None:
        before = {
            number: signal.signal(number, lambda *_: self.ending.set()) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            for _ in range(self.count):
                self.start()
            while not self.ending.is_set():
                wait([process.sentinel for process in self.processes], timeout=0.5)
                self.restart()
        finally:
            self.end()
            for number, handler in before.items():
                signal.signal(number, handler)

    def start(self) -> None:
        process = mp.get_context("spawn").Process(target=_run, args=(self.work, self.bound))
        process.start()
        self.processes[process] = time.monotonic()

    def restart(self) -> None:
        for process, began in list(self.processes.items()):
            if process.is_alive() or self.ending.is_set():
                continue
            _forget(process)
            del self.processes[process]
            _log.error("a worker ended", extra={"pid": process.pid, "exit": process.exitcode})
            self.short = self.short + 1 if time.monotonic() - began < SHORT else 0
            if self.short >= TRIES:
                raise RunError(
                    f"{TRIES} workers in a row ended within {SHORT:g} s of their start (exit code {process.exitcode}): "
                    "the log says why; kshot serve without --workers shows one alone"
                )
            self.start()

    def end(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ValueError):
                process.terminate()
        for process in self.processes:
            process.join(PATIENCE)
            if process.exitcode is None:
                process.kill()
                process.join()


def _forget(process: BaseProcess) -> None:
    """What a worker that is gone had in its gauges counts no more."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(process.pid)  # type: ignore[no-untyped-call]


def _run(work: Worker, bound: socket.socket) -> None:
    parent = mp.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="kshot-parent", daemon=True).start()
    work(bound)
