"""The tasks of the Neural Turing Machine: each against slow Python that reads its input as a person would."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from episode_checks import same
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kshot import tasks
from kshot.errors import ConfigError, OverlappingSplitsError, UnsupportedError
from kshot.tasks import SEQUENCES, SequenceTasks, TaskSource

Rows = list[list[float]]


def copied(x: Rows, width: int) -> Rows:
    assert x[-1] == [0.0] * width + [1.0], "the delimiter ends the input"
    assert all(row[width] == 0 for row in x[:-1])
    return [row[:width] for row in x[:-1]]


def repeated(x: Rows, width: int) -> Rows:
    assert x[-1][: width + 1] == [0.0] * width + [1.0]
    repeats = round(x[-1][width + 1] * math.sqrt(8.25) + 5.5)
    vectors = [[*row[:width], 0.0] for row in x[:-1]]
    assert all(row[width:] == [0.0, 0.0] for row in x[:-1])
    return vectors * repeats + [[0.0] * width + [1.0]]


def recalled(x: Rows, width: int) -> Rows:
    items: list[Rows] = []
    for row in x:
        if row[width] or row[width + 1]:
            items.append([])
        else:
            items[-1].append(row[:width])
    asked, after = items[-2], items[-1]
    assert after == [], "the second of the question's delimiters ends the input"
    assert x[-1] == [0.0] * width + [0.0, 1.0]
    known = items[:-2]
    return known[[item == asked for item in known].index(True) + 1]


def sorted_by_priority(x: Rows, width: int, top: int = 16) -> Rows:
    assert x[-1] == [0.0] * width + [1.0, 0.0]
    ranked = sorted(x[:-1], key=lambda row: -row[width + 1])
    return [row[:width] for row in ranked[:top]]


ANSWERS = {
    "copy": copied,
    "repeat_copy": repeated,
    "associative_recall": recalled,
    "priority_sort": sorted_by_priority,
}


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("longest", [None, 10, 25])
def test_the_answers_are_right(name: str, longest: int | None) -> None:
    options = {"length": (2, longest)} if longest and name == "priority_sort" else {}
    split = tasks.load(name, **options).train
    episodes = split.sample(40, seed=3)
    assert isinstance(episodes.support.x, torch.Tensor)
    assert isinstance(episodes.query.x, torch.Tensor)
    assert not episodes.query.x.any(), "what is answered to is blank"
    lengths = set()
    for task in episodes:
        support, query = task.support, task.query
        assert isinstance(support.x, torch.Tensor)
        # Padding comes last, and holds nothing.
        for examples in (support, query):
            count = int(examples.mask.sum())
            assert bool(examples.mask[:count].all())
            assert isinstance(examples.x, torch.Tensor)
            assert not examples.x[count:].any()
            assert not examples.y[count:].any()
        lengths.add(int(support.mask.sum()))
        expected = ANSWERS[name](support.x[support.mask].double().tolist(), split.options["width"])
        assert query.y[query.mask].tolist() == expected
    assert len(lengths) > 1 or (name == "priority_sort" and not longest)
    assert split.query_size == episodes.query.y.shape[1]
    if name == "priority_sort":
        assert split.query_size == min(16, longest or 20)


@pytest.mark.parametrize(
    ("name", "steps", "channels", "answers", "bits"),
    [
        ("copy", 21, 9, 20, 8),
        ("repeat_copy", 11, 10, 101, 9),
        ("associative_recall", 29, 8, 3, 6),
        ("priority_sort", 21, 10, 16, 8),
    ],
)
def test_they_are_those_of_the_paper(name: str, steps: int, channels: int, answers: int, bits: int) -> None:
    source = tasks.load(name)
    assert (source.kind, source.example_shape, source.train.way) == ("sequence", (channels,), 0)
    episodes = source.train.sample(2, seed=0)
    assert isinstance(episodes.support.x, torch.Tensor)
    assert episodes.support.x.shape == (2, steps, channels)
    assert episodes.support.y.shape == (2, steps, 0)
    assert episodes.query.y.shape == (2, answers, bits)
    assert (source.train.support_size, source.train.query_size) == (steps, answers)
    assert episodes.class_ids.shape == (2, 0)


def test_lengths_bits_and_priorities_are_uniform() -> None:
    episodes = tasks.load("copy").train.sample(4000, seed=0)
    lengths = episodes.query.mask.sum(1).numpy()
    assert stats.chisquare(np.bincount(lengths, minlength=21)[1:]).pvalue > 1e-3
    bits = episodes.query.y[episodes.query.mask]
    assert abs(float(bits.mean()) - 0.5) < 5 * 0.5 / math.sqrt(bits.numel())
    support = tasks.load("priority_sort").train.sample(300, seed=0).support
    assert isinstance(support.x, torch.Tensor)
    assert stats.kstest(support.x[:, :20, 9].flatten().numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3
    repeats = tasks.load("repeat_copy").train.sample(3000, seed=0).support
    assert isinstance(repeats.x, torch.Tensor)
    count = repeats.x[..., 9].sum(1)
    assert abs(float(count.mean())) < 0.1
    assert abs(float(count.std()) - 1) < 0.05


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(SEQUENCES)),
    number=st.integers(0, 4),
    first=st.integers(0, 4),
    seed=st.integers(0, 2**63),
)
def test_a_task_is_the_same_whatever_is_sampled_beside_it(name: str, number: int, first: int, seed: int) -> None:
    split = tasks.load(name).train
    assert same(split.sample(8, seed=seed)[first : first + number], split.sample(number, seed=seed, first=first))


@pytest.mark.parametrize("name", SEQUENCES)
def test_batches_are_the_samples_of_their_steps(name: str) -> None:
    split = tasks.load(name).val
    for i, batch in enumerate(split.batches(3, steps=70, seed=2, start=7)):
        if i in (0, 1, 63, 64, 69):
            assert same(batch, split.sample(3, seed=2, step=7 + i))


def test_splits_differ_and_may_be_longer() -> None:
    source = tasks.load("copy", length=(1, 3), test={"length": 7})
    assert source.test.sample(2, seed=0).query.mask.sum(1).tolist() == [7, 7]
    assert source.train.query_size == 3
    again = tasks.load(**json.loads(json.dumps(source.spec)))
    assert same(again.test.sample(3, seed=0), source.test.sample(3, seed=0))
    wide = tasks.load("copy", length=20)
    assert not torch.equal(wide.train.sample(1, seed=0).query.y, wide.val.sample(1, seed=0).query.y)
    assert wide.train.replace(length=(2, 2)).sample(1, seed=0).query.mask.sum() == 2
    assert wide.train.replace(length=5).source is wide
    train = SequenceTasks(SEQUENCES["copy"](), "train")
    with pytest.raises(OverlappingSplitsError, match="stream of its own, got the names train, train"):
        TaskSource("twice", {"train": train, "test": train}, example_shape=(9,))
    with pytest.raises(UnsupportedError, match="no classes to choose from"):
        train.subset([0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("copy", {"lenght": 3}, "unknown option 'lenght' for tasks of Copy. Did you mean 'length'?"),
        ("copy", {"length": (5, 1)}, r"expected length to be \(smallest, largest\), got \(5, 1\): swap them"),
        ("copy", {"length": 0}, "expected length to be a whole number of at least 1, got 0"),
        ("copy", {"width": 2.5}, "expected width to be a whole number of at least 1, got 2.5"),
        ("repeat_copy", {"repeats": "two"}, "expected repeats to be a whole number of at least 1, got 'two'"),
        (
            "associative_recall",
            {"items": 1},
            "expected the smallest number of items to be a whole number of at least 2, got 1",
        ),
        ("priority_sort", {"top": 0}, "expected top to be a whole number of at least 1, got 0"),
        ("priority_sort", {"priority": (1, 0)}, r"expected priority to be a number or \(lowest, highest\)"),
        ("copy", {"test": {"width": 4}}, r"one width in all splits, got train \(8\), val \(8\), test \(4\)"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tasks.load(name, **options)  # type: ignore[arg-type]
