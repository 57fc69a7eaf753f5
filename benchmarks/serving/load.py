"""The load of `benchmarks/serving`, in a process of its own: prepared bytes are sent, statuses and lengths read.

    python benchmarks/serving/load.py SPEC.json      # prints its findings as a line of JSON

Closed loop: each connection sends its next request when it has the answer to the last one. Open loop: requests fall due
at random moments (a Poisson process), whether or not the server keeps up, and a latency begins when its request falls
due, so that waiting for a free connection counts.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass
class Spec:
    """What to send.

    Attributes:
        port: of the server, on this machine.
        requests: whole HTTP/1.1 requests in ASCII, sent in turn.
        connections: that are kept open.
        seconds: for which requests are sent.
        rate: requests a second of an open loop; None: a closed one.
        warm: seconds at the beginning that are not counted.
    """

    port: int
    requests: list[str]
    connections: int
    seconds: float
    rate: float | None = None
    warm: float = 0.5

    def save(self, path: Path) -> Path:
        """For the load's process."""
        path.write_text(json.dumps(asdict(self)))
        return path


class Connection(asyncio.Protocol):
    """One keep-alive connection; `free` is told when its answer is there."""

    def __init__(self, answered: Callable[[Connection, int], None]) -> None:
        self._answered, self._buffer, self._needs = answered, bytearray(), 0
        self.due = 0.0
        self.open = False

    def connection_made(self, transport: Any) -> None:
        self.transport, self.open = transport, True

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) < self._needs:
            return
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        lower = bytes(self._buffer[:head]).lower()
        at = lower.find(b"content-length: ")
        self._needs = head + 4 + int(lower[at + 16 :].split(b"\r\n", 1)[0])
        if len(self._buffer) < self._needs:
            return
        status = int(lower[9:12])
        self._buffer.clear()
        self._needs = 0
        self._answered(self, status)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False


async def run(spec: Spec) -> dict[str, Any]:
    """Statuses, answers a second, and latencies in seconds of those that were not refused."""
    loop = asyncio.get_running_loop()
    statuses: Counter[int] = Counter()
    latencies: list[float] = []
    refusals: list[float] = []
    turn, requests = 0, [one.encode() for one in spec.requests]
    free: deque[Connection] = deque()
    due: deque[float] = deque()
    end = begin = 0.0

    def next_request() -> bytes:
        nonlocal turn
        turn += 1
        return requests[(turn - 1) % len(requests)]

    def answered(connection: Connection, status: int) -> None:
        now = time.perf_counter()
        if begin <= connection.due and now <= end:
            statuses[status] += 1
            (latencies if status < 300 else refusals).append(now - connection.due)
        if spec.rate is None:
            if now < end:
                connection.send(next_request(), now)
        elif due:
            connection.send(next_request(), due.popleft())
        else:
            free.append(connection)

    connections: list[Connection] = []
    for _ in range(spec.connections):
        _, made = await loop.create_connection(lambda: Connection(answered), "127.0.0.1", spec.port)
        connections.append(made)
    begin = time.perf_counter() + spec.warm
    end = begin + spec.seconds
    if spec.rate is None:
        for connection in connections:
            connection.send(next_request(), time.perf_counter())
        await asyncio.sleep(end - time.perf_counter())
    else:
        free.extend(connections)
        clock, chance = time.perf_counter(), random.Random(0)
        while clock < end:
            await asyncio.sleep(max(0.0, clock - time.perf_counter()))
            while clock <= time.perf_counter():
                if free:
                    free.popleft().send(next_request(), clock)
                else:
                    due.append(clock)
                clock += chance.expovariate(spec.rate)
    waiting, lost = len(due), sum(not c.open for c in connections)
    await asyncio.sleep(0.2)
    for connection in connections:
        connection.transport.close()
    return {
        "rate": len(latencies) / spec.seconds,
        "statuses": {str(status): number for status, number in sorted(statuses.items())},
        "latency": quantiles(latencies),
        "refused_latency": quantiles(refusals),
        "never_sent": waiting,
        "lost_connections": lost,
    }


def quantiles(values: list[float]) -> dict[str, float] | None:
    """Milliseconds."""
    if not values:
        return None
    values = sorted(values)

    def at(q: float) -> float:
        return round(1000 * values[min(len(values) - 1, int(q * len(values)))], 3)

    return {"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1.0)}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(Spec(**json.loads(Path(sys.argv[1]).read_text()))))))
