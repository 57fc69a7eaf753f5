"""The models that a database knows, by the digest of their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select, union, update
from sqlalchemy.engine import Connection

from kshot.serving.store.database import alone
from kshot.serving.store.rows import now
from kshot.serving.store.tables import models, states, versions


def find(connection: Connection, digest: str) -> dict[str, Any] | None:
    """What is known of a model; None of one that was never served."""
    return connection.execute(select(models.c.info).where(models.c.digest == digest)).scalar_one_or_none()


@dataclass(frozen=True)
class Known:
    """A model as the database knows it."""

    digest: str
    name: str
    path: str
    info: dict[str, Any]


def current(connection: Connection) -> dict[str, Known]:
    """By name the models that new tasks get."""
    rows = connection.execute(select(models).where(models.c.current))
    return {row.name: Known(row.digest, row.name, row.path, row.info) for row in rows}


def of_digest(connection: Connection, digest: str) -> Known | None:
    """A model that is served, or was."""
    row = connection.execute(select(models).where(models.c.digest == digest)).one_or_none()
    return None if row is None else Known(row.digest, row.name, row.path, row.info)


def replaced(connection: Connection) -> list[Known]:
    """The models that others took the place of, and that some task or version is still of."""
    used = union(select(states.c.digest), select(versions.c.digest))
    rows = connection.execute(select(models).where(models.c.digest.in_(used), ~models.c.current))
    return [Known(row.digest, row.name, row.path, row.info) for row in rows]


def learn(connection: Connection, digest: str, info: dict[str, Any]) -> None:
    """Notes what is known of a model by now."""
    connection.execute(update(models).where(models.c.digest == digest).values(info=info))


def promote(connection: Connection, *, digest: str, name: str, path: str, info: dict[str, Any]) -> None:
    """Makes a model the one that new tasks of its name get, whether or not it was known before."""
    alone(connection)
    add(connection, digest=digest, name=name, path=path, info=info)
    connection.execute(update(models).where(models.c.name == name).values(current=False))
    connection.execute(
        update(models).where(models.c.digest == digest).values(name=name, current=True, path=path, info=info)
    )


def add(connection: Connection, *, digest: str, name: str, path: str, info: dict[str, Any]) -> None:
    """Notes a model as the one that new tasks of its name get."""
    alone(connection)
    known = connection.execute(select(models.c.digest).where(models.c.digest == digest)).first()
    if known is not None:  # by another worker, at the same time
        return
    connection.execute(update(models).where(models.c.name == name).values(current=False))
    connection.execute(
        insert(models), {"digest": digest, "name": name, "path": path, "created": now(), "current": True, "info": info}
    )
