"""Which of the processes that `torchrun` started together this one is; by its environment, without torch."""

from __future__ import annotations

import os
from typing import NamedTuple


class Place(NamedTuple):
    """A process among others.

    Attributes:
        rank, size: its number, from 0 on, and how many there are; 0 and 1 for one alone.
        local_rank, local_size: the same among those of its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def place() -> Place:
    """This process's place."""
    size = _number("WORLD_SIZE", 1)
    if size == 1 or "RANK" not in os.environ:
        return Place()
    return Place(_number("RANK", 0), size, _number("LOCAL_RANK", 0), _number("LOCAL_WORLD_SIZE", 1))


def _number(name: str, default: int) -> int:
    return int(os.environ.get(name, default))
