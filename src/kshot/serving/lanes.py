"""A thread that computes for many tenants at once.

Jobs wait in a line for each tenant. A batch takes one job from each line in turn, so that a tenant that asks for much
waits behind its own jobs and not others behind them. What nobody waits for is run one by one, when there has been
nothing else to do for a while: a job that has begun is not interrupted, and who comes then waits for it. What does not
fit into the waiting room is refused at once: a queue that grows only makes everyone late.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from kshot.serving.shares import Shares

Work = TypeVar("Work")


class BusyError(Exception):
    """More waits than may.

    Attributes:
        seconds: until what waits now is done, about.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"busy for about {seconds:.1f} s")
        self.seconds = seconds


class LateError(Exception):
    """A job's deadline passed while it waited."""


@dataclass(eq=False)
class _Job(Generic[Work]):
    work: Work
    tenant: str
    size: int
    deadline: float | None
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    put: float = field(default_factory=time.perf_counter)


class Lane(Generic[Work]):
    """One thread, its lines of waiting jobs, and what it does with a batch of them.

    Args:
        run: what a batch of jobs gives, one result each; an exception in place of a result is that job's alone.
        room: the sum of the sizes of jobs that may wait.
        batch: the sum of the sizes that are run at once, about.
        quiet: seconds without a job until one is run that nobody waits for.
        patience: seconds after which such a job waits for no quiet any more, but only for its turn.
        name: of the thread.
        begin: called in the thread, first of all.
        done: told of each batch: its jobs, its size, how long each waited, how long the batch took.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Work]], Sequence[Any]],
        *,
        room: int,
        batch: int,
        quiet: float = 0.0,
        patience: float = 60.0,
        name: str,
        begin: Callable[[], None] = lambda: None,
        done: Callable[[int, int, list[float], float], None] = lambda *_: None,
    ) -> None:
        self._run, self._room, self.batch, self._done = run, Shares(room), batch, done
        self._begin = begin
        self._quiet, self._patience, self._last = quiet, patience, -math.inf
        self._lines: OrderedDict[str, deque[_Job[Work]]] = OrderedDict()
        self._idle: deque[_Job[Work]] = deque()
        self._condition = threading.Condition()
        self._closed = False
        self._pace = 0.0  # seconds for a unit of size, a running mean
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def do_when_idle(self, work: Work, *, tenant: str, size: int = 1) -> Any:
        """The result of a job for which nobody waits: it takes no room, and its turn comes when no other job waits.

        Raises:
            BusyError: the lane is closed.
        """
        loop = asyncio.get_running_loop()
        job = _Job(work, tenant, size, None, loop.create_future(), loop)
        with self._condition:
            if self._closed:
                raise BusyError(0.1)
            self._idle.append(job)
            self._condition.notify()
        return await job.future

    async def do(self, work: Work, *, tenant: str, size: int = 1, deadline: float | None = None) -> Any:
        """The result of a job.

        Args:
            work: what `run` gets.
            tenant: whose line it waits in.
            size: how much it is, in examples.
            deadline: on the clock of `time.perf_counter`: when it need not be begun any more.

        Raises:
            BusyError: there is no room.
            LateError: the deadline passed before it was begun.
        """
        loop = asyncio.get_running_loop()
        job = _Job(work, tenant, size, deadline, loop.create_future(), loop)
        with self._condition:
            if self._closed or not self._room.has_room(tenant, size):
                raise BusyError(max(0.1, self.expected))
            self._lines.setdefault(tenant, deque()).append(job)
            self._room.take(tenant, size)
            self._condition.notify()
        return await job.future

    @property
    def waiting(self) -> int:
        """The sum of the sizes of jobs that wait."""
        return self._room.taken

    @property
    def expected(self) -> float:
        """Seconds until what waits now is done, about."""
        return self._pace * self.waiting

    def close(self) -> None:
        """Finishes what waits, and takes nothing more."""
        with self._condition:
            self._closed = True
            self._idle.clear()
            self._condition.notify()
        self._thread.join()

    def _work(self) -> None:
        self._begin()
        while True:
            with self._condition:
                while not self._lines and not self._closed and (left := self._until_idle()) > 0:
                    self._condition.wait(None if left == math.inf else left)
                idle = not self._lines
                if not idle:
                    jobs = self._take()
                elif self._idle:
                    jobs = [self._idle.popleft()]
                else:
                    return
            self._compute(jobs)
            if not idle:
                self._last = time.perf_counter()

    def _until_idle(self) -> float:
        """Seconds until a job may be run that nobody waits for; none where there is no such job."""
        if not self._idle:
            return math.inf
        return min(self._last + self._quiet, self._idle[0].put + self._patience) - time.perf_counter()

    def _take(self) -> list[_Job[Work]]:
        """One job of each tenant in turn until the batch is full."""
        jobs: list[_Job[Work]] = []
        size = 0
        while self._lines:
            tenant, line = next(iter(self._lines.items()))
            if jobs and size + line[0].size > self.batch:
                break
            job = line.popleft()
            if line:
                self._lines.move_to_end(tenant)  # behind the others
            else:
                del self._lines[tenant]
            self._room.take(tenant, -job.size)
            if not job.future.cancelled():
                jobs.append(job)
                size += job.size
        return jobs

    def _compute(self, jobs: list[_Job[Work]]) -> None:
        began = time.perf_counter()
        results: list[tuple[_Job[Work], Any]] = [
            (job, LateError()) for job in jobs if job.deadline is not None and job.deadline < began
        ]
        late = {id(job) for job, _ in results}
        jobs = [job for job in jobs if id(job) not in late]
        if jobs:
            try:
                results += zip(jobs, self._run([job.work for job in jobs]), strict=True)
            except Exception as error:
                results += [(job, error) for job in jobs]
            seconds, size = time.perf_counter() - began, sum(job.size for job in jobs)
            self._pace = seconds / size if not self._pace else 0.9 * self._pace + 0.1 * seconds / size
            self._done(len(jobs), size, [began - job.put for job in jobs], seconds)
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Job[Work], Any]]] = {}
        for job, result in results:
            by_loop.setdefault(job.loop, []).append((job, result))
        for loop, those in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_resolve, those)  # once a batch: waking a loop is what costs


def _resolve(results: list[tuple[_Job[Any], Any]]) -> None:
    for job, result in results:
        if job.future.done():  # its request is gone
            continue
        if isinstance(result, BaseException):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)
