"""Episodes made ahead: while a step computes, a thread makes what the next one takes."""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

LOOKED_AT = 5
"""How many items are made in place, to see how long one takes."""

SMALL = 5e-4
"""Seconds that an item has to take, to be made beside a device that computes on its own."""


def prefetched(items: Iterator[T], *, device_type: str = "cpu", worth: float | None = None) -> Generator[T]:
    """The same items in the same order; where they take long, each is made while the one before it is worked on.

    A thread that makes small ones would be in the way: it holds the interpreter for up to its switch interval, 5 ms.
    Steps of a small MLP were 3 to 4 times as slow with it on two cores, those of a Conv-4 no faster, for there the
    cores are busy already. So items are made ahead where making one takes longer than that interval, as it does where
    a source reads files or waits, and on other devices, which leave the cores idle, much sooner.

    An error comes up where its item would have. At most one item lies ready; closing the iterator ends the thread.

    Args:
        items: used by the thread alone, once there is one.
        device_type: of the device that works on the items.
        worth: seconds, in place of what is worth it there. Zero: always; infinite: never.

    >>> list(prefetched(iter("abcdefgh"), worth=0))
    ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h']
    """
    if worth is None:
        worth = sys.getswitchinterval() if device_type == "cpu" else SMALL
    spent = []
    for _ in range(LOOKED_AT):
        began = time.perf_counter()
        try:
            item = next(items)
        except StopIteration:
            return
        spent.append(time.perf_counter() - began)
        yield item
    # The median: a source that draws many steps in one go takes long once, and the first item is slow anywhere.
    yield from _ahead(items) if statistics.median(spent) >= worth else items


def _ahead(items: Iterator[T]) -> Generator[T]:
    def make() -> list[T]:
        return list(itertools.islice(items, 1))  # empty at the end

    with ThreadPoolExecutor(1, thread_name_prefix="kshot-prefetch") as thread:
        coming = thread.submit(make)
        while made := coming.result():
            coming = thread.submit(make)
            yield made[0]
