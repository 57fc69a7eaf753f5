"""The server without HTTP: its models, its database, its lanes, and who may ask what of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import text
from sqlalchemy.engine import Connection
from torch import Tensor

from kshot.errors import ArtifactError, KshotError, suggest
from kshot.serving.adapting import Adaptation, Order, adapt_together
from kshot.serving.budgets import Choice, Pace, choose
from kshot.serving.health import Seen, Watch, drift
from kshot.serving.inputs import Reader
from kshot.serving.lanes import BusyError, Lane, LateError
from kshot.serving.lookups import Gather
from kshot.serving.meter import Meter
from kshot.serving.metrics import Metrics
from kshot.serving.predicting import Answer, Question, predict_together
from kshot.serving.problems import (
    BusyProblemError,
    ConflictProblemError,
    DeadlineError,
    ForbiddenError,
    NotFoundError,
    RateError,
    UnauthenticatedError,
)
from kshot.serving.rates import Rates
from kshot.serving.registering import current_model
from kshot.serving.served import ServedModel
from kshot.serving.settings import Settings
from kshot.serving.states import State, StateCache, decode
from kshot.serving.store import access, journal, registry, tasks
from kshot.serving.store.database import Database, alone
from kshot.serving.store.rows import Principal, TaskRow, is_task
from kshot.serving.threads import compute_alone, compute_with, in_a_thread_that_ends, threads_of
from kshot.serving.vault import Vault, about_state

T = TypeVar("T")

_log = logging.getLogger("kshot.serving")

AT_ONCE = 64
"""Arrays that are read within the event loop, of at most so many rows of so many numbers: about a millisecond."""

QUIET = 1.0
"""Seconds without an adaptation until checks are done: who makes one task after the other waits for none of them."""

Lookup = tuple[bytes, str]
"""The hash of a key and the id of a task; empty where one is not asked for."""


class Service:
    """The server's state: models, database, cache, lanes.

    Args:
        settings: of the server.
        models: by name; the first one is the default.
        database: migrated.
        vault: that belongs to it.
    """

    def __init__(self, settings: Settings, models: Mapping[str, ServedModel], database: Database, vault: Vault) -> None:
        self.settings, self.database, self.vault = settings, database, vault
        self.models = dict(models)
        self.by_digest = {model.digest: model for model in models.values()}
        self.readers = {model.digest: Reader(model.learner, settings.limits) for model in models.values()}
        self.cache = StateCache(settings.cache_bytes)
        self._readings = ThreadPoolExecutor(2, thread_name_prefix="kshot-reads", initializer=compute_alone)
        self.threads = threads_of(settings)
        self.closing = False
        self.metrics, self._rates = Metrics(), Rates()
        self.watch, self.meter = Watch(), Meter()
        self._everyone: Principal | None = None
        if settings.authentication == "none":
            self._everyone = Principal(None, database.write(_default_tenant).result(), access.SCOPES)
        self._parsers = ThreadPoolExecutor(2, thread_name_prefix="kshot-parses", initializer=compute_alone)
        self._lookups = Gather(self._find, self._readings)
        self._states = Gather(self._find_states, self._readings)
        self.predictions = Lane(
            predict_together,
            room=settings.queue,
            batch=settings.batch,
            name="kshot-predict",
            begin=compute_alone,
            done=partial(self.metrics.lane, "predict"),
        )
        self.adaptations = Lane(
            adapt_together,
            room=settings.queue * 4,
            batch=settings.batch * 4,
            quiet=QUIET,
            name="kshot-adapt",
            begin=partial(compute_with, self.threads),
            done=partial(self.metrics.lane, "adapt"),
        )
        self.metrics.watch(self)
        self.paces: dict[str, Pace] = {}
        self.checking: set[str] = set()
        self._loading, self._missing = asyncio.Lock(), set[str]()
        self._later: set[asyncio.Task[None]] = set()

    def measure(self) -> None:
        """Learns how long adaptations take here, before there are any."""
        self.paces = {digest: Pace.measure(model) for digest, model in self.by_digest.items()}

    def adopt(self, model: ServedModel, pace: Pace | None = None) -> None:
        """Serves a model in place of the one of its name, whose tasks go on with it until they are adapted anew.

        Args:
            pace: how long it takes, where that was measured.
        """
        self.keep(model)
        if pace is not None:
            self.paces[model.digest] = pace
        self.models[model.name] = model

    def keep(self, model: ServedModel) -> None:
        """Answers for the tasks that a model adapted, which no new one gets."""
        self.readers[model.digest] = Reader(model.learner, self.settings.limits)
        self.by_digest[model.digest] = model

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Does something for which no request waits; it is given up when the service is closed."""
        task = asyncio.ensure_future(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def give_up(self) -> None:
        """Ends what nobody waits for."""
        for task in self._later:
            task.cancel()
        await asyncio.gather(*self._later, return_exceptions=True)

    def flush(self) -> None:
        """Writes down what was only counted so far: use, and how queries look. A killed process loses that alone."""
        self.metrics.refresh()
        with self.watch.moving:
            seen, used = self.watch.take(), self.meter.take()
            try:
                self._write_down(seen, used)
            except BaseException:
                for (task, version), one in seen.items():
                    self.watch.add(task, version, one)
                self.meter.give_back(used)
                raise
        for (task, version), one in seen.items():
            self._note_drift(task, version, one)
        if self.database.unerased:
            self.database.erase()

    def _write_down(
        self, seen: Mapping[tuple[str, int], Seen], used: Mapping[str, Mapping[tuple[str, str], float]]
    ) -> None:
        def change(connection: Connection) -> None:
            journal.add_health(connection, {of: asdict(one) for of, one in seen.items()})
            for day, amounts in used.items():
                journal.use(connection, day, amounts)

        if seen or used:
            self.database.write(change).result()

    def _note_drift(self, task: str, version: int, seen: Seen) -> None:
        state = self.cache.get(task, version)
        if state is None or state.digest not in self.by_digest:
            return
        found = drift(seen, *self.expected(state))
        if found is not None:
            self.metrics.drift.observe(found["score"])

    def close(self) -> None:
        """Finishes what was begun; the database is its opener's to close."""
        self.closing = True
        self.predictions.close()
        self.adaptations.close()
        self.flush()
        self._readings.shutdown()
        self._parsers.shutdown()

    # ---------------------------------------------------------------- who and what

    async def admit(self, secret: str | None) -> Principal:
        """Whose key it is.

        Raises:
            UnauthenticatedError: nobody's.
            RateError: the tenant's requests come too fast.
        """
        return (await self._admitted(secret, ""))[0]

    async def admit_to(self, secret: str | None, task: str) -> tuple[Principal, TaskRow]:
        """Whose key it is, and a task of that tenant's: both from one read.

        Raises:
            UnauthenticatedError, RateError: as `admit`.
            NotFoundError: there is no such task; of another tenant's nothing else is said.
        """
        principal, row = await self._admitted(secret, task if is_task(task) else "")
        return principal, _own(principal, row, task)

    async def _admitted(self, secret: str | None, task: str) -> tuple[Principal, TaskRow | None]:
        if self._everyone is not None:
            row = (await self._lookups.get((b"", task)) or (None, None))[1] if task else None
            return self._everyone, row
        if not secret:
            raise UnauthenticatedError("expected the header 'Authorization: Bearer KEY', got none")
        found, row = await self._lookups.get((access.hash_key(secret), task)) or (None, None)
        if found is None:
            raise UnauthenticatedError("expected a valid key, got one that is unknown or was revoked")
        rate = float(found.quotas.get("requests_per_second", self.settings.quotas.requests_per_second))
        self.meter.add(found.tenant, requests=1)
        seconds = self._rates.take(found.tenant, rate / self.settings.workers)
        if seconds:
            self.metrics.refused.labels("rate").inc()
            raise RateError(f"the tenant may make {rate:g} requests a second: wait {seconds:.2f} s", seconds)
        return found, row

    @staticmethod
    def allow(principal: Principal, scope: str) -> None:
        """Raises ForbiddenError where a key does not have a scope."""
        if scope not in principal.scopes:
            raise ForbiddenError(f"expected a key with the scope {scope}, got one with {', '.join(principal.scopes)}")

    async def task(self, principal: Principal, id_: str) -> TaskRow:
        """A task of the tenant's, as it is now.

        Raises:
            NotFoundError: there is none.
        """
        return _own(principal, (await self._lookups.get((b"", id_)) or (None, None))[1], id_)

    def model(self, name: str | None) -> ServedModel:
        """A model by its name, or the default one.

        Raises:
            NotFoundError: no such model.
        """
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise NotFoundError(f"there is no model {name[:64]!r}. {suggest(name[:64], self.models)}")
        return self.models[name]

    async def state(self, task: TaskRow) -> State:
        """The adapted state of the version that a task is at.

        Raises:
            NotFoundError: the task is gone.
            ConflictProblemError: its model is not served any more.
        """
        state = self.cache.get(task.id, task.version)
        if state is None:
            found = await self._states.get(task.id)
            if found is None:
                raise NotFoundError(f"there is no task {task.id}: it was deleted")
            if isinstance(found, ArtifactError):
                raise ConflictProblemError(f"the state of task {task.id} cannot be read: {found}")
            state = found
            self.cache.put(state)
        if state.digest not in self.by_digest and not await self.knows(state.digest):
            raise ConflictProblemError(
                f"the model that task {task.id} was adapted with is not served here (digest {state.digest[:12]}...): "
                "start the server with it, or make the task again"
            )
        return state

    def expected(self, state: State) -> tuple[float, dict[str, Any]]:
        """What a task's queries are judged by: the reference of its state, and what was calibrated on tasks like it."""
        calibration = self.by_digest[state.digest].calibrated(len(state.numbers) / len(state.labels))
        return state.info.get("reference", 0.0), calibration

    async def knows(self, digest: str) -> bool:
        """Whether a model can be asked; one that another process has begun to serve is loaded for it."""
        if digest in self.by_digest:
            return True
        async with self._loading:
            known = None if digest in self.by_digest else await self.reading(registry.of_digest, digest)
            if known is not None and known.path not in self._missing:
                try:
                    load = partial(in_a_thread_that_ends, partial(current_model, known), self.threads)
                    self.keep(await asyncio.to_thread(load))
                except KshotError as error:
                    self._missing.add(known.path)
                    _log.error("not loaded", extra={"model": known.name, "digest": digest, "reason": str(error)})
        return digest in self.by_digest

    def quotas(self, principal: Principal) -> dict[str, int]:
        """How many tasks, examples and bytes a tenant may store."""
        base = self.settings.quotas
        return {name: principal.quotas.get(name, getattr(base, name)) for name in ("tasks", "examples", "bytes")}

    def choose(
        self, name: str | None, labels: Sequence[str], options: dict[str, Any], latency_ms: float | None
    ) -> Choice:
        """What adapts to examples with these labels: the model that is named, or the default one; within a budget
        whichever does it best.

        Raises:
            NotFoundError: no such model.
            BudgetError: nothing fits.
        """
        if latency_ms is None:
            return Choice(self.model(name), options)
        asked = options.get("steps")
        models = [self.model(name)] if name is not None or options else list(self.models.values())
        wait, examples = self.adaptations.expected, max(1, len(labels))
        most = self.settings.limits.steps
        return choose(models, self.paces, latency_ms / 1000, wait, examples, len(set(labels)), asked, most)

    # ---------------------------------------------------------------- prediction

    async def predict(
        self, principal: Principal, state: State, x: Tensor, *, nearest: int = 0, deadline: float | None = None
    ) -> Answer:
        """What a task says of queries (as they are stored).

        Raises:
            BusyProblemError, DeadlineError, InputError.
        """
        model = self.by_digest[state.digest]
        question = Question(state, model, x, nearest)
        answer: Answer = await self.compute(self.predictions, question, principal, len(x), deadline)
        return answer

    async def compute(self, lane: Lane[Any], work: Any, principal: Principal, size: int, deadline: float | None) -> Any:
        try:
            return await lane.do(work, tenant=principal.tenant, size=size, deadline=deadline)
        except BusyError as error:
            self.metrics.refused.labels("busy").inc()
            raise BusyProblemError(
                f"more examples wait than the server may keep waiting; try again in about {error.seconds:.1f} s",
                error.seconds,
            ) from None
        except LateError:
            raise DeadlineError("the deadline passed before the server came to it: ask for longer, or less") from None

    async def compute_when_idle(self, order: Order, principal: Principal) -> Adaptation:
        """An adaptation for which nobody waits; what the learner raises comes from here."""
        found: Adaptation = await self.adaptations.do_when_idle(order, tenant=principal.tenant, size=order.size)
        return found

    async def read(self, reader: Reader, items: Sequence[Any], what: str) -> Tensor:
        """Examples of a request as they are stored: arrays at once, files in a thread, where decoding them keeps no
        other request waiting.

        Raises:
            InputError: as `Reader.read`.
        """
        if len(items) <= AT_ONCE and all(isinstance(item, dict) and _is_small(item.get("x")) for item in items):
            return reader.read(items, what)
        return await self.parsing(reader.read, items, what)

    async def writing(self, change: Callable[[Connection], T]) -> T:
        """What a change gives, once it is committed."""
        return await asyncio.wrap_future(self.database.write(change))

    async def parsing(self, function: Callable[..., T], *arguments: Any) -> T:
        """What a function gives that reads what a request holds, in a thread: decoding images takes its time."""
        return await asyncio.get_running_loop().run_in_executor(self._parsers, function, *arguments)

    async def problems(self) -> list[str]:
        """Why requests cannot be answered; nothing where they can."""
        try:
            await self.reading(lambda connection: connection.execute(text("SELECT 1")).scalar_one())
        except Exception as error:
            return [f"the database does not answer: {type(error).__name__}"]
        return ["the server is ending"] if self.closing else []

    async def reading(self, function: Callable[..., T], *arguments: Any) -> T:
        def read() -> T:
            with self.database.reading() as connection:
                return function(connection, *arguments)

        return await asyncio.get_running_loop().run_in_executor(self._readings, read)

    # ---------------------------------------------------------------- reads, in a thread

    def _find(self, asked: list[Lookup]) -> Mapping[Lookup, tuple[Principal | None, TaskRow | None]]:
        hashes, ids = {hash_ for hash_, _ in asked if hash_}, {id_ for _, id_ in asked if id_}
        with self.database.reading() as connection:
            principals = access.principals(connection, hashes) if hashes else {}
            tenants = {one.tenant for one in principals.values()} if all(hash_ for hash_, _ in asked) else None
            rows = tasks.find(connection, ids, tenants) if ids else {}
        return {(hash_, id_): (principals.get(hash_), rows.get(id_)) for hash_, id_ in asked}

    def _find_states(self, ids: list[str]) -> Mapping[str, State | ArtifactError]:
        with self.database.reading() as connection:
            found = tasks.load_states(connection, ids)
        return {id_: self._opened(id_, sealed) for id_, (_, _, sealed) in found.items()}

    def _opened(self, task: str, sealed: bytes) -> State | ArtifactError:
        try:
            return decode(self.vault.open(sealed, about_state(task)))
        except ArtifactError as error:  # of this task: others that are read with it know nothing of it
            return error


def _is_small(x: Any) -> bool:
    return type(x) is list and len(x) <= AT_ONCE and all(type(row) is not list or len(row) <= AT_ONCE for row in x)


def _own(principal: Principal, row: TaskRow | None, id_: str) -> TaskRow:
    if row is None or row.tenant != principal.tenant:
        raise NotFoundError(f"there is no task {id_[:64]}: GET /v1/tasks lists those that there are")
    return row


def _default_tenant(connection: Connection) -> str:
    alone(connection)
    return access.find_tenant(connection, access.DEFAULT) or access.create_tenant(connection, access.DEFAULT)
