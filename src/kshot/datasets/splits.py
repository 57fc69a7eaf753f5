"""Disjoint splits: made by a seed, and checked wherever they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch

from kshot.datasets.pool import Pool
from kshot.errors import OverlappingSplitsError, TooFewClassesError, few

SPLITS = ("train", "val", "test")


def shuffled(names: Sequence[str], seed: int) -> list[int]:
    """The indices of `names`, ordered by a hash of (seed, name).

    So the order depends on neither that of the files nor a random generator's version, and a class that is added later
    moves no other.
    """

    def place(c: int) -> bytes:
        return hashlib.blake2b(f"{seed}:{names[c]}".encode(), digest_size=16).digest()

    return sorted(range(len(names)), key=place)


def split_classes(
    names: Sequence[str],
    *,
    seed: int = 0,
    fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
    at_least: int | Mapping[str, int] = 2,
    what: str = "the data",
    hint: str = "",
) -> dict[str, list[int]]:
    """Deals classes out to train, val and test, in the order of `shuffled`.

    Args:
        names: the class names.
        seed: another seed, another split.
        fractions: of the classes for train, val and test.
        at_least: the fewest classes that a split may have: one number for all, or one by the name of each.
        what: what to call the data in an error.
        hint: what else one could do, the last sentence of the error.

    Returns:
        Indices into `names` for "train", "val" and "test", each sorted.

    Raises:
        TooFewClassesError: fewer classes than that in all.
    """
    n = len(names)
    if isinstance(at_least, int):
        at_least = dict.fromkeys(SPLITS, at_least)
    least = {split: max(1, at_least.get(split, 2)) for split in SPLITS}
    if n < sum(least.values()):
        even = len(set(least.values())) == 1
        wanted = f"{least['train']} classes each" if even else " + ".join(str(k) for k in least.values()) + " classes"
        smaller = f", ask for a way of at most {n // 3}" if n >= 6 else ""
        raise TooFewClassesError(
            f"{what} has {n} class{'' if n == 1 else 'es'}: too few for disjoint train, val and test splits of "
            f"at least {wanted} ({sum(least.values())} in all). Add classes{smaller}, "
            "or use all of them to evaluate a learner that was trained on other data: kshot evaluate RUN --data, or "
            f"split='all' in Python.{' ' + hint if hint else ''}"
        )
    order = shuffled(names, seed)
    val = max(least["val"], round(fractions[1] * n))
    test = max(least["test"], round(fractions[2] * n))
    while n - val - test < least["train"]:  # few classes for a large way: train takes from whichever has more to spare
        val, test = (val - 1, test) if val - least["val"] > test - least["test"] else (val, test - 1)
    train = n - val - test
    return {
        "train": sorted(order[:train]),
        "val": sorted(order[train : train + val]),
        "test": sorted(order[train + val :]),
    }


def check_disjoint(splits: Mapping[str, Pool]) -> None:
    """Checks that no two splits share a class.

    Shared is a class of the same name; and, among pools of one storage, a class of the same kin or of the same rows
    (a rotation of a training character is no unseen class).

    Args:
        splits: pools by the names to call them in an error.

    Raises:
        OverlappingSplitsError: naming the two splits and up to five of the classes that they share.
    """
    for (first, a), (second, b) in combinations(splits.items(), 2):
        shared = set(a.names) & set(b.names)
        why = "of the same name"
        if not shared and len(a) and len(b) and a.x.data_ptr() == b.x.data_ptr() and a.x.numel():
            shared, why = _shared_content(a, b)
        if shared:
            names = sorted(shared)
            raise OverlappingSplitsError(
                f"expected {first} and {second} to have no class in common, but {len(names)} "
                f"class{' is' if len(names) == 1 else 'es are'} in both ({why}): {few(names)}. "
                "Few-shot splits hold different classes: move all examples of a class into one split"
            )


def _shared_content(a: Pool, b: Pool) -> tuple[set[str], str]:
    """The classes of `b` that `a` has by kin or by row, and how they are akin. Both pools show one storage."""
    akin = torch.isin(b.kin, a.kin)
    if bool(akin.any()):
        return {b.names[c] for c in akin.nonzero()[:, 0].tolist()}, "one kin, such as rotations of one character"
    owned = torch.zeros(a.x.shape[0] + 1, dtype=torch.int64)
    filled = a.count > 0
    owned.index_add_(0, a.start[filled], torch.ones_like(a.start[filled]))
    owned.index_add_(0, (a.start + a.count)[filled], -torch.ones_like(a.start[filled]))
    before = torch.cat([torch.zeros(1, dtype=torch.int64), (owned.cumsum(0) > 0).long().cumsum(0)])
    hit = before[b.start + b.count] > before[b.start]
    return {b.names[c] for c in hit.nonzero()[:, 0].tolist()}, "of the same examples"
