"""Who comes in: no more requests at once than can be worked on. The others are turned away before anything is done for
them, which has to cost little: at three times the load that a server can bear most of what it does is to say no."""

from __future__ import annotations

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from kshot.serving.problems import MEDIA_TYPE, BusyProblemError
from kshot.serving.service import Service
from kshot.serving.shares import Shares

SMALL = 65_536
"""Bytes of a body of which there may be as many inside as there are requests."""

ALWAYS = ("/healthz", "/readyz", "/metrics")
"""What watches a server is answered when it is full, too."""


class Door:
    """Counts the requests that are inside: predictions, and all others, so that neither keeps the other out; and the
    bytes of their large bodies, which would fill the memory where each alone is within its limit. When it is full, who
    has less inside than an equal share still comes in: nobody keeps all others out. Who somebody is the key says that
    a request shows; that it is a valid one is found out before a body is read.

    Args:
        app: what is behind it.
        service: whose settings say how many of each may be inside (`queue`), and how many bytes (`bodies_bytes`).
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.largest = app, service.settings.limits.body_bytes
        self.refused = service.metrics.refused.labels("busy")
        self.keys = service.settings.authentication == "keys"
        self.predictions, self.others = Shares(service.settings.queue), Shares(service.settings.queue)
        self.bodies = Shares(service.settings.bodies_bytes)
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
        requests = self.predictions if scope["path"].endswith("/predict") else self.others
        who, size = self._who_and_size(scope)
        if not (requests.has_room(who, 1) and (not size or self.bodies.has_room(who, size))):
            self.refused.inc()
            await send({"type": "http.response.start", "status": 503, "headers": self._headers})
            await send({"type": "http.response.body", "body": self._body})
            return
        requests.take(who, 1)
        if size:
            self.bodies.take(who, size)
        try:
            await self.app(scope, receive, send)
        finally:
            requests.take(who, -1)
            if size:
                self.bodies.take(who, -size)

    def _who_and_size(self, scope: Scope) -> tuple[bytes, int]:
        """The key of a request, and the bytes of a large body; of one that does not say how many as many as there may
        be; 0: a small one, or one that is not read, because it is too large."""
        who, size = b"", 0
        for name, value in scope["headers"]:
            if name == b"authorization":
                who = value.partition(b" ")[2].strip() if self.keys else b""
            elif name == b"transfer-encoding":
                size = self.largest
            elif name == b"content-length" and not size:
                size = int(value) if value.isdigit() else 0
        return who, size if SMALL < size <= self.largest else 0
