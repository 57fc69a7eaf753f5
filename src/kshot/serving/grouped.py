"""Work for several tenants at once, whose failures stay apart."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from kshot import engine

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_groups(
    items: Sequence[Item], key: Callable[[Item], Hashable], work: Callable[[Sequence[Item]], Sequence[Result]]
) -> list[Result | Exception]:
    """What `work` gives for the items of each key together, in their order; an exception is its item's alone."""
    results: dict[int, Result | Exception] = {}
    for members in engine.groups_of([key(item) for item in items]):
        those = [items[i] for i in members]
        try:
            found: Sequence[Result | Exception] = work(those)
        except Exception as error:
            # Whose fault it is shows when each is alone.
            found = [error] if len(those) == 1 else [_alone(item, work) for item in those]
        results.update(zip(members, found, strict=True))
    return [results[i] for i in range(len(items))]


def _alone(item: Item, work: Callable[[Sequence[Item]], Sequence[Result]]) -> Result | Exception:
    try:
        return work([item])[0]
    except Exception as error:
        return error
