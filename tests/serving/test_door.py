"""Who is turned away before anything is done for them."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl

from kshot.serving.door import Door
from kshot.serving.metrics import Metrics
from kshot.serving.protocol import protocol
from kshot.serving.settings import load_settings
from kshot.serving.shares import Shares


def answering_after(let: asyncio.Event) -> ASGIApp:
    """What is behind the door: it keeps all who came in until it may answer them."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await let.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    return app


def test_large_bodies_share_the_memory() -> None:
    async def ask() -> None:
        let = asyncio.Event()
        limits = SimpleNamespace(body_bytes=1_000_000)
        service: Any = SimpleNamespace(
            settings=SimpleNamespace(authentication="keys", queue=100, bodies_bytes=1_500_000, limits=limits),
            metrics=Metrics(),
        )
        door = Door(answering_after(let), service)
        asked: list[asyncio.Task[int]] = []

        async def status(*headers: tuple[bytes, bytes]) -> int:
            sent: list[Message] = []

            async def send(message: Message) -> None:
                sent.append(dict(message))

            await door({"type": "http", "path": "/v1/tasks", "headers": headers}, None, send)  # type: ignore[arg-type]
            return int(sent[0]["status"])

        def begin(*headers: tuple[bytes, bytes]) -> asyncio.Task[int]:
            asked.append(asyncio.ensure_future(status(*headers)))
            return asked[-1]

        begin((b"host", b"here"), (b"content-length", b"1000000"))
        begin((b"content-length", b"400000"))
        for size in (b"1000", b"65536", b"2000000", b"many"):  # small, refused unread by who reads it, or no size
            begin((b"content-length", size))
        await asyncio.sleep(0)
        assert await begin((b"content-length", b"100001")) == 503
        assert await begin((b"transfer-encoding", b"chunked")) == 503, "it may be as large as any"
        begin((b"content-length", b"100000"))
        let.set()
        assert sorted(await asyncio.gather(*asked)) == [200] * 7 + [503] * 2
        assert door.bodies.taken == 0
        # What is larger than all of the room comes in alone.
        door.bodies.most = 10
        assert await status((b"content-length", b"900000")) == 200

    asyncio.run(ask())


def test_who_has_less_than_an_equal_share_comes_in() -> None:
    shares = Shares(10)
    for _ in range(10):
        assert shares.has_room(b"many", 1)
        shares.take(b"many", 1)
    assert not shares.has_room(b"many", 1)
    for _ in range(5):
        assert shares.has_room(b"other", 1), "half of the room is its"
        shares.take(b"other", 1)
    assert not shares.has_room(b"other", 1)
    assert shares.has_room(b"third", 3)
    for _ in range(10):
        shares.take(b"many", -1)
    assert shares.taken == 5
    assert shares.has_room(b"other", 5)
    shares.take(b"other", -5)
    assert shares.has_room(b"large", 11), "alone"


def test_who_does_not_read_is_left() -> None:
    aborted: list[bool] = []

    async def ask() -> None:
        limits = load_settings(None, {"limits.body_seconds": 0.01}, {}).limits
        kind: Any = protocol(limits)
        one = kind.__new__(kind)
        one.loop, one.flow = asyncio.get_running_loop(), FlowControl(None)  # type: ignore[arg-type]
        done = asyncio.Event()

        def abort() -> None:
            aborted.append(True)
            done.set()

        left = iter([9, 9, 7, 5, 5])
        one.transport = SimpleNamespace(abort=abort, get_write_buffer_size=lambda: next(left))
        one.pause_writing()
        one.resume_writing()  # in time
        assert one._unread.cancelled()
        one.pause_writing()
        await asyncio.wait_for(done.wait(), 10)
        assert next(left, None) is None, "it was waited for as long as something was read"

    asyncio.run(ask())
    assert aborted == [True]


def test_no_more_come_in_than_can_be_worked_on() -> None:
    async def ask() -> None:
        let = asyncio.Event()
        metrics = Metrics()
        service: Any = SimpleNamespace(
            settings=SimpleNamespace(
                authentication="keys", queue=2, bodies_bytes=1, limits=SimpleNamespace(body_bytes=1)
            ),
            metrics=metrics,
        )
        door = Door(answering_after(let), service)

        def request(path: str) -> tuple[asyncio.Task[None], list[Message]]:
            sent: list[Message] = []

            async def send(message: Message) -> None:
                sent.append(dict(message))

            scope = {"type": "http", "path": path, "method": "POST", "headers": []}
            return asyncio.ensure_future(door(scope, None, send)), sent  # type: ignore[arg-type]

        inside = [request("/v1/tasks/a/predict") for _ in range(2)]
        refused, sent = request("/v1/tasks/b/predict")
        await refused
        [start, body] = sent
        assert start["status"] == 503
        headers = dict(start["headers"])
        assert headers[b"retry-after"] == b"1"
        assert headers[b"content-type"] == b"application/problem+json"
        assert json.loads(body["body"])["type"] == "urn:kshot:problem:busy"
        assert 'kshot_refused_total{reason="busy"} 1.0' in metrics.text().decode()
        # What makes tasks has room of its own, and what watches the server always has.
        others = [request("/v1/tasks"), request("/v1/tasks"), request("/healthz"), request("/metrics")]
        late, said = request("/v1/tasks")
        await late
        assert said[0]["status"] == 503
        let.set()
        await asyncio.gather(*(task for task, _ in [*inside, *others]))
        assert all(found[0]["status"] == 200 for _, found in [*inside, *others])
        again, answered = request("/v1/tasks/b/predict")
        await again
        assert answered[0]["status"] == 200, "those before have left"

    asyncio.run(ask())
