"""Who comes in: no more requests at once than can be worked on. The others are turned away before anything is done for
them, which has to cost little: at three times the load that a server can bear most of what it does is to say no."""

from __future__ import annotations

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from kshot.serving.problems import MEDIA_TYPE, BusyProblemError
from kshot.serving.service import Service

ALWAYS = ("/healthz", "/readyz", "/metrics")
"""What watches a server is answered when it is full, too."""


class Door:
    """Counts the requests that are inside: predictions, and all others, so that neither keeps the other out.

    Args:
        app: what is behind it.
        service: whose `settings.queue` says how many of each may be inside.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.most = app, service.settings.queue
        self.refused = service.metrics.refused.labels("busy")
        self.inside = {True: 0, False: 0}
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
        if self.inside[kind] >= self.most:
            self.refused.inc()
            await send({"type": "http.response.start", "status": 503, "headers": self._headers})
            await send({"type": "http.response.body", "body": self._body})
            return
        self.inside[kind] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.inside[kind] -= 1
