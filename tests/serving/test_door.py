"""Who is turned away before anything is done for them."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from kshot.serving.door import Door
from kshot.serving.metrics import Metrics


def test_no_more_come_in_than_can_be_worked_on() -> None:
    async def ask() -> None:
        let = asyncio.Event()

        async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
            await let.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        metrics = Metrics()
        service: Any = SimpleNamespace(settings=SimpleNamespace(queue=2), metrics=metrics)
        door = Door(app, service)

        def request(path: str) -> tuple[asyncio.Task[None], list[Message]]:
            sent: list[Message] = []

            async def send(message: Message) -> None:
                sent.append(dict(message))

            scope = {"type": "http", "path": path, "method": "POST"}
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
