from __future__ import annotations

import pytest
import torch
from episode_checks import check_episodes, make_pool, per_class, same
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kshot.datasets import ImageTransform, Pool
from kshot.errors import ConfigError, TooFewClassesError, TooFewExamplesError
from kshot.tasks import VariableTasks

TRANSFORM = ImageTransform(size=(4, 4), mean=(0.3,), std=(0.7,))


def ranges(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high)).map(lambda ends: (min(ends), max(ends)))


@settings(max_examples=60, deadline=None)
@given(
    way=ranges(2, 6),
    shot=ranges(1, 5),
    query=ranges(1, 4),
    number=st.integers(1, 4),
    seed=st.integers(0, 2**63),
    turned=st.booleans(),
)
def test_every_episode_is_what_it_says(
    way: tuple[int, int], shot: tuple[int, int], query: tuple[int, int], number: int, seed: int, turned: bool
) -> None:
    pool = make_pool([9, 10, 11, 12, 9, 10, 9], turned)
    split = VariableTasks(pool, TRANSFORM, way=way, shot=shot, query=query)
    episodes = split.sample(number, seed=seed)
    check_episodes(episodes, pool, TRANSFORM)
    assert (split.way, split.shot, split.query) == (way[1], shot[1], query[1])
    assert episodes.support.x.shape == (number, way[1] * shot[1], 1, 4, 4)
    assert episodes.query.x.shape == (number, way[1] * query[1], 1, 4, 4)
    assert episodes.class_ids.shape == (number, way[1])
    ways = episodes.support.classes.sum(1)
    assert bool(((ways >= way[0]) & (ways <= way[1])).all())
    for examples, (low, high) in ((episodes.support, shot), (episodes.query, query)):
        counts = per_class(examples)
        present = examples.classes
        assert bool(((counts[present] >= low) & (counts[present] <= high)).all())
        assert not counts[~present].any()


@settings(max_examples=30, deadline=None)
@given(first=st.integers(0, 6), number=st.integers(1, 4), seed=st.integers(0, 100))
def test_a_task_is_the_same_on_any_shard(first: int, number: int, seed: int) -> None:
    # The tasks of a batch differ in size, so this also says that none depends on the largest beside it.
    split = VariableTasks(make_pool([12] * 8), TRANSFORM, way=(2, 7), shot=(1, 6), query=(1, 6))
    assert same(split.sample(10, seed=seed)[first : first + number], split.sample(number, seed=seed, first=first))


def test_way_shot_and_query_are_uniform(pool: Pool) -> None:
    split = VariableTasks(pool, TRANSFORM, way=(2, 5), shot=(1, 4), query=(3, 5))
    episodes = split.sample(3000, seed=0)
    classes = episodes.support.classes
    assert stats.chisquare(torch.bincount(classes.sum(1))[2:].numpy()).pvalue > 1e-3
    assert stats.chisquare(torch.bincount(per_class(episodes.support)[classes])[1:].numpy()).pvalue > 1e-3
    assert stats.chisquare(torch.bincount(per_class(episodes.query)[classes])[3:].numpy()).pvalue > 1e-3
    assert stats.chisquare(torch.bincount(episodes.class_ids[classes]).numpy()).pvalue > 1e-3


def test_a_number_is_a_range_of_one(pool: Pool) -> None:
    episodes = VariableTasks(pool, TRANSFORM, way=3, shot=2, query=1).sample(2, seed=0)
    assert episodes.support.mask.all()
    assert per_class(episodes.support).tolist() == [[2, 2, 2]] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"way": (5, 2)}, r"expected way to be \(smallest, largest\), got \(5, 2\): swap them"),
        ({"shot": (1, 2, 3)}, r"expected shot to be a number or \(smallest, largest\), got \(1, 2, 3\)"),
        ({"query": (0, 2)}, "expected each end of query to be a whole number of at least 1, got 0"),
        ({"way": "5-20"}, "expected way to be a whole number of at least 2, got '5-20'"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(pool: Pool, options: dict[str, tuple[int, int]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VariableTasks(pool, TRANSFORM, **options)


def test_the_largest_task_must_be_possible(pool: Pool) -> None:
    with pytest.raises(TooFewClassesError, match="at least way=9 classes in train, got 8 classes"):
        VariableTasks(pool, TRANSFORM, way=(2, 9), shot=1, query=1)
    with pytest.raises(TooFewExamplesError, match=r"at least 21 examples \(largest shot=10 \+ largest query=11\)"):
        VariableTasks(pool, TRANSFORM, way=2, shot=(1, 10), query=(1, 11))
