"""What was done: the audit log, answers to repeatable requests, use, feedback and the health of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import case, delete, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from kshot.serving.store.rows import now
from kshot.serving.store.tables import answers, audit, feedback, health, tasks, tenants, usage

ANSWERS_KEPT = 24 * 3600.0
"""Seconds for which the answer to a request with an Idempotency-Key is kept."""


_TOGETHER = 500
"""Rows that one statement names: databases limit its parameters."""


@dataclass(frozen=True)
class Kept:
    """The answer that a request with an Idempotency-Key got."""

    request: bytes
    status: int
    content: bytes


def note(
    connection: Connection,
    action: str,
    *,
    tenant: str,
    key: str | None = None,
    request: str | None = None,
    task: str | None = None,
    **detail: Any,
) -> None:
    """A line of the audit log."""
    connection.execute(
        insert(audit),
        {
            "at": now(),
            "tenant": tenant,
            "key": key,
            "request": request,
            "action": action,
            "task": task,
            "detail": detail,
        },
    )


def audit_page(connection: Connection, tenant: str, before: int | None, limit: int) -> list[dict[str, Any]]:
    """A tenant's audit log, the newest first."""
    query = select(audit).where(audit.c.tenant == tenant)
    if before is not None:
        query = query.where(audit.c.id < before)
    rows = connection.execute(query.order_by(audit.c.id.desc()).limit(limit))
    return [{str(name): value for name, value in row._mapping.items()} for row in rows]  # plain str, for JSON


def kept_answer(connection: Connection, tenant: str, key: str) -> Kept | None:
    """The answer that is kept for a tenant's Idempotency-Key."""
    row = connection.execute(
        select(answers.c.request, answers.c.status, answers.c.content).where(
            answers.c.tenant == tenant, answers.c.key == key, answers.c.created > now() - ANSWERS_KEPT
        )
    ).one_or_none()
    return None if row is None else Kept(bytes(row.request), row.status, bytes(row.content))


def keep_answer(connection: Connection, tenant: str, key: str, kept: Kept, task: str | None) -> None:
    """Keeps an answer in the transaction of what it reports; an IntegrityError where there is one."""
    connection.execute(delete(answers).where(answers.c.created <= now() - ANSWERS_KEPT))
    connection.execute(
        insert(answers),
        {
            "tenant": tenant,
            "key": key,
            "request": kept.request,
            "task": task,
            "created": now(),
            "status": kept.status,
            "content": kept.content,
        },
    )


def use(connection: Connection, day: str, amounts: Mapping[tuple[str, str], float]) -> None:
    """Adds to what tenants used on a day (`2026-11-30`): by tenant and what. Of one that was erased nothing is kept."""
    asked = sorted({tenant for tenant, _ in amounts})
    there: set[str] = set()
    for start in range(0, len(asked), _TOGETHER):
        part = asked[start : start + _TOGETHER]
        there.update(connection.execute(select(tenants.c.id).where(tenants.c.id.in_(part))).scalars())
    rows = [
        {"tenant": tenant, "day": day, "what": what, "count": amount}
        for (tenant, what), amount in sorted(amounts.items())
        if tenant in there
    ]
    if rows:
        new = _dialect(connection).insert(usage)
        more = {"count": usage.c.count + new.excluded.count}
        connection.execute(new.on_conflict_do_update(index_elements=["tenant", "day", "what"], set_=more), rows)


def _dialect(connection: Connection) -> Any:
    return postgresql if connection.dialect.name == "postgresql" else sqlite


def used(connection: Connection, tenant: str) -> list[dict[str, Any]]:
    """What a tenant used, by day."""
    rows = connection.execute(select(usage).where(usage.c.tenant == tenant).order_by(usage.c.day, usage.c.what))
    return [{"day": row.day, "what": row.what, "count": row.count} for row in rows]


def load_health(connection: Connection, task: str) -> tuple[tuple[int, dict[str, Any]] | None, tuple[int, int]]:
    """The version and the sums over a task's queries, if there are any; and of its feedback how many there were right,
    and how many in all."""
    row = connection.execute(select(health.c.version, health.c.seen).where(health.c.task == task)).one_or_none()
    right = func.sum(case((feedback.c.right, 1), else_=0))
    told = connection.execute(select(right, func.count()).where(feedback.c.task == task)).one()
    return None if row is None else (row.version, row.seen), (int(told[0] or 0), int(told[1]))


def add_health(connection: Connection, seen: Mapping[tuple[str, int], Mapping[str, float]]) -> None:
    """Adds to the sums of tasks' versions; those of an earlier version are forgotten, as are those of a task that is
    gone.

    Args:
        seen: by task and version.
    """
    asked = sorted(seen)
    for start in range(0, len(asked), _TOGETHER):
        part = dict(asked[start : start + _TOGETHER])
        locked = select(tasks.c.id, tasks.c.version).where(tasks.c.id.in_(part)).order_by(tasks.c.id).with_for_update()
        served = {row.id: row.version for row in connection.execute(locked) if row.version == part[row.id]}
        old = select(health.c.task, health.c.version, health.c.seen).where(health.c.task.in_(served))
        before = {row.task: row.seen for row in connection.execute(old) if row.version == served[row.task]}
        rows = []
        for task, version in served.items():
            sums = {name: before.get(task, {}).get(name, 0) + value for name, value in seen[task, version].items()}
            rows.append({"task": task, "version": version, "updated": now(), "seen": sums})
        if rows:
            new = _dialect(connection).insert(health)
            kept = {name: new.excluded[name] for name in ("version", "updated", "seen")}
            connection.execute(new.on_conflict_do_update(index_elements=["task"], set_=kept), rows)


@dataclass(frozen=True)
class Told:
    """What a query was, as somebody said later."""

    version: int
    right: bool
    created: float
    sealed: bytes


def load_feedback(connection: Connection, task: str) -> list[Told]:
    """What was said of a task's queries."""
    rows = connection.execute(select(feedback).where(feedback.c.task == task).order_by(feedback.c.id))
    return [Told(row.version, row.right, row.created, bytes(row.content)) for row in rows]


def add_feedback(connection: Connection, task: str, version: int, *, right: bool, sealed: bytes) -> None:
    """Notes what a query was, of a task that is there."""
    connection.execute(
        insert(feedback), {"task": task, "created": now(), "version": version, "right": right, "content": sealed}
    )
