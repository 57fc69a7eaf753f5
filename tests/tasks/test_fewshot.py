from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from episode_checks import check_episodes, make_pool, same
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kshot import tasks
from kshot.datasets import IdentityTransform, ImageTransform, Pool
from kshot.errors import ConfigError, TooFewClassesError, TooFewExamplesError
from kshot.tasks import FewShotTasks
from kshot.tasks.split import TaskSplit

TRANSFORM = ImageTransform(size=(4, 4), mean=(0.3,), std=(0.7,))
COLOURED = ImageTransform(size=(4, 4), channels=3, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


@settings(max_examples=60, deadline=None)
@given(
    way=st.integers(2, 6),
    shot=st.integers(1, 4),
    query=st.integers(1, 4),
    number=st.integers(1, 4),
    seed=st.integers(0, 2**63),
    turned=st.booleans(),
    random_turns=st.booleans(),
    coloured=st.booleans(),
)
def test_every_episode_is_what_it_says(
    way: int, shot: int, query: int, number: int, seed: int, turned: bool, random_turns: bool, coloured: bool
) -> None:
    pool = replace(
        make_pool([8, 9, 10, 11, 12, 8, 9], turned, channels=3 if coloured else 1), random_turns=random_turns
    )
    transform = COLOURED if coloured else TRANSFORM
    split = FewShotTasks(pool, transform, way=way, shot=shot, query=query)
    episodes = split.sample(number, seed=seed)
    check_episodes(episodes, pool, transform)
    assert episodes.support.x.shape == (number, way * shot, 3 if coloured else 1, 4, 4)
    assert episodes.query.x.shape == (number, way * query, 3 if coloured else 1, 4, 4)
    assert episodes.support.mask.all()
    assert episodes.query.mask.all()
    for t in range(number):
        assert torch.bincount(episodes.support.y[t], minlength=way).tolist() == [shot] * way
        assert torch.bincount(episodes.query.y[t], minlength=way).tolist() == [query] * way


def test_features_are_sampled_as_images_are() -> None:
    x = torch.randn(30, 7)
    pool = Pool.from_arrays(x, np.arange(30) % 5)
    split = FewShotTasks(pool, IdentityTransform(), way=3, shot=2, query=3)
    check_episodes(split.sample(5, seed=0), pool, IdentityTransform())
    assert split.example_shape == (7,)


@settings(max_examples=30, deadline=None)
@given(first=st.integers(0, 6), number=st.integers(0, 4), step=st.integers(0, 10**6), seed=st.integers(0, 100))
def test_a_task_is_the_same_on_any_shard(first: int, number: int, step: int, seed: int) -> None:
    split = FewShotTasks(make_pool([6] * 8, turned=True), TRANSFORM, way=4, shot=2, query=3)
    whole = split.sample(10, seed=seed, step=step)
    part = split.sample(number, seed=seed, step=step, first=first)
    assert same(whole[first : first + number], part)


def test_batches_are_the_samples_of_their_steps(pool: Pool) -> None:
    split = FewShotTasks(pool, TRANSFORM, way=3, shot=1, query=2)
    batches = list(split.batches(4, steps=3, seed=9, start=5))
    assert len(batches) == 3
    for step, batch in enumerate(batches, start=5):
        assert same(batch, split.sample(4, seed=9, step=step))
    part = next(iter(split.batches(2, steps=1, seed=9, start=5, first=2)))
    assert same(part, batches[0][2:4])


def test_seed_step_task_and_split_each_make_another_task(pool: Pool) -> None:
    def ids(split: TaskSplit, **at: int) -> list[int]:
        drawn = split.sample(1, **{"seed": 0, **at}).support_ids
        assert drawn is not None
        return drawn.flatten().tolist()

    train, val = (FewShotTasks(pool, TRANSFORM, name, way=4, shot=3) for name in ("train", "val"))
    drawn = [ids(train), ids(train, seed=1), ids(train, step=1), ids(train, first=1), ids(val)]
    assert len({tuple(row) for row in drawn}) == 5
    assert ids(train) == drawn[0]


def test_classes_labels_and_examples_are_uniform(pool: Pool) -> None:
    split = FewShotTasks(pool, TRANSFORM, way=2, shot=1, query=1)
    episodes = split.sample(8000, seed=0)
    pairs = torch.bincount(episodes.class_ids @ torch.tensor([8, 1]), minlength=64).reshape(8, 8)
    assert not pairs.diagonal().any()
    assert stats.chisquare(pairs[~torch.eye(8, dtype=torch.bool)].numpy()).pvalue > 1e-3
    assert episodes.support_ids is not None
    for ids in (episodes.support_ids, episodes.query_ids):
        assert ids is not None
        assert stats.chisquare(torch.bincount(ids.flatten() // 4, minlength=160).numpy()).pvalue > 1e-3
    assert stats.chisquare(torch.bincount(episodes.support.y[:, 0]).numpy()).pvalue > 1e-3, "the support is shuffled"


def test_kin_are_uniform_then_their_classes() -> None:
    pool = make_pool([2] * 5)
    pool = replace(pool, kin=torch.tensor([0, 0, 0, 1, 2]))
    episodes = FewShotTasks(pool, TRANSFORM, way=2, shot=1, query=1).sample(9000, seed=0)
    counts = torch.bincount(episodes.class_ids.flatten(), minlength=5)
    assert stats.chisquare(counts.numpy(), np.array([2000, 2000, 2000, 6000, 6000])).pvalue > 1e-3


def test_random_turns_are_uniform_and_shared_by_a_class_of_an_episode() -> None:
    pool = replace(make_pool([6] * 4), random_turns=True)
    episodes = FewShotTasks(pool, TRANSFORM, way=3, shot=2, query=2).sample(2000, seed=0)
    assert episodes.support_ids is not None
    assert episodes.query_ids is not None
    y = torch.cat([episodes.support.y, episodes.query.y], 1)
    turn = torch.cat([episodes.support_ids, episodes.query_ids], 1) % 4
    of_class = torch.stack([torch.where(y == c, turn, 0).amax(1) for c in range(3)], 1)
    assert torch.equal(of_class.gather(1, y), turn)
    assert stats.chisquare(torch.bincount(of_class.flatten()).numpy()).pvalue > 1e-3


def test_nothing_global_is_touched(pool: Pool) -> None:
    before, x = torch.get_rng_state(), pool.x.clone()
    FewShotTasks(pool, TRANSFORM, way=3).sample(4, seed=0)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(x, pool.x)


def test_replace_and_subset_make_another_split(pool: Pool) -> None:
    split = FewShotTasks(pool, TRANSFORM, way=3, shot=1, query=2)
    assert split.replace(shot=5).shot == 5
    assert split.replace(shot=5).query == 2
    assert isinstance(split.replace(way=(2, 4)), tasks.VariableTasks)
    some = split.subset([1, 4, 6])
    assert len(some.pool or ()) == 3
    assert (some.way, some.shot, some.query, some.name) == (3, 1, 2, "train")
    check_episodes(some.sample(3, seed=0), pool.select([1, 4, 6]), TRANSFORM)
    assert len(split.subset(torch.arange(8) < 4).pool or ()) == 4
    with pytest.raises(TooFewClassesError):
        split.subset([0, 1])
    with pytest.raises(ConfigError, match="unknown option 'shots' for the tasks of train. Did you mean 'shot'?"):
        split.replace(shots=3)


def test_too_few_classes_says_how_many_and_what_to_do() -> None:
    with pytest.raises(TooFewClassesError, match=r"at least way=6 classes in val, got 4 classes.*val=dict\(way=4\)"):
        FewShotTasks(make_pool([9] * 4), TRANSFORM, "val", way=6)
    with pytest.raises(TooFewClassesError, match="got 12 classes of only 3 kinds that may meet in one task"):
        FewShotTasks(make_pool([20] * 3, turned=True), TRANSFORM, way=5)


def test_too_few_examples_names_the_class_and_the_numbers() -> None:
    pool = make_pool([20, 20, 7, 20, 9])
    with pytest.raises(
        TooFewExamplesError,
        match=r"at least 16 examples \(shot=1 \+ query=15\) of every class in train, but class 'class2' has 7 "
        r"\(2 classes are too small\)\. Add examples, remove the class, or ask for fewer \(shot \+ query <= 7\)",
    ):
        FewShotTasks(pool, TRANSFORM)
    assert FewShotTasks(pool, TRANSFORM, shot=1, query=6).sample(1, seed=0)


def test_an_empty_class_is_refused() -> None:
    with pytest.raises(TooFewExamplesError, match="class 'class1' has none"):
        FewShotTasks(make_pool([3, 0, 3]), TRANSFORM, way=2, shot=1, query=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"way": 1}, "expected way to be a whole number of at least 2, got 1"),
        ({"shot": 0}, "expected shot to be a whole number of at least 1, got 0"),
        ({"query": "15"}, "expected query to be a whole number of at least 1, got '15'"),
        ({"shot": True}, "expected shot to be a whole number of at least 1, got True"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(pool: Pool, options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FewShotTasks(pool, TRANSFORM, **options)


def test_sampling_refuses_what_it_cannot_count(pool: Pool) -> None:
    split = FewShotTasks(pool, TRANSFORM, way=3)
    assert len(split.sample(0, seed=0)) == 0
    with pytest.raises(ConfigError, match="at least 0, got -1, 0 and 0"):
        split.sample(-1, seed=0)
    with pytest.raises(ConfigError, match="meta_batch of at least 1"):
        next(iter(split.batches(0, steps=1)))


def test_a_split_of_its_own_has_no_source(pool: Pool) -> None:
    split = FewShotTasks(pool, TRANSFORM, "test", way=3)
    with pytest.raises(ConfigError, match=r"'test' belongs to no task source: make one with kshot\.tasks\.load"):
        _ = split.source
    assert repr(split) == "<FewShotTasks test: way=3, shot=1, query=15>"
