"""Queries as the unlabelled set."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import kshot
from kshot import engine, testing
from kshot.episodes import Unlabeled
from kshot.errors import UnsupportedError
from kshot.randomness import seeded


def build(cls, **options):
    with seeded(0):
        return cls(kshot.models.MLP(8, hidden=(16,)), **options).double().eval()


@pytest.mark.parametrize("steps", [1, 3])
def test_it_is_plain_soft_kmeans_on_the_queries(steps):
    learner = build(kshot.TransductiveProtoNet, steps=steps, scale=0.5)
    other = build(kshot.SoftKMeansProtoNet, variant="plain", steps=steps, scale=0.5)
    episodes = testing.gaussian_episodes(4, dtype=torch.float64)
    asked = Unlabeled(episodes.query.x, episodes.query.mask)
    same = replace(episodes, support=replace(episodes.support, unlabeled=asked))
    torch.testing.assert_close(
        engine.predict_queries(learner, episodes, "native"), engine.predict_queries(other, same, "native")
    )


def test_a_prediction_depends_on_the_other_queries_and_not_on_padding():
    learner = build(kshot.TransductiveProtoNet)
    task = testing.gaussian_episodes(1, dtype=torch.float64)[0]
    z, adapted = engine.compute_features(learner, task.query.x), learner.adapt(engine.featured(learner, task.support))
    together, alone = learner.predict(adapted, z), learner.predict(adapted, z[:3])
    assert not torch.allclose(together[:3], alone)
    mask = torch.arange(len(z)) < 3
    torch.testing.assert_close(learner.predict(adapted, z, mask=mask)[:3], alone)
    assert learner.transductive


def test_without_queries_that_say_anything_it_is_a_protonet():
    learner, plain = build(kshot.TransductiveProtoNet), build(kshot.ProtoNet)
    task = testing.gaussian_episodes(1, dtype=torch.float64)[0]
    support, z = engine.featured(learner, task.support), engine.compute_features(learner, task.query.x)
    nothing = torch.zeros(len(z), dtype=torch.bool)
    torch.testing.assert_close(
        learner.predict(learner.adapt(support), z, mask=nothing), plain.predict(plain.adapt(support), z)
    )


def test_bad_steps():
    with pytest.raises(UnsupportedError, match="at least 1 step of refinement, got 0: without any use ProtoNet"):
        build(kshot.TransductiveProtoNet, steps=0)
