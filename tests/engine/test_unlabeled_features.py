"""Features of unlabelled examples: cached or not, in batches of their task, only for learners that use them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import kshot
from kshot import engine, models, testing
from kshot.datasets import IdentityTransform, Pool
from kshot.engine import FeatureCache
from kshot.episodes import Episodes, Examples, Unlabeled
from kshot.learners import Learner
from kshot.randomness import seeded
from kshot.tasks import make_split


def images(tasks=3, m=5):
    def part(k):
        y = torch.arange(3).repeat(k).expand(tasks, -1).contiguous()
        ones = torch.ones(y.shape, dtype=torch.bool)
        return Examples(torch.randn(*y.shape, 1, 16, 16), y, ones, torch.ones(tasks, 3, dtype=torch.bool), padded=False)

    mask = torch.ones(tasks, m, dtype=torch.bool)
    others = Unlabeled(torch.randn(tasks, m, 1, 16, 16), mask, padded=False)
    return Episodes(replace(part(1), unlabeled=others), part(2), torch.zeros(tasks, 3, dtype=torch.int64))


def learner(cls=kshot.SoftKMeansProtoNet):
    with seeded(0):
        return cls(models.Conv4(channels=8, image_size=16))


def pad(episodes, extra=2):
    """Padding that holds what must not matter."""
    old = episodes.support.unlabeled
    x = torch.cat([old.x, torch.full((len(episodes), extra, 1, 16, 16), 9.0)], 1)
    mask = torch.cat([old.mask, torch.zeros(len(episodes), extra, dtype=torch.bool)], 1)
    return replace(episodes, support=replace(episodes.support, unlabeled=Unlabeled(x, mask)))


@pytest.mark.parametrize("training", [True, False])
def test_padding_is_in_no_batch(training):
    net, episodes = learner().train(training), images()
    torch.testing.assert_close(net(pad(episodes), mode="native"), net(episodes, mode="native"))
    alone = torch.cat([net(episodes[t : t + 1], mode="loop") for t in range(3)])
    torch.testing.assert_close(alone, net(episodes, mode="native"))


def test_unlabelled_images_are_of_their_tasks_batch():
    net, episodes = learner().train(), images(1)
    featured = engine.with_features(net, episodes)
    whole = torch.cat([episodes.support.x[0], episodes.query.x[0], episodes.support.unlabeled.x[0]])
    z = net.features(whole)
    torch.testing.assert_close(featured.support.x[0], z[:3])
    torch.testing.assert_close(featured.query.x[0], z[3:9])
    torch.testing.assert_close(featured.support.unlabeled.x[0], z[9:])


def test_a_learner_that_does_not_know_them_never_meets_them():
    seen = []

    class Curious(kshot.ProtoNet):
        def adapt(self, support):
            seen.append(support.unlabeled)
            return super().adapt(support)

    net, episodes = learner(Curious).train(), images()
    losses = net(episodes, mode="loop")
    assert torch.equal(losses, learner().train()(episodes.without_unlabeled(), mode="loop"))
    engine.predict_queries(net.eval(), episodes, "loop", cache=FeatureCache(net))
    assert seen == [None] * 6

    class Identity(Learner):
        def adapt(self, support):
            seen.append(support.unlabeled)
            return support.x.mean()

        def predict(self, adapted, x):
            return x.flatten(1)[:, :3] + adapted

    del seen[:]
    Identity()(episodes, mode="loop")
    assert seen == [None] * 3


def test_features_of_one_task():
    net, task = learner().eval(), images()[0]
    featured = engine.featured(net, task.support)
    assert torch.equal(featured.unlabeled.x, engine.compute_features(net, task.support.unlabeled.x))
    assert engine.featured(learner(kshot.ProtoNet).eval(), task.support).unlabeled is None


def split(**options):
    pool = Pool.from_arrays(torch.randn(240, 8), torch.arange(240) // 20)
    return make_split(pool, IdentityTransform(), **{"unlabeled": 4, "distractors": 3, "query": 3, "way": 3, **options})


@pytest.mark.parametrize("options", [{}, {"way": (2, 4), "shot": (1, 2)}, {"labelled": 0.2, "query": 1}])
def test_the_cache_gives_what_computing_gives(options):
    net, source = kshot.SoftKMeansProtoNet.tiny().eval(), split(**options)
    cache, calls, features = FeatureCache(net), [], net.features
    net.features = lambda x: (calls.append(len(x)), features(x))[1]
    for seed in range(4):
        episodes = source.sample(8, seed=seed)
        torch.testing.assert_close(
            engine.predict_queries(net, episodes, "native", cache=cache),
            engine.predict_queries(net, episodes, "native"),
        )
    calls.clear()
    for seed in range(4):
        cache(source.sample(8, seed=seed))
    assert not calls, "every example has been seen"


def test_the_cache_computes_what_has_no_identity():
    net, episodes = kshot.SoftKMeansProtoNet.tiny().eval(), split().sample(4, seed=0)
    cache = FeatureCache(net)
    cache(episodes)
    changed = replace(episodes.support.unlabeled, x=episodes.support.unlabeled.x + 1)
    unknown = replace(episodes, support=replace(episodes.support, unlabeled=changed), unlabeled_ids=None)
    torch.testing.assert_close(
        cache(unknown).support.unlabeled.x, engine.with_features(net, unknown).support.unlabeled.x
    )


def test_modes_and_auto_see_them():
    episodes = testing.gaussian_episodes(3, unlabeled=3, distractors=1)
    net = kshot.SoftKMeansProtoNet.tiny()
    net.mode_for(episodes)
    net.mode_for(episodes.without_unlabeled())
    assert len(net._modes) == 2
