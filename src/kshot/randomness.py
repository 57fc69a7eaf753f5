"""Random numbers that are a function of where they are used: hash (seed, counters) instead of advancing a state.

A task is the same on one process or on several, in any order and after a resume, because every number in it is the
hash of (seed, split, step, task, purpose, index). `bits(seed, a, b)` is the b-th output of SplitMix64 whose state is
the a-th output of SplitMix64 whose state is `seed`: the generator of Steele, Lea and Flood ("Fast splittable
pseudorandom number generators", OOPSLA 2014) used as its authors meant `split`, with the finaliser "Mix13" of David
Stafford that it adopted. It is a hash for sampling, not for secrets.

All functions broadcast: `seed` and the counters are integers or integer arrays, and a key computed once
(`key = bits(seed, step, task)`) serves as the seed of further draws. No global random state is read or written, but for
`seeded`, which forks torch's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kshot.errors import ConfigError

Counter = int | NDArray[Any]
"""An integer, or an array of integers that broadcasts against the others."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_WORD = (1 << 64) - 1


def bits(seed: Counter, *counters: Counter) -> NDArray[np.uint64]:
    """64 random bits for every combination of the counters.

    Args:
        seed: integer or integer array; any sign and size (taken modulo 2**64).
        counters: integers or integer arrays, broadcast against `seed` and each other.

    Returns:
        uint64 array of the broadcast shape (zero-dimensional where all are integers).

    >>> [int(bits(1234567, i)) for i in range(2)]
    [6457827717110365317, 3203168211198807973]
    """
    state = _words(seed)
    with np.errstate(over="ignore"):  # wrapping around is the arithmetic that the hash is made of
        for counter in counters:
            state = _mix(state + (_words(counter) + np.uint64(1)) * _GOLDEN)
    return np.asarray(state, dtype=np.uint64)


def uniform(seed: Counter, *counters: Counter) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), multiples of 2**-53; shapes as in `bits`."""
    return np.asarray((bits(seed, *counters) >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def normal(seed: Counter, *counters: Counter) -> NDArray[np.float64]:
    """Standard normal numbers; shapes as in `bits`.

    Box and Muller (1958) on the two halves of one hash. With 32 bits for the radius no number is beyond 6.7 standard
    deviations, which a true normal variable exceeds once in 4e10 draws.
    """
    word = bits(seed, *counters)
    radius = ((word >> np.uint64(32)) + 0.5) * 2.0**-32
    angle = (word & np.uint64(0xFFFFFFFF)) * (2.0 * np.pi * 2.0**-32)
    return np.asarray(np.sqrt(-2.0 * np.log(radius)) * np.cos(angle))


def integers(high: Counter, seed: Counter, *counters: Counter) -> NDArray[np.int64]:
    """Uniform integers in [0, high), for a `high` that broadcasts against the counters.

    Lemire's multiply-shift without its rejection step ("Fast random integer generation in an interval", 2019): a number
    is off its probability by at most 2**-32, for the price of one multiplication.

    Raises:
        ConfigError: some `high` is outside 1..2**32.
    """
    bound = _words(high)
    if bound.size and (int(bound.min()) < 1 or int(bound.max()) > 1 << 32):
        raise ConfigError(f"expected an upper bound in 1..2**32, got {int(bound.min())}..{int(bound.max())}")
    return (((bits(seed, *counters) >> np.uint64(32)) * bound) >> np.uint64(32)).astype(np.int64)


def distinct(n: Counter, k: int, seed: Counter, *counters: Counter, pad: bool = False) -> NDArray[np.int64]:
    """`k` distinct integers of [0, n) in uniformly random order, for every combination of the counters.

    The first `j` of them are those that `k = j` gives. Fisher and Yates's shuffle, stopped after k swaps, on an array
    that is never built: only the places that were written to are remembered, so the cost is k**2 comparisons whatever n
    is.

    Args:
        n: integer or integer array that broadcasts against `seed` and the counters; each at least `k`, or see `pad`.
        pad: where `n` is smaller than `k`, fill what is left with -1 instead of raising.

    Returns:
        int64 `[*broadcast shape, k]`.

    Raises:
        ConfigError: some `n` is smaller than `k`, without `pad`.
    """
    key = bits(seed, *counters)
    size = np.asarray(n, dtype=np.int64)
    if not pad and k and size.size and int(size.min()) < k:
        raise ConfigError(f"expected at least {k} to draw {k} distinct ones from, got {int(size.min())}: draw fewer")
    shape = np.broadcast_shapes(key.shape, size.shape)
    key, size = np.broadcast_to(key, shape).reshape(-1), np.broadcast_to(size, shape).reshape(-1)
    # Place p holds p until a swap writes there. Draws come first and tasks last: a step is contiguous in memory.
    place = np.arange(k, dtype=np.int64)
    left = np.maximum(size[None] - place[:, None], 1)  # past the end of n, a swap with oneself
    chosen = place[:, None] + integers(left, key[None], place[:, None])
    result = np.empty((k, key.size), dtype=np.int64)
    written = np.empty((k, key.size), dtype=np.int64)  # what swap i left in place chosen[i]
    for i in range(k):
        swap = np.stack([chosen[i], np.full_like(chosen[i], i)])
        result[i], written[i] = _lookup(swap, chosen[:i], written[:i])
    if pad:
        result[place[:, None] >= size] = -1
    return np.ascontiguousarray(result.T).reshape(*shape, k)


def permutation(n: int, seed: Counter, *counters: Counter) -> NDArray[np.int64]:
    """A uniformly random order of 0..n-1 for every combination of the counters: int64 `[*broadcast shape, n]`."""
    key = bits(seed, *counters)
    return np.argsort(bits(key[..., None], np.arange(n)), axis=-1, kind="stable")


@cache
def stream(name: str) -> int:
    """A constant for a named stream of random numbers, in [0, 2**63): the same on every machine and in every version.

    >>> stream("train") == stream("train"), stream("train") == stream("test")
    (True, False)
    """
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Runs a block under torch's random state seeded with `seed`, on CPU and GPUs, and puts the old state back.

    For what draws from torch's own generators: initialisation and dropout.

    >>> with seeded(0):
    ...     a = torch.randn(3)
    >>> with seeded(0):
    ...     b = torch.randn(3)
    >>> torch.equal(a, b)
    True
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None  # fork_rng knows CUDA's kind only
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed & _WORD)
            yield
    finally:
        if mps is not None:
            torch.mps.set_rng_state(mps)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Stafford's Mix13: each bit of the result depends on every bit of `z`. Works in place on its own temporary."""
    z = z ^ (z >> np.uint64(30))
    z *= _MIX_1
    z ^= z >> np.uint64(27)
    z *= _MIX_2
    z ^= z >> np.uint64(31)
    return z


def _words(value: Counter) -> NDArray[np.uint64]:
    """Integers as uint64, modulo 2**64."""
    if isinstance(value, int):
        return np.asarray(value & _WORD, dtype=np.uint64)
    array = np.asarray(value)
    if array.dtype.kind not in "iub":
        raise ConfigError(f"expected integers as seed and counters, got {array.dtype}")
    return array.astype(np.uint64, copy=False)


def _lookup(place: NDArray[np.int64], places: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """What the places hold after the writes `places[i] <- values[i]`, the last one counting; itself where none hit.

    `place` is `[p, tasks]`, `places` and `values` are `[writes, tasks]`.
    """
    if not len(places):
        return place
    hit = places[::-1, None] == place
    last = hit.argmax(axis=0)  # the first in this order, 0 where there is none
    tasks = np.arange(place.shape[1])
    found = hit[last, np.arange(len(place))[:, None], tasks]
    return np.where(found, values[::-1][last, tasks], place)
