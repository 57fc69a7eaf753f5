"""Who comes in: no more requests at once than can be worked on. The others are turned away before anything is done for
them, which has to cost little: at three times the load that a server can bear most of what it does is to say no."""

from __future__ import annotations

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from kshot.serving.problems import MEDIA_TYPE, BusyProblemError
from kshot.serving.service import Service

SMALL = 65_536
"""Bytes of a body of which there may be as many inside as there are requests."""

ALWAYS = ("/healthz", "/readyz", "/metrics")
"""What watches a server is answered when it is full, too."""


class Door:
    """Counts the requests that are inside: predictions, and all others, so that neither keeps the other out; and the
    bytes of their large bodies, which would fill the memory where each alone is within its limit.

    Args:
        app: what is behind it.
        service: whose settings say how many of each may be inside (`queue`), and how many bytes (`bodies_bytes`).
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.most = app, service.settings.queue
        self.largest, self.room = service.settings.limits.body_bytes, service.settings.bodies_bytes
        self.refused = service.metrics.refused.labels("busy")
        self.inside, self.bytes = {True: 0, False: 0}, 0
        problem = BusyProblemError("more requests are being worked on than the server may take in: try again", 1.0)
        self._body = orjson.dumps(problem.document(None))
        self._headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(self._body)).encode()),
            *((name.lower().encode(), value.encode()) for name, value in problem.headers.items()),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ALWAYS:
            await self.app(scope, receive, send)
            return
        kind = scope["path"].endswith("/predict")
        size = self._size_of(scope)
        # One that is larger than all the room comes in when it is alone.
        if self.inside[kind] >= self.most or (size and self.bytes and self.bytes + size > self.room):
            self.refused.inc()
            await send({"type": "http.response.start", "status": 503, "headers": self._headers})
            await send({"type": "http.response.body", "body": self._body})
            return
        self.inside[kind] += 1
        self.bytes += size
        try:
            await self.app(scope, receive, send)
        finally:
            self.inside[kind] -= 1
            self.bytes -= size

    def _size_of(self, scope: Scope) -> int:
        """The bytes of a large body; of one that does not say how many as many as there may be; 0: a small one, or one
        that is not read, because it is too large."""
        for name, value in scope["headers"]:
            if name == b"transfer-encoding":
                return self.largest
            if name == b"content-length":
                size = int(value) if value.isdigit() else 0
                return size if SMALL < size <= self.largest else 0
        return 0
