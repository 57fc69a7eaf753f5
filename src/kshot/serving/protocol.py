"""HTTP/1.1 by httptools, for clients that take their time: headers that do not arrive are not waited for."""

from __future__ import annotations

import asyncio
from typing import Any


def protocol(header_seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol with a limit to how long the headers of a request may take.

    A connection that was opened and says nothing, or one header line in a while, holds a place and costs its sender
    nothing ("slow loris"). Between two requests of a connection uvicorn's own limit holds (`timeout_keep_alive`).
    """
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class Impatient(HttpToolsProtocol):
        _waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._expect()

        def connection_lost(self, exc: Exception | None) -> None:
            self._arrived()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            self._expect()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._arrived()
            super().on_headers_complete()

        def _expect(self) -> None:
            self._arrived()
            self._waiting = self.loop.call_later(header_seconds, self._give_up)

        def _arrived(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

        def _give_up(self) -> None:
            if not self.transport.is_closing():
                self.transport.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                self.transport.close()

    return Impatient
