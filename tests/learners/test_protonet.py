"""ProtoNet's options: the learned scale and the exchanged episode."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import kshot
from kshot import engine, testing
from kshot.errors import UnsupportedError


def build(**options):
    torch.manual_seed(0)
    return kshot.ProtoNet(kshot.models.MLP(8, hidden=(16,)), **options).double()


def episodes(query=5):
    return testing.gaussian_episodes(3, shot=2, query=query, dtype=torch.float64)


def test_a_scale_multiplies_the_distances_and_is_learned():
    plain, scaled, task = build(), build(scale=0.25), episodes()[0]
    logits = kshot.adapt(scaled, task.support).predict(task.query.x)
    torch.testing.assert_close(logits, 0.25 * kshot.adapt(plain, task.support).predict(task.query.x))
    engine.task_losses(scaled, episodes(), "native").mean().backward()
    assert scaled.log_scale.grad.abs() > 0
    with pytest.raises(UnsupportedError, match="expected a positive scale, got 0"):
        build(scale=0)


def test_symmetric_is_the_mean_over_both_episodes():
    batch = episodes()
    exchanged = replace(batch, support=batch.query, query=batch.support)
    expected = (engine.task_losses(build(), batch, "loop") + engine.task_losses(build(), exchanged, "loop")) / 2
    torch.testing.assert_close(engine.task_losses(build(symmetric=True), batch, "native"), expected)


def test_a_class_without_queries_has_no_place_in_the_exchanged_episode():
    batch = episodes()
    without = replace(batch, query=replace(batch.query, mask=batch.query.y != 4, padded=True))
    four = testing.gaussian_episodes(3, shot=2, query=5, dtype=torch.float64)
    keep = four.support.y[0] != 4
    rest = four.support.map(lambda t: t[:, keep] if t.shape[1:2] == keep.shape else t[:, :4])
    query = four.query.map(lambda t: t[:, four.query.y[0] != 4] if t.shape[1:2] == four.query.y.shape[1:] else t[:, :4])
    exchanged = replace(four, support=query, query=rest)
    expected = (engine.task_losses(build(), without, "loop") + engine.task_losses(build(), exchanged, "loop")) / 2
    torch.testing.assert_close(engine.task_losses(build(symmetric=True), without, "native"), expected)
