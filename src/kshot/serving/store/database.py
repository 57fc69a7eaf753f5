"""The connection to a database: SQLite in a file, or PostgreSQL.

Writes are functions of a connection. They run one after another in a thread of their own; those that wait together are
committed together, each within a savepoint, so that a failing one takes nothing of the others with it, and a hundred
writes wait for the disk once. A write's result is there only when it is committed.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from kshot.databases import address
from kshot.errors import RunError

T = TypeVar("T")

MOST_TOGETHER = 128
"""Writes of one transaction at most."""

_ENDED = ("40001", "40P01")
"""PostgreSQL's states of a transaction that it ended for the sake of another: serialization failure, deadlock."""

_LOCK = 0x6B73686F74
"""Of PostgreSQL's advisory locks the one that replicas take to do something one at a time."""

_Write = tuple[Callable[[Connection], Any], "Future[Any]"]


def alone(connection: Connection) -> None:
    """Until the transaction ends nobody else goes beyond this: what is there to be found once for all replicas is
    looked for and made within it. SQLite has one writer at a time anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


class _AgainError(Exception):
    """Nothing was done, and may be tried again."""


class Database:
    """One database of a server; a process has one.

    Args:
        url: `sqlite:///path`, or `postgresql+psycopg://user:password@host/name`.

    Attributes:
        embedded: whether it is SQLite.
        unerased: whether `erase` has to be called again: somebody was reading.

    Raises:
        ConfigError: no such address.
        RunError: the database cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        parsed = address(url)
        self.engine = _engine(parsed)
        self.embedded = parsed.get_backend_name() == "sqlite"
        self.unerased = False
        try:
            if self.embedded and parsed.database not in (None, "", ":memory:"):
                Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
            with self.engine.connect():
                pass
        except (OperationalError, OSError) as error:
            reason = " ".join(str(getattr(error, "orig", error)).split())
            raise RunError(f"the database {parsed.render_as_string()} cannot be reached: {reason}") from error
        # By default PostgreSQL shows each statement what is committed by then.
        level = {} if self.embedded else {"isolation_level": "REPEATABLE READ"}
        self._reads = self.engine.execution_options(reads=True, **level)
        self._waiting: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="kshot-writes", daemon=True)
        self._begun = threading.Lock()

    # ---------------------------------------------------------------- reading and writing

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one committed state throughout the block."""
        with self._reads.connect() as connection:
            yield connection

    def write(self, change: Callable[[Connection], T]) -> Future[T]:
        """What `change` returns, once it is committed; what it raises, with nothing of it done.

        A change must not commit by itself, and may run more than once: a transaction that the database ends for the
        sake of another process's is begun again.
        """
        with self._begun:
            if not self._thread.is_alive():
                self._thread.start()
        future: Future[T] = Future()
        self._waiting.put((change, future))
        return future

    def erase(self) -> None:
        """Takes what was deleted out of SQLite's write-ahead log. Freed pages were overwritten with zeros before
        (`secure_delete`); what PostgreSQL keeps of a deleted row is sealed, and goes with its vacuum."""
        if not self.embedded:
            return
        connection = self.engine.raw_connection()
        try:
            # Waits for readers of older states (busy_timeout); an export may take longer than that.
            busy, *_ = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            connection.close()
        self.unerased = bool(busy)

    def close(self) -> None:
        """Commits what waits, and closes all connections."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()
        self.engine.dispose()

    # ---------------------------------------------------------------- the thread

    def _work(self) -> None:
        while True:
            item = self._waiting.get()
            group = []
            while item is not None:
                group.append(item)
                if len(group) == MOST_TOGETHER:
                    break
                try:
                    item = self._waiting.get_nowait()
                except queue.Empty:
                    break
            self._commit(group)
            if item is None:
                return

    def _commit(self, group: list[_Write]) -> None:
        group = [write for write in group if write[1].set_running_or_notify_cancel()]
        if not group:
            return
        try:
            results = self._transaction(group)
        except _AgainError:  # another process was in the way: one by one nothing of ours is
            for write in group:
                self._alone(write)
            return
        except BaseException as error:  # nothing of the group is there
            for _, future in group:
                future.set_exception(error)
            return
        for (_, future), (value, problem) in zip(group, results, strict=True):
            _resolve(future, value, problem)

    def _alone(self, write: _Write, tries: int = 5) -> None:
        for left in reversed(range(tries)):
            try:
                [(value, problem)] = self._transaction([write])
            except _AgainError as error:
                if not left:
                    write[1].set_exception(error.__cause__ or error)
                continue
            except BaseException as error:
                write[1].set_exception(error)
                return
            _resolve(write[1], value, problem)
            return

    def _given_up(self, connection: Connection) -> bool:
        """Whether SQLite ended the whole transaction by itself, as it does when a disk is full or fails: what was
        written before is undone, and what is written after would be committed by itself."""
        return self.embedded and not connection.connection.driver_connection.in_transaction  # type: ignore[union-attr]

    def _transaction(self, group: list[_Write]) -> list[tuple[Any, Exception | None]]:
        results: list[tuple[Any, Exception | None]] = []
        with self.engine.connect() as connection:
            transaction = connection.begin()
            for change, _ in group:
                try:
                    # A single one takes all that is begun with it anyway.
                    with connection.begin_nested() if len(group) > 1 else contextlib.nullcontext():
                        value = change(connection)
                    results.append((value, None))
                except DBAPIError as error:
                    if error.connection_invalidated or getattr(error.orig, "sqlstate", None) in _ENDED:
                        raise _AgainError from error
                    results.append((None, error))
                except Exception as error:
                    results.append((None, error))
                if len(group) > 1 and self._given_up(connection):
                    raise _AgainError from results[-1][1]
            if len(group) == 1 and results[0][1] is not None:
                transaction.rollback()
                return results
            # What fails from here on is not begun again: it may have been done.
            transaction.commit()
        return results


def _resolve(future: Future[Any], value: Any, problem: Exception | None) -> None:
    if problem is None:
        future.set_result(value)
    else:
        future.set_exception(problem)


def _engine(url: sa.URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        return sa.create_engine(url, pool_size=4, max_overflow=4, pool_pre_ping=True)
    engine = sa.create_engine(url, connect_args={"timeout": 30, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # Python's sqlite3 begins no transactions by itself: `_begin` does
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",  # an acknowledged write survives the machine's end, not the process's alone
            "foreign_keys=ON",
            "secure_delete=ON",
            "busy_timeout=30000",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # Immediate: a deferred transaction that begins by reading cannot always become a writing one.
        connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("reads") else "BEGIN IMMEDIATE")

    return engine
