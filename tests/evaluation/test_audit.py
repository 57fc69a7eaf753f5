"""The audit finds what it looks for in learners that were made to have it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from toy_sources import protonet

import kshot
from kshot import engine, metrics
from kshot.datasets import ImageTransform, Pool
from kshot.errors import UnsupportedError
from kshot.evaluation import Baseline, audit, conventional_network, evaluate, scale
from kshot.evaluation.audit import empty_support, memorisation, permute_labels, recommend
from kshot.evaluation.scaling import groups_of
from kshot.functional import one_hot
from kshot.metrics import Interval
from kshot.tasks import TaskSource, make_split


class Memory(kshot.Learner):
    """Ignores the support: the class is told by the query itself, its first feature."""

    native = True

    def adapt(self, support):
        return {"way": one_hot(support).sum(-2)}

    def predict(self, adapted, x):
        way = adapted["way"].shape[-1]
        return -(x[..., :1] - torch.arange(way, device=x.device)).square()


def leaky(split):
    """Tasks whose queries give their label away."""
    import copy
    from dataclasses import replace

    split = copy.copy(split)
    draw = split._draw

    def changed(key, device):
        e = draw(key, device)
        x = e.query.x.clone()
        x[..., 0] = e.query.y
        return replace(e, query=e.query.replace_x(x), query_ids=None, support_ids=None)

    split._draw = changed
    return split


def test_an_honest_learner(trained, clouds):
    found = audit(trained, clouds, tasks=100, evaluation=evaluate(trained, clouds.test, 60, baseline_tasks=30))
    assert list(found.splits) == ["train", "val", "test"]
    assert found.gap.mean == pytest.approx(found.splits["train"].mean - found.splits["test"].mean)
    empty, permuted = found.probes
    assert empty.score.mean == pytest.approx(0.2)
    assert empty.passed
    assert permuted.passed
    assert permuted.score.mean == pytest.approx(found.splits["test"].mean)
    assert len(found.transfer) == 4
    text = str(found)
    assert "train classes" in text
    assert "as expected" in text
    assert found.recommendation in text
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "learner",
    [
        kshot.MAML(kshot.models.MLP(8, hidden=(16,)), way=5, inner_lr=0.1),
        kshot.MAML(kshot.models.Conv4(1, channels=4, image_size=16), way=3, inner_lr=0.1),
        kshot.ANIL(kshot.models.MLP(8, hidden=(16,)), way=5),
        protonet(),
    ],
    ids=["maml", "maml with batch norm", "anil", "protonet"],
)
def test_without_support_every_learner_guesses(learner, clouds, places):
    split = places.test if learner.input_shape == (1, 16, 16) else clouds.test
    empty, permuted = memorisation(learner, split, tasks=150)
    assert empty.passed, empty
    assert permuted.name == "permuted labels"


def test_memory_is_found(clouds):
    empty, permuted = memorisation(Memory(), leaky(clouds.test), tasks=50)
    assert empty.score.mean == 1
    assert not empty.passed
    assert "better than chance without any support" in empty.meaning
    assert not permuted.passed
    assert "do not follow the permuted labels" in permuted.meaning


def test_a_regressor_that_ignores_its_support(regressor, sinusoids):
    (probe,) = memorisation(regressor, sinusoids.test, tasks=100)
    assert probe.passed
    with_none = kshot.MAML(kshot.models.MLP(1, out_features=1), inner_steps=0)
    (probe,) = memorisation(with_none, sinusoids.test, tasks=100)
    assert not probe.passed
    assert "answers from memory" in probe.meaning


def test_the_probes_change_what_they_say(clouds):
    episodes = clouds.test.sample(3, seed=0)
    empty = empty_support(episodes)
    assert not bool(empty.support.mask.any())
    assert empty.support.x.abs().sum() == 0
    assert bool(empty.support.classes.all())
    permuted = permute_labels(episodes)
    assert bool((permuted.support.y != episodes.support.y).all())
    assert torch.equal(permuted.support.x, episodes.support.x)


def test_training_tasks_without_labels_are_audited_with_them(trained, clouds):
    train = clouds.train.replace(labels="cactus", clusters=30, way=5, query=5)
    source = TaskSource("clouds", {**clouds.splits, "train": train}, example_shape=clouds.example_shape)
    assert audit(trained, source, tasks=20).splits["train"] == audit(trained, clouds, tasks=20).splits["train"]
    _, notes = conventional_network(trained, source)
    assert "the learner was trained without labels; the baselines' network was trained with them" in notes


def test_training_tasks_are_audited_as_unseen_ones_look(clouds):
    """Views are what the training shows; no score of views stands beside scores of images as they are."""
    x = torch.randint(256, (90, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    transform = ImageTransform(size=(28, 28), mean=(0.5,), std=(0.2,))
    pools = {
        name: Pool.from_arrays(x[i::3], np.arange(30) % 3, [f"{name}{c}" for c in range(3)])
        for i, name in enumerate(("train", "val", "test"))
    }

    def source(**options):
        splits = {
            name: make_split(pool, transform, name, way=3, query=2, **(options if name == "train" else {}))
            for name, pool in pools.items()
        }
        return TaskSource("noise", splits, example_shape=(1, 28, 28), transform=transform)

    torch.manual_seed(0)
    learner = kshot.ProtoNet(kshot.models.Conv4(1, channels=4)).eval()
    plain, views = source(), source(augment={"rotation": 180, "shift": 0.5})
    assert audit(learner, views, tasks=20).splits == audit(learner, plain, tasks=20).splits
    shown = evaluate(learner, views.train, 20, baselines=False, allow_seen=True).scores
    episodes = views.train.sample(20, seed=1)
    expected = metrics.score(engine.predict_queries(learner, episodes, "loop"), episodes.query, "logits")
    np.testing.assert_allclose(shown, expected, err_msg="each view has features of its own")


def test_overfitting_is_found(clouds):
    """A network that has learned the training classes by heart, and few of them."""
    narrow = clouds.train.subset(list(range(6)))
    part = kshot.tasks.TaskSource("few", {"train": narrow, "test": clouds.test}, example_shape=(8,), transform=None)
    learner = protonet()
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.02)
    for episodes in narrow.batches(4, steps=150, seed=0):
        loss = learner(episodes, mode="native").mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = audit(learner, part, tasks=200)
    assert found.gap.low > 0
    assert "meta-overfitting. More training classes would help most." in found.verdict
    assert "val" not in found.splits
    assert "No baselines were run" in found.recommendation


def baseline(mean, half, wins, label="linear probe on its features"):
    scores = torch.full((100,), 0.5, dtype=torch.float64)
    return Baseline("linear_probe", label, "accuracy", scores, Interval(mean, half, 100), wins)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ((-0.05, 0.01, 0.8), "Do not use this learner here: 'linear probe on its features' is better by 5.0 points"),
        ((0.005, 0.01, 0.45), "No measurable difference to 'linear probe on its features' on 100 tasks"),
        ((0.05, 0.01, 0.3), "But that one is better on 30% of the tasks: where labels allow it, hold some out"),
        ((0.05, 0.01, 0.1), "Use the learner: it is better than every baseline"),
    ],
)
def test_the_recommendation(found, words):
    other = baseline(0.3, 0.01, 0.0, "training from scratch")
    assert words in recommend([other, baseline(*found)], "accuracy")


def test_the_kinds_of_classes(clouds, places):
    assert set(groups_of(clouds.train)) == {"a", "b", "c"}
    assert groups_of(places.train) is None


def test_scaling_over_the_training_classes(trained, clouds):
    found = scale(trained, clouds, steps=15, fractions=(0.25, 1.0), tasks=60)
    assert [(p.classes, p.choice) for p in found.points] == [(6, "all kinds"), (6, "few kinds"), (24, "all kinds")]
    assert found.points[1].groups == 1
    assert "Each trained anew for 15 steps." in str(found)
    short = scale(trained, clouds, steps=2, fractions=(0.25, 1.0), tasks=10, seconds=0)
    assert len(short.points) == 1
    assert "2 more runs left out: the budget of 0 s was spent" in short.notes[0]


def test_scaling_over_functions(regressor, sinusoids):
    found = scale(regressor, sinusoids, steps=5, fractions=(0.01, 0.1), tasks=20)
    assert [p.classes for p in found.points] == [10, 100]


def test_scaling_needs_training_classes(trained, clouds):
    only = kshot.tasks.TaskSource("test only", {"test": clouds.test}, example_shape=(8,))
    with pytest.raises(UnsupportedError, match="test only has no training classes"):
        scale(trained, only)
