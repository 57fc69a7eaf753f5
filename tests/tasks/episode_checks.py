"""Pools to sample from, and what must hold for every episode of every sampler over a pool, whatever its options."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from kshot import randomness
from kshot.datasets import Pool
from kshot.datasets.transform import Transform
from kshot.episodes import Episodes, Examples


def make_pool(counts: list[int], turned: bool = False, seed: int = 0, channels: int = 1) -> Pool:
    """Random images, different also from their own rotations; `turned`: every class in four rotations of one kin."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (sum(counts), channels, 4, 4), generator=generator, dtype=torch.uint8)
    pool = Pool.from_sorted(x, counts, [f"class{c}" for c in range(len(counts))])
    if not turned:
        return pool
    classes = torch.arange(len(counts)).repeat_interleave(4)
    turns = torch.arange(4).repeat(len(counts))
    return Pool(
        x=x,
        start=pool.start[classes],
        count=pool.count[classes],
        turns=turns,
        kin=classes,
        names=tuple(f"class{c}/rot{90 * t:03}" for c, t in zip(classes.tolist(), turns.tolist(), strict=True)),
    )


def other_classes(pool: Pool, seed: int = 5) -> Pool:
    """The same images with other classes: cut elsewhere, in another order, under other names, of other kin."""
    rows = pool.x.shape[0]
    cuts = sorted(set(randomness.integers(rows, seed, np.arange(6)).tolist()) | {0, rows})
    count = torch.tensor(cuts).diff()
    other = Pool.from_sorted(pool.x, count, [f"other{c}" for c in range(len(count))])
    return other.select(torch.from_numpy(randomness.permutation(len(other), seed)))


def check_episodes(episodes: Episodes, pool: Pool, transform: Transform) -> None:
    assert episodes.support_ids is not None
    assert episodes.query_ids is not None
    for t in range(len(episodes)):
        _check_classes(episodes, t, pool)
        rows: set[int] = set()
        for examples, ids in (
            (episodes.support[t], episodes.support_ids[t]),
            (episodes.query[t], episodes.query_ids[t]),
        ):
            _check_examples(examples, ids, episodes.class_ids[t], pool, transform)
            own = (ids[examples.mask] // 4).tolist()
            assert len(set(own)) == len(own), "an example twice"
            assert not rows & set(own), "an example in support and query"
            rows |= set(own)
        support = episodes.support[t]
        with_support = torch.zeros_like(support.classes)
        with_support[support.y[support.mask]] = True
        assert torch.equal(support.classes, with_support), "classes are those with support"


def _check_classes(episodes: Episodes, t: int, pool: Pool) -> None:
    ids, classes = episodes.class_ids[t], episodes.support.classes[t]
    assert torch.equal(classes, episodes.query.classes[t])
    assert torch.equal(classes, ids >= 0)
    way = int(classes.sum())
    assert way >= 2
    assert bool(classes[:way].all()), "labels are 0..way-1"
    kin = pool.kin[ids[classes]].tolist()
    assert len(set(kin)) == len(kin), "two classes of one kin"


def _check_examples(
    examples: Examples, ids: torch.Tensor, class_ids: torch.Tensor, pool: Pool, transform: Transform
) -> None:
    assert isinstance(examples.x, torch.Tensor)
    assert examples.x.dtype == torch.float32
    assert examples.x.is_contiguous()
    assert examples.y.dtype == torch.int64
    real = int(examples.mask.sum())
    assert bool(examples.mask[:real].all()), "padding comes last"
    assert torch.equal(examples.mask, ids >= 0)
    assert not examples.x[real:].any()
    assert not examples.y[real:].any()
    for x, y, identity in zip(examples.x[:real], examples.y[:real].tolist(), ids[:real].tolist(), strict=True):
        c, row, turn = int(class_ids[y]), identity // 4, identity % 4
        assert c >= 0, "a label of a class that the task does not have"
        assert row in pool.rows(c).tolist()
        if not pool.random_turns:
            assert turn == int(pool.turns[c])
        expected = torch.rot90(pool.x[row], turn, (-2, -1)) if pool.is_image else pool.x[row]
        assert torch.equal(x, transform.normalise(expected))


def same(a: Episodes, b: Episodes) -> bool:
    """Whether all tensors of two meta-batches are equal."""
    pairs = zip(tree_leaves(a), tree_leaves(b), strict=True)
    return all(x is y if x is None or y is None else torch.equal(x, y) for x, y in pairs)


def per_class(examples: Examples) -> torch.Tensor:
    """How many examples of each class: `[T, way]`."""
    counts = torch.zeros(examples.classes.shape, dtype=torch.int64)
    return counts.scatter_add_(1, examples.y, examples.mask.long())
