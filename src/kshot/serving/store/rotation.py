"""Everything that is sealed, sealed again: when the master key is to be replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Table, and_, func, select, update
from sqlalchemy.engine import Connection

from kshot.serving.store.tables import examples, feedback, states
from kshot.serving.vault import NAME, Vault, about_example, about_feedback, about_state

TOGETHER = 500
"""Rows of one transaction: others wait for no longer than that."""


@dataclass(frozen=True)
class _Sealed:
    table: Table
    keys: tuple[Column[Any], ...]
    about: Callable[..., str]


_SEALED = (
    _Sealed(states, (states.c.task,), about_state),
    _Sealed(examples, (examples.c.task, examples.c.number), about_example),
    _Sealed(feedback, (feedback.c.id, feedback.c.task), lambda _, task: about_feedback(task)),
)


def reseal(connection: Connection, vault: Vault) -> int:
    """Seals some rows that an older key sealed with the newest one; how many they were: 0 when none is left.

    A row that somebody changes meanwhile is left to the next call.
    """
    for kind in _SEALED:
        content = kind.table.c.content
        old = func.substr(content, 1, NAME) != vault.newest
        rows = connection.execute(select(*kind.keys, content).where(old).limit(TOGETHER)).all()
        for row in rows:
            key, sealed = row[:-1], bytes(row[-1])
            about = kind.about(*key)
            there = and_(*(column == value for column, value in zip(kind.keys, key, strict=True)), content == sealed)
            connection.execute(
                update(kind.table).where(there).values(content=vault.seal(vault.open(sealed, about), about))
            )
        if rows:
            return len(rows)
    return 0
