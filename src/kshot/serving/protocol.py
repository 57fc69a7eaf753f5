"""HTTP/1.1 by httptools, for clients that take their time: what does not arrive is not waited for."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from kshot.serving.problems import MEDIA_TYPE, SlowError
from kshot.serving.settings import Limits


def protocol(limits: Limits) -> type[asyncio.Protocol]:
    """uvicorn's protocol with a limit to how long the headers of a request may take, how long its body, and how long
    its sender may leave an answer unread.

    A connection that was opened and says nothing, or one header line in a while, holds a place and costs its sender
    nothing ("slow loris"); so does one whose answer is not read. Between two requests of a connection uvicorn's own
    limit holds (`timeout_keep_alive`).
    """
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class Impatient(HttpToolsProtocol):
        _late: asyncio.TimerHandle | None = None
        _for: str | None = None  # what is timed: "headers" or "body"
        _needs: str | None = "headers"  # what is to come next
        _unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._time()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch(math.inf)

        def _watch(self, before: float) -> None:
            """Leaves who has read nothing for so long."""
            left = self.transport.get_write_buffer_size()
            if left < before:
                self._unread = self.loop.call_later(limits.body_seconds, self._watch, left)
            else:
                self.transport.abort()

        def resume_writing(self) -> None:
            if self._unread is not None:
                self._unread.cancel()
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._unread is not None:
                self._unread.cancel()
            self._needs = None
            self._time()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._time()  # a request that came whole needs no timer

        def on_message_begin(self) -> None:
            self._needs = "headers"
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._needs = "body"
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._needs = None
            super().on_message_complete()

        def _time(self) -> None:
            if self._for == self._needs:
                return
            if self._late is not None:
                self._late.cancel()
                self._late = None
            self._for = self._needs
            if self._for is not None:
                seconds = limits.header_seconds if self._for == "headers" else limits.body_seconds
                self._late = self.loop.call_later(seconds, self._give_up, self._for, seconds)

        def _give_up(self, what: str, seconds: float) -> None:
            begun = what == "body" and self.cycle is not None and self.cycle.response_started
            if not self.transport.is_closing():
                if not begun:
                    self.transport.write(_late_answer(f"expected the {what} within {seconds:g} s"))
                self.transport.close()

    return Impatient


def _late_answer(text: str) -> bytes:
    import orjson

    body = orjson.dumps(SlowError(text).document(None))
    head = f"HTTP/1.1 408 Request Timeout\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}"
    return f"{head}\r\nconnection: close\r\n\r\n".encode() + body
