"""What was done: the audit log, answers to repeatable requests, use, feedback and the health of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from kshot.serving.store.rows import now
from kshot.serving.store.tables import answers, audit, health, usage

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
    return [dict(row._mapping) for row in rows]


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
    """Adds to what tenants used on a day (`2026-11-30`): by tenant and what."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    for (tenant, what), amount in sorted(amounts.items()):
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


def load_health(connection: Connection, task: str) -> dict[str, Any] | None:
    """What was summed over a task's queries, for its version of now."""
    row = connection.execute(select(health).where(health.c.task == task)).one_or_none()
    return None if row is None else {"version": row.version, "updated": row.updated, **row.seen}
