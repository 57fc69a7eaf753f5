"""Items made ahead are the same items, and nothing is left behind."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator

import pytest

from kshot.tasks.prefetch import LOOKED_AT, prefetched


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("kshot-prefetch")]


@pytest.mark.parametrize("length", [0, 1, LOOKED_AT, LOOKED_AT + 1, 50])
@pytest.mark.parametrize("worth", [0, math.inf, None])
def test_the_same_items_in_the_same_order(length: int, worth: float | None) -> None:
    assert list(prefetched(iter(range(length)), worth=worth)) == list(range(length))
    assert not names()


def test_one_lies_ready_while_another_is_worked_on() -> None:
    made, asked = [], threading.Semaphore(0)

    def items() -> Iterator[int]:
        for i in range(LOOKED_AT + 4):
            made.append((i, threading.current_thread().name))
            asked.release()
            yield i

    got = prefetched(items(), worth=0)
    for i in range(LOOKED_AT + 1):
        assert next(got) == i
        assert asked.acquire(timeout=10)
    assert asked.acquire(timeout=10)  # the one after it is made without anybody asking
    assert not asked.acquire(blocking=False)
    assert [i for i, _ in made] == list(range(LOOKED_AT + 2))
    assert all(name.startswith("kshot-prefetch") for _, name in made[LOOKED_AT:])
    assert not any(name.startswith("kshot-prefetch") for _, name in made[:LOOKED_AT])
    got.close()
    assert not names()


def test_an_error_comes_up_where_its_item_would_have() -> None:
    def items() -> Iterator[int]:
        yield from range(LOOKED_AT + 2)
        raise ValueError("the source is gone")

    got, seen = prefetched(items(), worth=0), list[int]()
    with pytest.raises(ValueError, match="the source is gone"):
        seen.extend(got)
    assert seen == list(range(LOOKED_AT + 2))
    assert not names()


def test_small_items_are_made_in_place() -> None:
    threads = []

    def items() -> Iterator[int]:
        for i in range(30):
            threads.append(threading.current_thread())
            yield i

    assert list(prefetched(items())) == list(range(30))
    assert set(threads) == {threading.current_thread()}
