"""Unlabelled examples, distractors, and the share of examples that is labelled."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from episode_checks import check_episodes, make_pool, same
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kshot import tasks
from kshot.datasets import ImageTransform, Pool
from kshot.datasets.dataset import Dataset
from kshot.episodes import Episodes
from kshot.errors import ConfigError, TooFewClassesError, TooFewExamplesError
from kshot.tasks import FewShotTasks, VariableTasks, make_split
from kshot.tasks.pooled import PoolTasks
from kshot.tasks.unlabeled import Unlabelling

TRANSFORM = ImageTransform(size=(4, 4), mean=(0.3,), std=(0.7,))


def check_unlabeled(episodes: Episodes, split: PoolTasks) -> None:
    """What must hold for the unlabelled examples of every episode."""
    asked, pool = split.unlabelling, split.pool
    check_episodes(episodes, pool, TRANSFORM)
    unlabeled, every = episodes.support.unlabeled, episodes.unlabeled_ids
    assert unlabeled is not None
    assert isinstance(unlabeled.x, torch.Tensor)
    assert every is not None
    assert episodes.support_ids is not None
    assert episodes.query_ids is not None
    assert unlabeled.size == split.unlabeled_size
    assert unlabeled.padded == (not bool(unlabeled.mask.all()))
    assert torch.equal(unlabeled.mask, every >= 0)
    rows = {c: set(pool.rows(c).tolist()) for c in range(len(pool))}
    labelled = set(split.labelled_rows()[0].tolist())
    for t in range(len(episodes)):
        real = int(unlabeled.mask[t].sum())
        assert bool(unlabeled.mask[t, :real].all()), "padding comes last"
        assert not unlabeled.x[t, real:].any()
        own = [(int(i) // 4, int(i) % 4) for i in every[t, :real]]
        known = torch.cat([episodes.support_ids[t], episodes.query_ids[t]])
        shown = [(int(i) // 4, int(i) % 4) for i in known if i >= 0]
        assert len({row for row, _ in own}) == len(own), "an example twice"
        assert not {row for row, _ in own} & {row for row, _ in shown}, "an example with and without its label"
        classes = [int(c) for c in episodes.class_ids[t] if c >= 0]
        of_task = [i for i in own if any(i[0] in rows[c] for c in classes)]
        others = [i for i in own if i not in of_task]
        assert len(of_task) == len(classes) * asked.unlabeled
        for c in classes:
            assert sum(row in rows[c] for row, _ in of_task) == asked.unlabeled
        kin = {int(pool.kin[c]) for c in classes}
        away = {int(pool.kin[c]) for c in range(len(pool)) for row, _ in others if row in rows[c]}
        assert len(away) == asked.distractors
        assert not kin & away
        assert len(others) == asked.distractors * asked.unlabeled
        for (row, turn), x in zip(own, unlabeled.x[t], strict=False):
            assert torch.equal(x, TRANSFORM.normalise(torch.rot90(pool.x[row], turn, (-2, -1))))
        if asked.labelled < 1 and not bool(pool.turns.any()):  # turned copies of a row have labels of their own
            assert {row for row, _ in shown} <= labelled
            assert not {row for row, _ in own} & labelled


@settings(max_examples=40)
@given(
    way=st.integers(2, 4),
    shot=st.integers(1, 2),
    unlabeled=st.integers(1, 4),
    distractors=st.integers(0, 3),
    labelled=st.sampled_from([1.0, 0.5]),
    seed=st.integers(0, 2**63),
    turned=st.booleans(),
    random_turns=st.booleans(),
)
def test_unlabelled_examples_are_what_they_say(
    way: int,
    shot: int,
    unlabeled: int,
    distractors: int,
    labelled: float,
    seed: int,
    turned: bool,
    random_turns: bool,
) -> None:
    pool = replace(make_pool([8, 9, 10, 11, 12, 8, 9], turned), random_turns=random_turns)
    split = make_split(
        pool,
        TRANSFORM,
        way=way,
        shot=shot,
        query=2,
        unlabeled=unlabeled,
        distractors=distractors,
        labelled=labelled,
    )
    episodes = split.sample(3, seed=seed)
    check_unlabeled(episodes, split)
    assert episodes.support.unlabeled is not None
    assert episodes.support.unlabeled.mask.all()
    # Any number of unlabelled examples: the task is the same.
    without = split.replace(unlabeled=0, distractors=0).sample(3, seed=seed)
    assert without.support.unlabeled is None
    assert without.unlabeled_ids is None
    assert same(episodes.without_unlabeled(), without)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**63), unlabeled=st.integers(1, 3), labelled=st.sampled_from([1.0, 0.6]))
def test_uneven_tasks_have_theirs_padded(seed: int, unlabeled: int, labelled: float) -> None:
    pool = make_pool([12] * 8)
    options = {"way": (2, 5), "shot": (1, 3), "query": (1, 2), "distractors": 2}
    split = make_split(pool, TRANSFORM, **options, unlabeled=unlabeled, labelled=labelled)
    assert isinstance(split, VariableTasks)
    episodes = split.sample(4, seed=seed)
    check_unlabeled(episodes, split)
    assert episodes.support.unlabeled is not None
    assert episodes.support.unlabeled.size == 7 * unlabeled
    ways = episodes.support.classes.sum(1)
    assert torch.equal(episodes.support.unlabeled.mask.sum(1), (ways + 2) * unlabeled)


@settings(max_examples=20)
@given(
    first=st.integers(0, 6), number=st.integers(1, 4), step=st.integers(0, 10**6), labelled=st.sampled_from([1, 0.5])
)
def test_a_task_is_the_same_on_any_shard(first: int, number: int, step: int, labelled: float) -> None:
    pool = make_pool([10] * 8, turned=True)
    split = FewShotTasks(pool, TRANSFORM, way=3, shot=1, query=2, unlabeled=3, distractors=2, labelled=labelled)
    whole = split.sample(10, seed=5, step=step)
    assert same(whole[first : first + number], split.sample(number, seed=5, step=step, first=first))


def test_unlabelled_examples_are_shuffled_and_uniform(pool: Pool) -> None:
    split = FewShotTasks(pool, TRANSFORM, way=2, shot=1, query=1, unlabeled=2, distractors=2)
    ids = split.sample(4000, seed=0).unlabeled_ids
    assert ids is not None
    counts = torch.bincount(ids.flatten() // 4, minlength=160).numpy()
    assert stats.chisquare(counts).pvalue > 1e-3
    episodes = split.sample(4000, seed=1)
    assert episodes.unlabeled_ids is not None
    owner = episodes.unlabeled_ids // 4 // 20
    distractor = (owner[:, :, None] != episodes.class_ids[:, None]).all(-1)
    at = distractor.sum(0).numpy()  # of 8 places, each holds a distractor as often as any other
    assert stats.chisquare(at).pvalue > 1e-3


def test_the_same_examples_are_labelled_in_every_task_and_subset(pool: Pool) -> None:
    split = FewShotTasks(pool, TRANSFORM, way=3, shot=1, query=1, unlabeled=5, labelled=0.1)
    rows, owner = split.labelled_rows()
    assert np.bincount(owner).tolist() == [2] * 8
    assert (rows // 20 == owner).all()
    episodes = split.sample(500, seed=0)
    assert episodes.support_ids is not None
    assert episodes.query_ids is not None
    assert episodes.unlabeled_ids is not None
    shown = set((torch.cat([episodes.support_ids, episodes.query_ids], 1) // 4).flatten().tolist())
    assert shown == set(rows.tolist())
    assert set((episodes.unlabeled_ids // 4).flatten().tolist()) == set(range(160)) - shown
    part = split.subset([5, 2, 7])
    assert isinstance(part, PoolTasks)
    assert set(part.labelled_rows()[0].tolist()) == {r for r in rows.tolist() if r // 20 in (5, 2, 7)}
    other = split.replace(labelled_seed=1)
    assert isinstance(other, PoolTasks)
    assert set(other.labelled_rows()[0].tolist()) != shown
    val = FewShotTasks(pool, TRANSFORM, "val", way=3, shot=1, query=1, labelled=0.1)
    assert (val.labelled_rows()[0] == rows).all()


def test_every_turn_of_a_class_has_labels_of_its_own() -> None:
    """A turned copy is a class of its own, with as many labelled examples as any: not the same drawings."""
    split = FewShotTasks(make_pool([20] * 6, turned=True), TRANSFORM, way=3, shot=1, query=1, labelled=0.1)
    rows, owner = split.labelled_rows()
    assert np.bincount(owner).tolist() == [2] * 24
    by_class = [frozenset(rows[owner == c].tolist()) for c in range(24)]
    assert len(set(by_class)) > 6


def test_a_share_is_rounded_down_and_one_is_all(pool: Pool) -> None:
    assert Unlabelling(labelled=0.29).labelled_counts(np.array([100, 7, 3])).tolist() == [29, 2, 0]
    every = FewShotTasks(pool, TRANSFORM, way=3, labelled=1.0)
    rows, owner = every.labelled_rows()
    assert rows.tolist() == list(range(160))
    assert owner.tolist() == [r // 20 for r in range(160)]
    assert same(every.sample(3, seed=0), FewShotTasks(pool, TRANSFORM, way=3).sample(3, seed=0))


def test_options_that_were_not_asked_for_are_not_said(pool: Pool) -> None:
    split = FewShotTasks(pool, TRANSFORM, way=3, unlabeled=2, labelled=1.0)
    assert repr(split) == "<FewShotTasks train: way=3, shot=1, query=15, unlabeled=2>"
    assert split.replace(unlabeled=0).options == {"way": 3, "shot": 1, "query": 15}
    assert split.unlabeled_size == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distractors": 2}, r"unlabelled examples with distractors=2, got unlabeled=0: say how many .* unlabeled=5"),
        ({"unlabeled": -1}, "expected unlabeled to be a whole number of at least 0, got -1"),
        ({"unlabeled": (1, 5)}, r"expected unlabeled to be a whole number of at least 0, got \(1, 5\)"),
        ({"unlabeled": 1, "distractors": 1.5}, "expected distractors to be a whole number of at least 0, got 1.5"),
        ({"labelled": 0}, r"expected labelled to be a share in \(0, 1\], got 0: 0.1 is a tenth of each class"),
        ({"labelled": 10}, r"expected labelled to be a share in \(0, 1\], got 10"),
        ({"unlabelled": 3}, "unknown option 'unlabelled' for the tasks of train. Did you mean 'unlabeled'?"),
        ({"sampling": "meta_dataset", "unlabeled": 3}, "'unlabeled' is no option of sampling='meta_dataset'"),
    ],
)
def test_what_makes_no_sense_is_refused(pool: Pool, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_split(pool, TRANSFORM, **options)


def test_too_few_classes_and_examples(pool: Pool) -> None:
    with pytest.raises(
        TooFewClassesError,
        match=r"at least way=5 \+ distractors=4 classes in train, got 8 classes. Add classes, or use fewer "
        r"distractors or a smaller way \(way \+ distractors <= 8\)",
    ):
        FewShotTasks(pool, TRANSFORM, unlabeled=2, distractors=4, query=5)
    with pytest.raises(
        TooFewExamplesError,
        match=r"at least 21 examples \(shot=1 \+ query=15 \+ unlabeled=5\) of every class in train, but class 'class0' "
        r"has 20 \(8 classes are too small\)\. .* ask for fewer \(shot \+ query \+ unlabeled <= 20\)",
    ):
        FewShotTasks(pool, TRANSFORM, unlabeled=5)
    with pytest.raises(
        TooFewExamplesError,
        match=r"at least 16 labelled examples \(shot=1 \+ query=15\) of every class in train, but class 'class0' has 2 "
        r"of its 20 .* raise labelled=0.1, or ask for fewer \(shot \+ query <= 2\)",
    ):
        FewShotTasks(pool, TRANSFORM, labelled=0.1)
    with pytest.raises(
        TooFewExamplesError,
        match=r"at least 5 unlabelled examples \(unlabeled=5\) of every class in train, but class 'class0' has 2 of "
        r"its 20 .* lower labelled=0.9, or ask for fewer \(unlabeled <= 2\)",
    ):
        FewShotTasks(pool, TRANSFORM, unlabeled=5, labelled=0.9)


def test_load_hands_them_to_the_splits() -> None:
    whole = make_pool([20] * 24)
    pools = {n: whole.select(range(8 * i, 8 * i + 8)) for i, n in enumerate(("train", "val", "test"))}
    dataset = Dataset("noise", pools["train"], pools["val"], pools["test"], TRANSFORM)
    source = tasks.load(dataset, way=3, query=5, unlabeled=5, distractors=2, train={"labelled": 0.1, "query": 1})
    assert source.train.options["labelled"] == 0.1
    assert "labelled" not in source.test.options
    assert source.test.unlabeled_size == 25
    assert source.spec["unlabeled"] == 5
    assert json.loads(json.dumps(source.spec)) == source.spec
    with pytest.raises(ConfigError, match="unknown option 'distractor' for the tasks of noise. Did you mean"):
        tasks.load(dataset, distractor=2)
    with pytest.raises(ConfigError, match="unknown option 'unlabeled' for tasks of Sinusoids"):
        tasks.load("sinusoids", unlabeled=5)


@pytest.mark.usefixtures("real_data")
def test_omniglot_as_in_the_paper() -> None:
    """Two labelled drawings of a class and eighteen without in training; all of them in the test."""
    source = tasks.load(
        "omniglot", way=5, shot=1, query=5, unlabeled=5, distractors=5, train={"labelled": 0.1, "query": 1}
    )
    for split in (source.train, source.test):
        assert isinstance(split, PoolTasks)
        assert split.transform is not None
        episodes = split.sample(4, seed=0)
        assert episodes.unlabeled_ids is not None
        assert episodes.support_ids is not None
        assert episodes.query_ids is not None
        assert episodes.support.unlabeled is not None
        assert episodes.support.unlabeled.x.shape == (4, 50, 1, 28, 28)
        ids = torch.cat([episodes.support_ids, episodes.query_ids, episodes.unlabeled_ids], 1)
        assert all(len(set(row.tolist())) == len(row) for row in ids // 4)
    assert isinstance(source.train, PoolTasks)
    assert set(np.bincount(source.train.labelled_rows()[1]).tolist()) == {2}
    again = tasks.load(**json.loads(json.dumps(source.spec)))
    assert same(source.train.sample(2, seed=0), again.train.sample(2, seed=0))
