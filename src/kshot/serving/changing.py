"""Tasks made, changed and erased: each change with its line of the audit log and its kept answer, or not at all."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError
from torch import Tensor

from kshot.serving.adapting import Adaptation
from kshot.serving.checking import UNKNOWN, check
from kshot.serving.looking import document, unchecked
from kshot.serving.making import Member, adapted_state, kept_examples
from kshot.serving.payloads import pack_example, unpack_example
from kshot.serving.predicting import describe
from kshot.serving.problems import (
    ConflictProblemError,
    IdempotencyError,
    NotFoundError,
    ProblemError,
    QuotaProblemError,
    SupportProblemError,
)
from kshot.serving.served import ServedModel
from kshot.serving.service import Service
from kshot.serving.states import State, encode
from kshot.serving.store import access, journal, registry, tasks
from kshot.serving.store.rows import (
    ConflictError,
    ExampleRow,
    GoneError,
    Principal,
    QuotaError,
    TaskRow,
    VersionRow,
    new_id,
    now,
)
from kshot.serving.vault import about_example, about_feedback, about_state

GIVEN_UP = 600.0
"""Seconds after which a check that is not done is one that was lost with its process."""

MOST_CHECKS = 64
"""Tasks that wait to be checked, each with its examples; one more is checked when somebody looks at it later."""

TRIES = 4
"""How often a change is done again that somebody else's change came before."""


@dataclass(frozen=True)
class Edited:
    """The examples of a task's next version.

    Attributes:
        members: all of them.
        added: those that are new.
        removed: numbers of those that are to be erased.
        pool: examples that are none of the task's, of which it is asked which to label.
    """

    members: list[Member]
    added: Sequence[Member] = ()
    removed: Sequence[int] = ()
    pool: Tensor | None = None


Edit = Callable[[ServedModel, TaskRow, list[Member]], Edited]


@dataclass(frozen=True)
class Request:
    """Who asks, and what of the request is written down with what it changes."""

    principal: Principal
    id: str
    idempotency: str | None = None
    digest: bytes = b""


@dataclass(frozen=True, eq=False)
class Given:
    """Examples of a request.

    Attributes:
        x: as they are stored, `[n, *shape]`.
        labels: one each.
        unlabeled: those without, as they are stored; None: there are none.
    """

    x: Tensor
    labels: Sequence[str]
    unlabeled: Tensor | None = None

    def members(self, model: ServedModel, first: int) -> tuple[list[Member], Tensor | None]:
        """Examples of a task, numbered from `first`; and those that are none, of which it is only asked which to
        label: a model that learns from examples without labels keeps them, another does not."""
        members = [Member(first + i, label, self.x[i], False) for i, label in enumerate(self.labels)]
        if self.unlabeled is None or not model.learner.semi_supervised:
            return members, self.unlabeled
        after = first + len(members)
        return [*members, *(Member(after + i, None, x, False) for i, x in enumerate(self.unlabeled))], None


@dataclass(frozen=True)
class Outcome:
    """What a change led to: the response's status and body."""

    status: int
    document: dict[str, Any]
    task: str | None = None
    replayed: bool = False


class Changes:
    """What changes a service's tasks.

    Args:
        service: whose.
    """

    def __init__(self, service: Service) -> None:
        self.service = service

    async def create(
        self,
        request: Request,
        model: ServedModel,
        given: Given,
        *,
        name: str | None = None,
        options: Mapping[str, Any] | None = None,
        deadline: float | None = None,
        said: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """A new task, adapted to its examples.

        Args:
            deadline: by which the adaptation has to be begun, on the clock of `time.perf_counter`.
            said: more of the answer.
        """
        began = time.perf_counter()
        kept = await self.replayed(request)
        if kept is not None:
            return kept
        id_, moment = new_id("task"), now()
        members, pool = given.members(model, 1)
        task = TaskRow(
            id_, request.principal.tenant, model.name, 1, name, moment, moment, 1, len(members), dict(options or {})
        )
        state, adaptation = await adapted_state(
            self.service, request.principal, model, task, 1, members, pool, deadline
        )
        version = VersionRow(1, "create", model.digest, _numbers(members), state.info, moment)
        rows = kept_examples(self.service, model, id_, members, adaptation)
        sealed = self.service.vault.seal(encode(state), about_state(id_))
        report = _report(task, version, adaptation, began)
        answer = {**report, "checking": unchecked(self.service, version), **(said or {})}
        quotas = self.service.quotas(request.principal)

        def change(connection: Connection) -> None:
            tasks.create(connection, task, version, rows, sealed, quotas)

        outcome = await self._commit(request, "create", change, Outcome(201, answer, id_), examples=len(members))
        if not outcome.replayed:
            self._done(request, model, task, version, state, members)
        return outcome

    def _done(
        self,
        request: Request,
        model: ServedModel,
        task: TaskRow,
        version: VersionRow,
        state: State,
        members: Sequence[Member],
    ) -> None:
        """What follows a change that is committed."""
        self.service.cache.put(state)
        if version.reason != "promote":  # which no tenant asked for
            self.service.meter.add(request.principal.tenant, adaptations=1)
        if unchecked(self.service, version) and len(self.service.checking) < MOST_CHECKS:
            self.service.later(check(self.service, request.principal, model, state, _labelled(members), task.options))

    def take_up(self, principal: Principal, task: TaskRow) -> None:
        """Has a task checked whose check a process began that ended since, as far as time tells."""
        if task.id not in self.service.checking and now() - task.updated > GIVEN_UP:
            self.service.checking.add(task.id)
            self.service.later(self._check_again(principal, task))

    async def _check_again(self, principal: Principal, task: TaskRow) -> None:
        try:
            model, members = await self._members(task, task.version)
            state = await self.service.state(task)
            await check(self.service, principal, model, state, _labelled(members), task.options)
        except ProblemError:  # its examples were not kept, or it is gone
            await self.service.writing(lambda connection: tasks.annotate(connection, task.id, task.version, UNKNOWN))
        finally:
            self.service.checking.discard(task.id)

    async def add(self, request: Request, task: TaskRow, given: Given) -> Outcome:
        """A task's next version, adapted to more examples."""

        def more(model: ServedModel, task: TaskRow, members: list[Member]) -> Edited:
            added, pool = given.members(model, task.last_example + 1)
            return Edited([*members, *added], added, pool=pool)

        return await self._change(request, task, "add", more)

    async def forget(self, request: Request, task: TaskRow, number: int) -> Outcome:
        """A task's next version, as if an example had never been there; it is erased from those before, too."""

        def fewer(model: ServedModel, task: TaskRow, members: list[Member]) -> Edited:
            left = [member for member in members if member.number != number]
            if len(left) == len(members):
                raise NotFoundError(f"task {task.id} has no example {number}")
            if len({member.label for member in left} - {None}) < 2:
                raise SupportProblemError(
                    f"without example {number} the task would have fewer than two classes, and is none any more: "
                    f"delete the task (DELETE /v1/tasks/{task.id}), or add examples of another class first"
                )
            return Edited(left, removed=[number])

        return await self._change(request, task, "delete", fewer)

    async def rollback(self, request: Request, task: TaskRow, number: int) -> Outcome:
        """A task's next version, of the examples and the model of an earlier one."""
        return await self._change(request, task, "rollback", None, target=number)

    async def move(self, request: Request, task: TaskRow, model: ServedModel) -> Outcome:
        """A task's next version, of the same examples, adapted with another model."""
        return await self._change(request, task, "promote", None, model=model)

    async def remove(self, request: Request, task: TaskRow) -> Outcome:
        """Deletes a task with all that is its own."""
        kept = await self.replayed(request)
        if kept is not None:
            return kept

        def change(connection: Connection) -> None:
            tasks.remove(connection, task)

        outcome = await self._commit(request, "remove", change, Outcome(204, {}, task.id))
        self.service.cache.drop(task.id)
        await asyncio.to_thread(self.service.database.erase)
        return outcome

    async def _change(
        self,
        request: Request,
        task: TaskRow,
        reason: str,
        edit: Edit | None,
        *,
        target: int | None = None,
        model: ServedModel | None = None,
    ) -> Outcome:
        """The next version of a task.

        Args:
            edit: of the examples, of the model and the task as they are.
            target: the version that the next one shall be like, in place of an edit.
            model: that adapts it, in place of the one that did.
        """
        kept = await self.replayed(request)
        if kept is not None:
            return kept
        for left in reversed(range(TRIES)):
            began = time.perf_counter()
            adapter, members = await self._members(task, task.version if target is None else target)
            if model is not None and adapter is model:
                return Outcome(200, {}, task.id)  # another process was faster
            adapter = model or adapter
            edited = Edited(members) if edit is None else edit(adapter, task, members)
            members, removed = edited.members, edited.removed
            number = task.last_version + 1
            state, adaptation = await adapted_state(
                self.service, request.principal, adapter, task, number, members, edited.pool, idle=model is not None
            )
            version = VersionRow(number, reason, adapter.digest, _numbers(members), state.info)
            rows = kept_examples(self.service, adapter, task.id, members, adaptation, set(_numbers(edited.added)))
            sealed = self.service.vault.seal(encode(state), about_state(task.id))
            said = {**_report(task, version, adaptation, began), "checking": unchecked(self.service, version)}
            outcome = Outcome(200, said, task.id)
            change = _next(
                task, version, sealed, rows, removed, self.service.quotas(request.principal), moved=bool(model)
            )
            try:
                outcome = await self._commit(request, reason, change, outcome, version=number)
            except ConflictError:
                if not left:
                    raise ConflictProblemError(
                        f"task {task.id} is changed by too many at the same time: try again"
                    ) from None
                task = await self.service.task(request.principal, task.id)
                continue
            if not outcome.replayed:
                self._done(request, adapter, task, version, state, members)
            if removed:
                await asyncio.to_thread(self.service.database.erase)
            return outcome
        raise AssertionError

    async def _members(self, task: TaskRow, number: int) -> tuple[ServedModel, list[Member]]:
        """The model and the examples of a version.

        Raises:
            NotFoundError: no such version.
            ConflictProblemError: its examples were not kept, or its model is not served.
        """

        def read() -> tuple[VersionRow | None, list[ExampleRow]]:
            with self.service.database.reading() as connection:
                version = tasks.load_version(connection, task.id, number)
                return version, [] if version is None else tasks.load_examples(connection, task.id, version.members)

        version, rows = await self.service.parsing(read)
        if version is None:
            raise NotFoundError(f"task {task.id} has no version {number}")
        if len(rows) < len(version.members):
            raise ConflictProblemError(
                f"the examples of task {task.id} were not kept (retention: none), so that it cannot be adapted again: "
                "make a new task"
            )
        if not await self.service.knows(version.digest):
            raise ConflictProblemError(
                f"version {number} of task {task.id} was adapted with a model that is not served here (digest "
                f"{version.digest[:12]}...): start the server with it"
            )
        model, members = self.service.by_digest[version.digest], []
        for row in rows:
            x, label = unpack_example(self.service.vault.open(row.sealed, about_example(task.id, row.number)))
            members.append(Member(row.number, label, x, row.form == "features", row.digest, row.created))
        return model, members

    async def judge(
        self, request: Request, task: TaskRow, state: State, label: str, predicted: str | None, x: Tensor | None
    ) -> Outcome:
        """Notes what a query was, and whether the task was right about it.

        Args:
            task, state: the task, and its state.
            label: what the query was.
            predicted: what was said of it; None: what is said of `x` now.
            x: the query as it is stored, which is kept where raw examples are.
        """
        kept = await self.replayed(request)
        if kept is not None:
            return kept
        if predicted is None:
            assert x is not None
            found = await self.service.predict(request.principal, state, x)
            predicted = describe(found, state)[0]["label"]
        keep = x is not None and self.service.settings.retention == "raw"
        content = pack_example(x[0] if keep and x is not None else torch.zeros(0), label)
        sealed = self.service.vault.seal(content, about_feedback(task.id))
        right, quotas = predicted == label, self.service.quotas(request.principal)

        def change(connection: Connection) -> None:
            tasks.hold(connection, task.id, len(sealed), quotas)
            journal.add_feedback(connection, task.id, state.version, right=right, sealed=sealed)

        said = {"task": task.id, "version": state.version, "label": label, "predicted": predicted, "right": right}
        return await self._commit(request, "feedback", change, Outcome(201, said, task.id))

    async def erase_tenant(self, request: Request) -> None:
        """Deletes a tenant with its tasks, examples and keys; the audit log keeps that it was erased. Where there are
        no keys everyone is one tenant, who begins anew."""
        who = request.principal

        def change(connection: Connection) -> None:
            access.erase_tenant(connection, who.tenant)
            if who.key is None:
                access.create_tenant(connection, access.DEFAULT, id_=who.tenant)

        await self._commit(replace(request, idempotency=None), "tenant.erase", change, Outcome(204, {}))
        await asyncio.to_thread(self.service.database.erase)

    async def note(self, principal: Principal, request: str, action: str, **detail: Any) -> None:
        """A line of the audit log for what changes nothing."""
        tenant, key = principal.tenant, principal.key
        await self.service.writing(
            lambda connection: journal.note(connection, action, tenant=tenant, key=key, request=request, **detail)
        )

    async def adapt_only(
        self,
        principal: Principal,
        model: ServedModel,
        given: Given,
        options: Mapping[str, Any],
        deadline: float | None = None,
    ) -> tuple[State, dict[str, Any]]:
        """A task's state and what is said of it, of which nothing is kept."""
        began = time.perf_counter()
        members, pool = given.members(model, 1)
        moment = now()
        task = TaskRow("", principal.tenant, model.name, 1, None, moment, moment, 1, len(members), dict(options))
        state, adaptation = await adapted_state(self.service, principal, model, task, 1, members, pool, deadline)
        version = VersionRow(1, "create", model.digest, _numbers(members), state.info)
        said = _report(task, version, adaptation, began)
        kept = ("model", "classes", "leave_one_out", "suspects", "label_next", "timings_ms")
        return state, {name: said[name] for name in kept if name in said}

    async def _commit(
        self, request: Request, action: str, change: Callable[[Connection], None], outcome: Outcome, **detail: Any
    ) -> Outcome:
        """Does a change, writes it into the audit log and keeps the answer, all of it or nothing."""
        who = request.principal

        def everything(connection: Connection) -> None:
            change(connection)
            journal.note(
                connection, action, tenant=who.tenant, key=who.key, request=request.id, task=outcome.task, **detail
            )
            if request.idempotency is not None:
                content = json.dumps(outcome.document).encode()
                kept = journal.Kept(request.digest, outcome.status, content)
                # That of a task goes with it; that it was deleted stays.
                of = None if outcome.status == 204 else outcome.task
                journal.keep_answer(connection, who.tenant, request.idempotency, kept, of)

        try:
            await self.service.writing(everything)
        except QuotaError as error:
            raise QuotaProblemError(f"{error}: delete some, or ask for more", limit=error.limit) from None
        except GoneError:
            raise NotFoundError(f"there is no task {outcome.task}: it was deleted") from None
        except IntegrityError:
            kept = await self.replayed(request)  # the same request at the same time
            if kept is None:
                raise
            return kept
        return outcome

    async def replayed(self, request: Request) -> Outcome | None:
        """The answer that a request with this Idempotency-Key got before.

        Raises:
            IdempotencyError: it was another request.
        """
        if request.idempotency is None:
            return None
        tenant, key = request.principal.tenant, request.idempotency
        kept = await self.service.reading(journal.kept_answer, tenant, key)
        if kept is None:
            return None
        if kept.request != request.digest:
            raise IdempotencyError(
                f"the Idempotency-Key {key[:64]!r} was sent with another request before: use a new one for each"
            )
        return Outcome(kept.status, json.loads(kept.content), replayed=True)


def _labelled(members: Sequence[Member]) -> Tensor:
    return torch.stack([member.x for member in members if member.label is not None])


def _report(task: TaskRow, version: VersionRow, adaptation: Adaptation, began: float) -> dict[str, Any]:
    """What is answered to who made a version."""
    said = document(task, version)
    if adaptation.suggested:
        said["label_next"] = adaptation.suggested
    seconds = {**adaptation.seconds, "total": time.perf_counter() - began}
    said["timings_ms"] = {stage: round(1000 * value, 3) for stage, value in seconds.items()}
    return said


def _numbers(members: Sequence[Member]) -> tuple[int, ...]:
    return tuple(member.number for member in members)


def _next(
    task: TaskRow,
    version: VersionRow,
    state: bytes,
    added: Sequence[ExampleRow],
    removed: Sequence[int],
    quotas: Mapping[str, int],
    *,
    moved: bool,
) -> Callable[[Connection], None]:
    def change(connection: Connection) -> None:
        current = registry.current(connection).get(task.model) if moved else None
        if current is not None and current.digest != version.digest:
            raise ConflictProblemError(f"another model is served as {task.model} by now")
        tasks.change(connection, task, version, state, added=added, removed=removed, quotas=quotas)

    return change
