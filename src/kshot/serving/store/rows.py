"""What the functions of the store take and give, beside rows."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_TASK = re.compile(r"task_[0-9a-f]{24}")


def now() -> float:
    """Seconds since 1970."""
    return time.time()


def new_id(kind: str) -> str:
    """A name that nobody guesses: 96 random bits.

    >>> len(new_id("task"))
    29
    """
    return f"{kind}_{secrets.token_hex(12)}"


def is_task(text: object) -> bool:
    """Whether a text could be a task's id.

    >>> is_task(new_id("task")), is_task("task_"), is_task("x\\0y")
    (True, False, False)
    """
    return isinstance(text, str) and _TASK.fullmatch(text) is not None


def pack(numbers: Iterable[int]) -> str:
    """Numbers as ranges.

    >>> pack([1, 2, 3, 5])
    '1-3,5'
    """
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def unpack(text: str) -> list[int]:
    """What `pack` wrote.

    >>> unpack("1-3,5"), unpack("")
    ([1, 2, 3, 5], [])
    """
    numbers: list[int] = []
    for part in text.split(",") if text else []:
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


@dataclass(frozen=True)
class Principal:
    """Who asks: a key of a tenant."""

    key: str | None
    tenant: str
    scopes: tuple[str, ...]
    quotas: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskRow:
    """A task as far as every request needs it."""

    id: str
    tenant: str
    model: str
    version: int
    name: str | None
    created: float
    updated: float
    last_version: int
    last_example: int
    options: dict[str, Any]


@dataclass(frozen=True)
class ExampleRow:
    """A stored example: sealed, `form` `raw` or `features` (those of the model with that digest)."""

    number: int
    form: str
    digest: str
    sealed: bytes
    created: float = field(default_factory=now)

    @property
    def bytes(self) -> int:
        return len(self.sealed)


@dataclass(frozen=True)
class VersionRow:
    """A version of a task: of which examples, by which model."""

    number: int
    reason: str
    digest: str
    members: tuple[int, ...]
    info: dict[str, Any]
    created: float = field(default_factory=now)


class QuotaError(Exception):
    """A tenant has as much as it may.

    Attributes:
        what: tasks, examples or bytes.
        limit: how many.
    """

    def __init__(self, what: str, limit: int, asked: int) -> None:
        super().__init__(f"the tenant may store {limit:,} {what}, and this would make {asked:,}")
        self.what, self.limit, self.asked = what, limit, asked


class ConflictError(Exception):
    """The task was changed by somebody else in the meantime: read it again."""


class GoneError(Exception):
    """The task is not there any more."""
