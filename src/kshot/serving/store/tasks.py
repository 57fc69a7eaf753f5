"""Tasks in the database. Every function runs within the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import and_, bindparam, delete, insert, or_, select, update
from sqlalchemy.engine import Connection

from kshot.serving.store.rows import (
    ConflictError,
    ExampleRow,
    GoneError,
    QuotaError,
    TaskRow,
    VersionRow,
    now,
    pack,
    unpack,
)
from kshot.serving.store.tables import answers, examples, states, tasks, tenants, versions

_TASK = [tasks.c[name] for name in TaskRow.__dataclass_fields__]


HOLDINGS = ("tasks", "examples", "bytes")
"""What a tenant has so many of, and may have so many of."""

# Made once, as every request needs one of them: building a statement takes as long as running it.
_FIND = select(*_TASK).where(tasks.c.id.in_(bindparam("ids", expanding=True)))
_FIND_OF = _FIND.where(tasks.c.tenant.in_(bindparam("whose", expanding=True)))
_STATES = select(states).where(states.c.task.in_(bindparam("ids", expanding=True)))
_COUNT = (
    update(tenants)
    .where(tenants.c.id == bindparam("whose"))
    .values({name: tenants.c[name] + bindparam(f"more_{name}") for name in HOLDINGS})
    .returning(*(tenants.c[name] for name in HOLDINGS))
)


def find(connection: Connection, ids: Iterable[str], tenants: Iterable[str] | None = None) -> dict[str, TaskRow]:
    """Those of the tasks that are there.

    Args:
        tenants: those of others are not: reading a row takes its time, which would say that it is there.
    """
    if tenants is None:
        rows = connection.execute(_FIND, {"ids": list(ids)})
    else:
        rows = connection.execute(_FIND_OF, {"ids": list(ids), "whose": list(tenants)})
    return {row.id: TaskRow(*row) for row in rows}


def page(connection: Connection, tenant: str, after: tuple[float, str] | None, limit: int) -> list[TaskRow]:
    """A tenant's tasks, the newest first.

    Args:
        after: creation and id of the last one of the page before.
    """
    query = select(*_TASK).where(tasks.c.tenant == tenant)
    if after is not None:
        created, id_ = after
        query = query.where(or_(tasks.c.created < created, and_(tasks.c.created == created, tasks.c.id < id_)))
    rows = connection.execute(query.order_by(tasks.c.created.desc(), tasks.c.id.desc()).limit(limit))
    return [TaskRow(*row) for row in rows]


def behind(connection: Connection, model: str, digest: str, after: str, limit: int) -> list[TaskRow]:
    """Tasks of a model's name whose state is another model's than the one with this digest, by their ids; but not those
    that somebody took back to it, nor those of which too little was kept to adapt them again.

    Args:
        after: the id after which to go on.
    """
    query = select(*_TASK).join(states, states.c.task == tasks.c.id)
    query = query.join(versions, and_(versions.c.task == tasks.c.id, versions.c.number == tasks.c.version))
    query = query.where(tasks.c.model == model, states.c.digest != digest, tasks.c.id > after)
    kept = select(examples.c.number).where(examples.c.task == tasks.c.id)
    features = kept.where(examples.c.form == "features", examples.c.digest != digest)
    query = query.where(versions.c.reason != "rollback", kept.exists(), ~features.exists())
    return [TaskRow(*row) for row in connection.execute(query.order_by(tasks.c.id).limit(limit))]


def load_states(connection: Connection, ids: Iterable[str]) -> dict[str, tuple[int, str, bytes]]:
    """The version, the model's digest and the sealed state of tasks."""
    rows = connection.execute(_STATES, {"ids": list(ids)})
    return {row.task: (row.version, row.digest, bytes(row.content)) for row in rows}


def load_examples(connection: Connection, task: str, numbers: Sequence[int] | None = None) -> list[ExampleRow]:
    """Examples of a task in the order of their numbers."""
    rows = connection.execute(select(examples).where(examples.c.task == task).order_by(examples.c.number))
    wanted = None if numbers is None else set(numbers)
    return [
        ExampleRow(row.number, row.form, row.digest, bytes(row.content), row.created)
        for row in rows
        if wanted is None or row.number in wanted
    ]


def load_versions(
    connection: Connection, task: str, before: int | None = None, limit: int | None = None
) -> list[VersionRow]:
    """Versions of a task, the newest first.

    Args:
        before: the number before which to begin; None: the newest.
        limit: so many; None: all.
    """
    query = select(versions).where(versions.c.task == task).order_by(versions.c.number.desc()).limit(limit)
    if before is not None:
        query = query.where(versions.c.number < before)
    return [_version_of(row) for row in connection.execute(query)]


def load_version(connection: Connection, task: str, number: int) -> VersionRow | None:
    """One version of a task."""
    row = connection.execute(select(versions).where(versions.c.task == task, versions.c.number == number)).one_or_none()
    return None if row is None else _version_of(row)


def _version_of(row: Any) -> VersionRow:
    return VersionRow(row.number, row.reason, row.digest, tuple(unpack(row.members)), row.info, row.created)


def create(
    connection: Connection,
    task: TaskRow,
    version: VersionRow,
    added: Sequence[ExampleRow],
    state: bytes,
    quotas: Mapping[str, int],
) -> None:
    """A new task with its first version.

    Raises:
        QuotaError: the tenant would have more than it may.
    """
    size = sum(example.bytes for example in added)
    count(connection, task.tenant, {"tasks": 1, "examples": len(added), "bytes": size}, quotas)
    values = {name: getattr(task, name) for name in TaskRow.__dataclass_fields__}
    connection.execute(insert(tasks), {**values, "bytes": size})
    _add_examples(connection, task.id, added)
    _add_version(connection, task.id, version)
    connection.execute(insert(states), {**_state(task.id, version, state)})


def change(
    connection: Connection,
    task: TaskRow,
    version: VersionRow,
    state: bytes,
    *,
    added: Sequence[ExampleRow] = (),
    removed: Sequence[int] = (),
    quotas: Mapping[str, int] | None = None,
) -> None:
    """A task's next version, which is served from now on.

    Args:
        task: as it was read.
        added: examples that come with it.
        removed: numbers of examples that are erased: from the database, and from the versions before.

    Raises:
        GoneError: the task is not there any more.
        ConflictError: it is not as it was read any more.
        QuotaError: the tenant would have more than it may.
    """
    freed = 0
    if removed:
        these = and_(examples.c.task == task.id, examples.c.number.in_(list(removed)))
        freed = sum(len(content) for (content,) in connection.execute(select(examples.c.content).where(these)))
    size = sum(example.bytes for example in added) - freed
    done = connection.execute(
        update(tasks)
        .where(tasks.c.id == task.id, tasks.c.last_version == task.last_version, tasks.c.version == task.version)
        .values(
            version=version.number,
            last_version=max(version.number, task.last_version),
            last_example=task.last_example + len(added),
            updated=now(),
            bytes=tasks.c.bytes + size,
        )
    )
    if not done.rowcount:
        there = connection.execute(select(tasks.c.id).where(tasks.c.id == task.id)).first()
        raise (ConflictError if there else GoneError)(task.id)
    count(connection, task.tenant, {"examples": len(added) - len(removed), "bytes": size}, quotas)
    if removed:
        connection.execute(delete(examples).where(these))
        for old in load_versions(connection, task.id):
            if set(old.members) & set(removed):
                connection.execute(
                    update(versions)
                    .where(versions.c.task == task.id, versions.c.number == old.number)
                    .values(
                        members=pack(set(old.members) - set(removed)),
                        info=_without_findings(old.info, version.info["labels"]),
                    )
                )
        # Answers that were kept name its labels, and what was thought of it: what is left says that they were given.
        connection.execute(update(answers).where(answers.c.task == task.id).values(content=_given(task.id)))
    _add_examples(connection, task.id, added)
    _add_version(connection, task.id, version)
    connection.execute(update(states).where(states.c.task == task.id).values(**_state(task.id, version, state)))


def annotate(connection: Connection, task: str, number: int, info: Mapping[str, Any]) -> None:
    """Adds to what was found out about a version that is still served, with the examples that it had."""
    served = connection.execute(select(tasks.c.version).where(tasks.c.id == task)).scalar_one_or_none()
    version = load_version(connection, task, number) if served == number else None
    if version is not None:
        connection.execute(
            update(versions)
            .where(versions.c.task == task, versions.c.number == number)
            .values(info={**version.info, **info})
        )


def remove(connection: Connection, task: TaskRow) -> None:
    """Everything of a task.

    Raises:
        GoneError: it was not there.
    """
    # Locked, so that what is stored with it meanwhile is not left in the count.
    size = connection.execute(select(tasks.c.bytes).where(tasks.c.id == task.id).with_for_update()).scalar_one_or_none()
    if size is None:
        raise GoneError(task.id)
    held = len(connection.execute(select(examples.c.number).where(examples.c.task == task.id)).all())
    # That a request was answered stays known for a day: sent again it would make the task anew.
    connection.execute(update(answers).where(answers.c.task == task.id).values(task=None, content=_given(task.id)))
    connection.execute(delete(tasks).where(tasks.c.id == task.id))  # and, by reference, all that is its own
    count(connection, task.tenant, {"tasks": -1, "examples": -held, "bytes": -size})


def hold(connection: Connection, task: str, size: int, quotas: Mapping[str, int]) -> None:
    """Counts bytes that are stored with a task, beside its examples.

    Raises:
        GoneError: the task is not there any more.
        QuotaError: the tenant would have more than it may.
    """
    more = update(tasks).where(tasks.c.id == task).values(bytes=tasks.c.bytes + size).returning(tasks.c.tenant)
    tenant = connection.execute(more).scalar_one_or_none()
    if tenant is None:
        raise GoneError(task)
    count(connection, tenant, {"bytes": size}, quotas)


def count(
    connection: Connection, tenant: str, more: Mapping[str, int], quotas: Mapping[str, int] | None = None
) -> None:
    """Adds to what a tenant has.

    Raises:
        QuotaError: it would be more than it may.
        GoneError: it was erased meanwhile.
    """
    added = {f"more_{name}": more.get(name, 0) for name in HOLDINGS}
    has = connection.execute(_COUNT, {"whose": tenant, **added}).one_or_none()
    if has is None:
        raise GoneError(tenant)
    for name, number in more.items():
        limit = (quotas or {}).get(name)
        now_has = getattr(has, name)
        if number > 0 and limit is not None and now_has > limit:
            raise QuotaError(name, limit, now_has)


def _add_examples(connection: Connection, task: str, added: Sequence[ExampleRow]) -> None:
    if added:
        connection.execute(
            insert(examples),
            [
                {
                    "task": task,
                    "number": e.number,
                    "created": e.created,
                    "form": e.form,
                    "digest": e.digest,
                    "content": e.sealed,
                }
                for e in added
            ],
        )


def _add_version(connection: Connection, task: str, version: VersionRow) -> None:
    connection.execute(
        insert(versions),
        {
            "task": task,
            "number": version.number,
            "created": version.created,
            "reason": version.reason,
            "digest": version.digest,
            "members": pack(version.members),
            "info": version.info,
        },
    )


def _state(task: str, version: VersionRow, state: bytes) -> dict[str, Any]:
    return {
        "task": task,
        "version": version.number,
        "digest": version.digest,
        "content": state,
    }


def _without_findings(info: Mapping[str, Any], labels: Collection[str]) -> dict[str, Any]:
    """What was found out with an example that is gone does not outlive it; nor does a label that it alone had.

    Args:
        labels: that there still are.
    """
    return {"labels": [label for label in info["labels"] if label in labels]}


def _given(task: str) -> bytes:
    return json.dumps({"id": task}).encode()
