"""How many example slots the episodes of a meta-batch have.

Uneven tasks are padded to the largest that their source can have, which a meta-batch seldom meets: slots beyond its own
largest task are left out. For `compile`, which takes seconds for each new shape, lengths are rounded up to a few sizes.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from kshot.episodes import Episodes, Examples, map_input

EXACT = 4
"""So many lengths are compiled as they are: training and validation of tasks that are all alike need no padding."""


def bucket(length: int) -> int:
    """The smallest of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... (2^k and 3 * 2^k) that is at least `length`: at most half more.

    >>> [bucket(n) for n in (1, 5, 25, 65, 100)]
    [1, 6, 32, 96, 128]
    """
    power = 1 << max(length - 1, 0).bit_length()
    return power * 3 // 4 if power >= 4 and length <= power * 3 // 4 else power


def trimmed(episodes: Episodes, *, rounded: bool = False, queries: bool = True) -> Episodes:
    """The same tasks without the slots that are padding in all of them.

    Looked at on a CPU alone, where looking is free; elsewhere tasks have the slots that they came with, always as many.

    Args:
        rounded: to lengths of `bucket`, or to as many slots as there are; sets without padding are left as they are.
        queries: whether the query set is trimmed, too.
    """
    support, support_ids = _trimmed(episodes.support, episodes.support_ids, rounded)
    if not queries:
        return replace(episodes, support=support, support_ids=support_ids)
    query, query_ids = _trimmed(episodes.query, episodes.query_ids, rounded)
    return replace(episodes, support=support, query=query, support_ids=support_ids, query_ids=query_ids)


def few_lengths(episodes: Episodes, known: tuple[set[int], set[int]]) -> Episodes:
    """The same tasks in as many slots as episodes before them came with, or in lengths of `bucket`.

    Sources give all of theirs in as many slots, which are left as they are, however often it is asked: a run that is
    taken up computes what it would have. Rounded are those that somebody makes by hand, each in a length of its own.

    Args:
        known: lengths of support and of query sets that were seen; the first few of each are added to it.
    """
    wanted = []
    for length, seen in zip((episodes.support.size, episodes.query.size), known, strict=True):
        if len(seen) < EXACT:
            seen.add(length)
        wanted.append(length if length in seen else bucket(length))
    support, support_ids = _resized(episodes.support, episodes.support_ids, wanted[0])
    query, query_ids = _resized(episodes.query, episodes.query_ids, wanted[1])
    return replace(episodes, support=support, query=query, support_ids=support_ids, query_ids=query_ids)


def _trimmed(examples: Examples, ids: Tensor | None, rounded: bool) -> tuple[Examples, Tensor | None]:
    if not examples.padded or examples.device.type != "cpu" or not examples.mask.numel() or bool(examples.mask.all()):
        return examples, ids
    used = examples.mask.any(0).nonzero()
    length = int(used[-1]) + 1 if len(used) else 1
    return _resized(examples, ids, min(bucket(length), examples.size) if rounded else length)


def _resized(examples: Examples, ids: Tensor | None, length: int) -> tuple[Examples, Tensor | None]:
    """Examples `[T, n, ...]` with `length` slots, the last ones cut off or padding added."""
    extra = length - examples.size
    if extra == 0:
        return examples, ids

    def resize(t: Tensor, value: float = 0) -> Tensor:
        # Contiguous: shapes of one bucket should lie in memory alike.
        return t[:, :length].contiguous() if extra < 0 else F.pad(t, [0, 0] * (t.ndim - 2) + [0, extra], value=value)

    made = replace(
        examples,
        x=map_input(resize, examples.x),
        y=resize(examples.y),
        mask=resize(examples.mask),
        padded=examples.padded or extra > 0,
    )
    return made, None if ids is None else resize(ids, -1)
