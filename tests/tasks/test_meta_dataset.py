from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from episode_checks import check_episodes, make_pool, per_class, same
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kshot.datasets import ImageTransform
from kshot.errors import ConfigError, TooFewClassesError, TooFewExamplesError
from kshot.tasks import MetaDatasetTasks

TRANSFORM = ImageTransform(size=(4, 4), mean=(0.3,), std=(0.7,))


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(2, 60), min_size=5, max_size=9),
    query=st.integers(1, 12),
    max_support=st.integers(9, 120),
    per=st.integers(1, 40),
    seed=st.integers(0, 2**63),
)
def test_every_episode_keeps_the_bounds_of_the_rule(
    counts: list[int], query: int, max_support: int, per: int, seed: int
) -> None:
    pool = make_pool(counts)
    split = MetaDatasetTasks(pool, TRANSFORM, query=query, max_support=max_support, support_per_class=per)
    episodes = split.sample(3, seed=seed)
    check_episodes(episodes, pool, TRANSFORM)
    shots, queries = per_class(episodes.support), per_class(episodes.query)
    for t in range(3):
        present = episodes.support.classes[t]
        way = int(present.sum())
        assert 5 <= way <= min(50, len(counts))
        images = pool.count[episodes.class_ids[t][present]]
        q = min(query, int(images.min()) // 2)
        assert queries[t][present].tolist() == [q] * way
        assert bool((shots[t][present] >= 1).all())
        assert bool((shots[t][present] <= images - q).all())
        largest = int(torch.minimum(images - q, torch.tensor(per)).sum())
        assert way <= int(shots[t].sum()) <= min(max_support, largest)
        assert int(shots[t].max()) <= split.shot
        assert int(queries[t].max()) <= split.query


def test_shots_are_those_of_the_formula_written_plainly() -> None:
    """The rule in Python, a task and a class at a time, from the same uniform numbers."""
    from kshot import randomness
    from kshot.tasks.meta_dataset import SIZE, WAY, WEIGHT

    pool = make_pool([30, 8, 50, 21, 40, 33, 12])
    split = MetaDatasetTasks(pool, TRANSFORM, max_support=60, support_per_class=20)
    episodes = split.sample(20, seed=3, step=4)
    shots, queries = per_class(episodes.support), per_class(episodes.query)
    for t in range(20):
        key = randomness.bits(3, randomness.stream("train"), 4, t)
        w = 5 + int(randomness.integers(3, key, WAY))
        assert int(episodes.support.classes[t].sum()) == w
        n = [int(pool.count[c]) for c in episodes.class_ids[t][:w]]
        q = min(10, math.floor(0.5 * min(n)))
        beta = 1 - float(randomness.uniform(key, SIZE))
        size = min(60, sum(math.ceil(beta * min(20, m - q)) for m in n))
        weight = [
            m * math.exp(math.log(0.5) + math.log(4) * float(randomness.uniform(key, WEIGHT, c)))
            for c, m in enumerate(n)
        ]
        k = [min(math.floor(v / sum(weight) * (size - w)) + 1, m - q) for v, m in zip(weight, n, strict=True)]
        assert shots[t].tolist() == k + [0] * (split.way - w)
        assert queries[t].tolist() == [q] * w + [0] * (split.way - w)


def test_ways_are_uniform_and_shots_imbalanced_towards_large_classes() -> None:
    pool = make_pool([10] * 4 + [40] * 4)
    episodes = MetaDatasetTasks(pool, TRANSFORM).sample(1500, seed=0)
    ways = episodes.support.classes.sum(1)
    assert stats.chisquare(torch.bincount(ways)[5:].numpy()).pvalue > 1e-3
    shots = per_class(episodes.support)
    large = episodes.class_ids >= 4
    assert shots[large].float().mean() > 2 * shots[~large & (episodes.class_ids >= 0)].float().mean()


def test_a_task_is_the_same_on_any_shard() -> None:
    split = MetaDatasetTasks(make_pool([10, 20, 30, 40, 50, 60]), TRANSFORM)
    assert same(split.sample(8, seed=1)[3:5], split.sample(2, seed=1, first=3))


def test_kin_never_meet() -> None:
    pool = make_pool([12] * 6, turned=True)
    split = MetaDatasetTasks(pool, TRANSFORM)
    assert split.ways == (5, 6)
    check_episodes(split.sample(5, seed=0), pool, TRANSFORM)


def test_the_largest_episodes_are_meta_datasets() -> None:
    split = MetaDatasetTasks(make_pool([600] * 60), TRANSFORM)
    assert split.ways == (5, 50)
    assert (split.support_size, split.query_size) == (500, 500)
    assert int(np.max([int(e.support.mask.sum()) for e in split.sample(20, seed=0)])) <= 500


def test_what_the_rule_cannot_work_with_is_refused() -> None:
    with pytest.raises(TooFewClassesError, match="at least way=5 classes in train, got 4 classes"):
        MetaDatasetTasks(make_pool([20] * 4), TRANSFORM)
    with pytest.raises(TooFewExamplesError, match=r"at least 2 examples.*but class 'class2' has 1"):
        MetaDatasetTasks(make_pool([20, 20, 1, 20, 20]), TRANSFORM)
    with pytest.raises(ConfigError, match="expected max_support of at least the largest way, 6, .*; got 5"):
        MetaDatasetTasks(make_pool([20] * 6), TRANSFORM, max_support=5)
