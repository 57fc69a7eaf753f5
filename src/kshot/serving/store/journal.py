"""What was done: the audit log, answers to repeatable requests, use, feedback and the health of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from kshot.serving.store.rows import GoneError, now
from kshot.serving.store.tables import answers, audit, feedback, health, tasks, tenants, usage
from kshot.serving.vault import Sealed

ANSWERS_KEPT = 24 * 3600.0
"""Seconds for which the answer to a request with an Idempotency-Key is kept."""


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
        insert(audit).values(at=now(), tenant=tenant, key=key, request=request, action=action, task=task, detail=detail)
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
        insert(answers).values(
            tenant=tenant,
            key=key,
            request=kept.request,
            task=task,
            created=now(),
            status=kept.status,
            content=kept.content,
        )
    )


def use(connection: Connection, day: str, amounts: Mapping[tuple[str, str], float]) -> None:
    """Adds to what tenants used on a day (`2026-11-30`): by tenant and what. Of one that was erased nothing is kept."""
    asked = {tenant for tenant, _ in amounts}
    there = set(connection.execute(select(tenants.c.id).where(tenants.c.id.in_(asked))).scalars())
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    for (tenant, what), amount in sorted(amounts.items()):
        if tenant not in there:
            continue
        row = dialect.insert(usage).values(tenant=tenant, day=day, what=what, count=amount)
        connection.execute(
            row.on_conflict_do_update(
                index_elements=["tenant", "day", "what"], set_={"count": usage.c.count + row.excluded.count}
            )
        )


def used(connection: Connection, tenant: str) -> list[dict[str, Any]]:
    """What a tenant used, by day."""
    rows = connection.execute(select(usage).where(usage.c.tenant == tenant).order_by(usage.c.day, usage.c.what))
    return [{"day": row.day, "what": row.what, "count": row.count} for row in rows]


def load_health(connection: Connection, task: str) -> tuple[tuple[int, dict[str, Any]] | None, tuple[int, int]]:
    """The version and the sums over a task's queries, if there are any; and of its feedback how many there were right,
    and how many in all."""
    row = connection.execute(select(health.c.version, health.c.seen).where(health.c.task == task)).one_or_none()
    told = connection.execute(select(feedback.c.right).where(feedback.c.task == task)).scalars().all()
    return None if row is None else (row.version, row.seen), (sum(told), len(told))


def add_health(connection: Connection, task: str, version: int, seen: Mapping[str, float]) -> None:
    """Adds to the sums of a task's version; those of an earlier one are forgotten, as are those of a task that is
    gone."""
    now_at = connection.execute(select(tasks.c.version).where(tasks.c.id == task).with_for_update())
    if now_at.scalar_one_or_none() != version:
        return
    row = connection.execute(select(health.c.version, health.c.seen).where(health.c.task == task)).one_or_none()
    if row is not None and row.version == version:
        seen = {name: row.seen[name] + value for name, value in seen.items()}
    values = {"version": version, "updated": now(), "seen": dict(seen)}
    if row is None:
        connection.execute(insert(health).values(task=task, **values))
    else:
        connection.execute(update(health).where(health.c.task == task).values(**values))


def add_feedback(connection: Connection, task: str, version: int, *, right: bool, sealed: Sealed) -> None:
    """Notes what a query was.

    Raises:
        GoneError: the task is not there any more.
    """
    if connection.execute(select(tasks.c.id).where(tasks.c.id == task)).first() is None:
        raise GoneError(task)
    connection.execute(
        insert(feedback).values(
            task=task, created=now(), version=version, right=right, key=sealed.key, content=sealed.content
        )
    )
