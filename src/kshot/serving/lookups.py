"""Reads that many requests need at once: who a key belongs to, what a task is, its adapted state.

Requests that arrive while the database is being read are answered together by the next read. So every request is
checked against what is committed, none against what was true a moment ago, and a busy server makes no more reads than a
quiet one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Gather(Generic[Key, Value]):
    """Answers single questions by asking many at once.

    Args:
        find: the values of those keys that have one; runs in a thread.
        threads: where.
        most: keys of one read.
    """

    def __init__(
        self, find: Callable[[list[Key]], Mapping[Key, Value]], threads: ThreadPoolExecutor, most: int = 500
    ) -> None:
        self._find, self._threads, self._most = find, threads, most
        self._asked: dict[Key, asyncio.Future[Value | None]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def get(self, key: Key) -> Value | None:
        """The value of a key as of a read that began after this call; None where it has none."""
        future = self._asked.get(key)
        if future is None:
            future = self._asked[key] = asyncio.get_running_loop().create_future()
        if self._reading is None or self._reading.done():
            self._reading = asyncio.ensure_future(self._read())
        return await asyncio.shield(future)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while self._asked:
            keys = list(self._asked)[: self._most]
            asked = {key: self._asked.pop(key) for key in keys}
            try:
                found = await loop.run_in_executor(self._threads, self._find, keys)
            except Exception as error:
                for future in asked.values():
                    future.set_exception(error)
                    future.exception()  # whoever asked may be gone: no warning then
                continue
            for key, future in asked.items():
                future.set_result(found.get(key))
