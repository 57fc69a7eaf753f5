from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kshot import randomness
from kshot.errors import ConfigError

SEEDS = st.integers(-(2**70), 2**70)


def test_bits_are_the_published_outputs_of_splitmix64() -> None:
    # Reference outputs for seed 1234567, as listed by Rosetta Code's "Pseudo-random numbers/Splitmix64".
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert randomness.bits(1234567, np.arange(5)).tolist() == expected


def test_bits_broadcast_and_equal_their_scalar_selves() -> None:
    seeds, counters = np.array([[3], [-4]]), np.array([5, 6, 7])
    together = randomness.bits(seeds, 9, counters)
    assert together.shape == (2, 3)
    assert together.dtype == np.uint64
    for i, seed in enumerate([3, -4]):
        for j, counter in enumerate([5, 6, 7]):
            assert randomness.bits(seed, 9, counter) == together[i, j]


def test_every_counter_and_its_place_matters() -> None:
    words = {
        int(randomness.bits(seed, *counters))
        for seed in range(20)
        for counters in [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (2, 3), (3, 2)]
    }
    assert len(words) == 20 * 9


def test_neighbouring_inputs_share_half_their_bits() -> None:
    word = randomness.bits(np.arange(4000), 7)
    other = randomness.bits(np.arange(4000) + 1, 7)
    differing = np.unpackbits((word ^ other).view(np.uint8)).reshape(4000, 64)
    # 4,000 fair coins for each of the 64 bits: 5 standard deviations of the mean are 0.04.
    assert abs(differing.mean(axis=0) - 0.5).max() < 0.04


def test_uniform_numbers_are_uniform_over_seeds_and_over_counters() -> None:
    for numbers in [
        randomness.uniform(0, 1, np.arange(40_000)),
        randomness.uniform(np.arange(40_000), 5),
        randomness.uniform(3, np.arange(200)[:, None], np.arange(200)).ravel(),
    ]:
        assert numbers.min() >= 0
        assert numbers.max() < 1
        counts = np.bincount((numbers * 64).astype(int), minlength=64)
        assert stats.chisquare(counts).pvalue > 1e-3
        assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.025  # 5 standard deviations: 5 / sqrt(40,000)


def test_normal_numbers_are_normal() -> None:
    numbers = randomness.normal(11, np.arange(50_000))
    assert stats.kstest(numbers, "norm").pvalue > 1e-3
    assert np.isfinite(numbers).all()
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.025


@given(seed=SEEDS, high=st.integers(1, 2**32), count=st.integers(1, 30))
def test_integers_stay_below_their_bound(seed: int, high: int, count: int) -> None:
    numbers = randomness.integers(high, seed, np.arange(count))
    assert numbers.dtype == np.int64
    assert numbers.min() >= 0
    assert numbers.max() < high


def test_integers_are_uniform_for_every_bound_of_an_array() -> None:
    bounds = np.array([2, 7, 10])
    numbers = randomness.integers(bounds[:, None], 5, np.arange(3)[:, None], np.arange(20_000))
    for row, bound in zip(numbers, bounds.tolist(), strict=True):
        assert stats.chisquare(np.bincount(row, minlength=bound)).pvalue > 1e-3


@pytest.mark.parametrize("high", [0, -1, 2**32 + 1])
def test_integers_refuse_a_bound_out_of_range(high: int) -> None:
    with pytest.raises(ConfigError, match=r"expected an upper bound in 1\.\.2\*\*32"):
        randomness.integers(high, 0, 0)


def test_floats_are_refused_as_counters() -> None:
    with pytest.raises(ConfigError, match="expected integers as seed and counters, got float64"):
        randomness.bits(0, np.array([0.5]))


@given(seed=SEEDS, k=st.integers(0, 12), extra=st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_distinct_numbers_are_distinct_in_range_and_a_prefix_of_more(seed: int, k: int, extra: list[int]) -> None:
    n = np.array(extra) + k
    drawn = randomness.distinct(n, k, seed, np.arange(n.size))
    assert drawn.shape == (n.size, k)
    for row, size in zip(drawn, n, strict=True):
        assert len(set(row.tolist())) == k
        assert all(0 <= value < size for value in row)
    assert np.array_equal(randomness.distinct(n, k // 2, seed, np.arange(n.size)), drawn[:, : k // 2])


@given(seed=SEEDS, n=st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_padding_fills_up_and_changes_nothing_else(seed: int, n: list[int]) -> None:
    drawn = randomness.distinct(np.array(n), 9, seed, np.arange(len(n)), pad=True)
    for i, size in enumerate(n):
        assert drawn[i].tolist() == randomness.distinct(size, size, seed, i).tolist() + [-1] * (9 - size)


@settings(deadline=None)
@given(seed=SEEDS, n=st.integers(1, 60))
def test_drawing_all_of_them_is_a_permutation(seed: int, n: int) -> None:
    assert sorted(randomness.distinct(n, n, seed).tolist()) == list(range(n))
    assert sorted(randomness.permutation(n, seed).tolist()) == list(range(n))


def test_distinct_equals_a_shuffle_written_plainly() -> None:
    n, k, seed = 9, 6, 42
    array = list(range(n))
    for i in range(k):
        j = i + int(randomness.integers(n - i, randomness.bits(seed, 3), i))
        array[i], array[j] = array[j], array[i]
    assert randomness.distinct(n, k, seed, 3).tolist() == array[:k]


@pytest.mark.parametrize("draw", ["distinct", "permutation"])
def test_every_order_is_equally_likely(draw: str) -> None:
    tasks = np.arange(24_000)
    drawn = randomness.distinct(4, 4, 1, tasks) if draw == "distinct" else randomness.permutation(4, 1, tasks)
    code = drawn @ np.array([64, 16, 4, 1])
    _, counts = np.unique(code, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


def test_every_pair_out_of_many_is_equally_likely() -> None:
    drawn = randomness.distinct(6, 2, 1, np.arange(30_000))
    counts = np.bincount(drawn[:, 0] * 6 + drawn[:, 1], minlength=36).reshape(6, 6)
    assert (np.diag(counts) == 0).all()
    assert stats.chisquare(counts[~np.eye(6, dtype=bool)]).pvalue > 1e-3


def test_too_few_to_draw_from_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected at least 5 to draw 5 distinct ones from, got 4: draw fewer"):
        randomness.distinct(np.array([9, 4]), 5, 0, np.arange(2))


def test_nothing_global_is_touched() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    randomness.distinct(10, 5, 0, np.arange(8))
    randomness.normal(0, np.arange(8))
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002


def test_seeded_repeats_itself_and_puts_the_state_back() -> None:
    before = torch.get_rng_state()
    with randomness.seeded(3):
        first = torch.randn(4)
    with randomness.seeded(3):
        assert torch.equal(torch.randn(4), first)
    with pytest.raises(RuntimeError, match="shape"), randomness.seeded(3):
        torch.randn(4).reshape(3)  # an error puts it back as well
    with randomness.seeded(-4):
        assert not torch.equal(torch.randn(4), first)
    assert torch.equal(before, torch.get_rng_state())


def test_stream_is_fixed_for_good() -> None:
    # A run that was saved must find its tasks again: this number is part of the format.
    assert randomness.stream("train") == randomness.stream("train") < 2**63
    assert len({randomness.stream(name) for name in ["train", "val", "test", "classes", "support"]}) == 5
