"""Padding that no task needs, and lengths that do not make a new graph each."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import kshot
from kshot import engine, models, testing
from kshot.engine.lengths import EXACT, bucket, few_lengths, trimmed
from kshot.testing.toys import uneven


@given(st.integers(1, 5000))
def test_a_bucket_holds_its_length_and_at_most_half_more(length):
    assert length <= bucket(length) <= max(length * 3 // 2, length)
    assert bucket(bucket(length)) == bucket(length)


def test_there_are_few_buckets():
    assert len({bucket(n) for n in range(1, 1001)}) == 20


def short_tasks():
    """Tasks of up to 25 support examples and 25 queries in more slots than that."""
    episodes = uneven(testing.gaussian_episodes(3))
    widened = few_lengths(episodes, (set(range(EXACT)), set(range(EXACT))))
    assert widened.support.size == bucket(episodes.support.size) and widened.support.padded
    return episodes, widened


@pytest.mark.parametrize("name", ["ProtoNet", "MAML", "LSTMLearner"])
def test_padding_that_no_task_needs_makes_no_difference(name):
    torch.manual_seed(0)
    learner = getattr(kshot, name).tiny()
    episodes, widened = short_tasks()
    shorter = trimmed(widened)
    assert shorter.support.size == int(episodes.support.mask.any(0).nonzero().max()) + 1
    assert shorter.query.size <= episodes.query.size < widened.query.size
    losses, gradient = engine.losses_and_gradient(learner, episodes, "loop")
    for other in (widened, shorter, trimmed(widened, rounded=True)):
        found, found_gradient = engine.losses_and_gradient(learner, other, "vmap")
        torch.testing.assert_close(found, losses, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found_gradient, gradient, rtol=1e-4, atol=1e-5)


def test_what_has_no_padding_is_left_as_it_is():
    episodes = testing.gaussian_episodes(3)
    assert trimmed(episodes, rounded=True).support.x is episodes.support.x
    tasks = uneven(episodes)  # as many slots as the largest has: no more are added
    assert trimmed(tasks, rounded=True).support.size <= tasks.support.size
    known = (set(), set())
    for shot in range(1, 10):  # queries that never vary are never padded, and asking again changes nothing
        made = few_lengths(testing.gaussian_episodes(2, shot=shot), known)
        assert made.query.size == episodes.query.size
        assert made.support.size == (5 * shot if shot <= EXACT else bucket(5 * shot))
        assert few_lengths(testing.gaussian_episodes(2, shot=1), known).support.size == 5
    source = kshot.tasks.load("digits", way=3, shot=(1, 5), query=4)
    sampled = source.test.sample(6, seed=0)
    assert trimmed(sampled, queries=False).query.x is sampled.query.x
    assert trimmed(sampled).support_ids.shape == trimmed(sampled).support.mask.shape


def test_uneven_tasks_share_graphs():
    """Fifteen numbers of examples, one after another: as many graphs as there are sizes, after the first few."""
    torch.manual_seed(0)
    learner = kshot.ProtoNet(models.MLP(8, hidden=(16,)))
    with engine.compile_backend("eager"), warnings.catch_warnings():
        warnings.simplefilter("error")
        for shot in range(1, 16):
            episodes = testing.gaussian_episodes(2, shot=shot, seed=shot)
            expected, gradient = engine.losses_and_gradient(learner, episodes, "loop")
            losses, found = engine.losses_and_gradient(learner, episodes, "compile")
            torch.testing.assert_close(losses, expected)
            torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6)
    graphs = learner._compiled["objective"]._graphs
    buckets = {bucket(5 * shot) for shot in range(EXACT + 1, 16)}
    assert len(graphs) == EXACT + len(buckets) < 10
