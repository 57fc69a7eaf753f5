"""The baselines as learners."""

from __future__ import annotations

import pytest
import torch
from by_hand import WAY, examples, mean_of, queries, randomised
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

import kshot
from kshot import models, testing
from kshot.engine.inner import Step
from kshot.engine.rules import adam
from kshot.errors import UnsupportedError
from kshot.learners import all_learners
from kshot.learners.conventional import ConventionalLearner
from kshot.learners.linear_probe import logistic_regression

CONVENTIONAL = sorted(n for n, cls in all_learners().items() if issubclass(cls, ConventionalLearner))


@pytest.mark.parametrize("name", CONVENTIONAL)
def test_an_episode_is_a_batch_of_the_pools_classes(name):
    learner = all_learners()[name].tiny()
    episodes = testing.gaussian_episodes(3)
    found = learner(episodes, mode="loop")
    for t, task in enumerate(episodes):
        x = torch.cat([task.support.x, task.query.x])
        y = torch.cat([task.class_ids[task.support.y], task.class_ids[task.query.y]])
        torch.testing.assert_close(found[t], F.cross_entropy(learner.classify(learner.backbone(x)), y))


def test_what_has_no_training_classes_is_not_trained():
    learner = kshot.SimpleShot(models.MLP(8, hidden=(16,)))
    with pytest.raises(UnsupportedError, match=r"without training classes: make it with classes=source.train.classes"):
        learner(testing.gaussian_episodes(2), mode="loop")
    assert kshot.adapt(learner, (torch.randn(4, 8), list("abab"))).predict(torch.randn(3, 8)).shape == (3, 2)


def test_a_configuration_fills_in_the_training_classes():
    from kshot.training.config import build_learner, build_source, parse_config

    content = {"learner": "simpleshot", "data": {"name": "glyphs", "way": 5, "shot": 1}, "training": {"steps": 1}}
    config = parse_config(content)
    source = build_source(config)
    assert build_learner(config, source).classes == len(source.train.pool)


def test_simpleshot_centres_by_the_training_mean_and_measures_on_the_sphere():
    torch.manual_seed(0)
    learner = kshot.SimpleShot(models.MLP(8, hidden=(16,)), classes=512)
    for step in range(60):  # nothing is trained: only the mean of the features is taken
        learner(testing.gaussian_episodes(4, step=step), mode="native")
    learner.eval()
    episodes = testing.gaussian_episodes(50, step=999)
    z = learner.backbone(torch.cat([episodes.support.x, episodes.query.x], 1).flatten(0, 1))
    torch.testing.assert_close(learner.statistics.mean, z.mean(0), rtol=0.1, atol=0.05)
    task = episodes[0]
    mean = learner.statistics.mean
    a, b = (F.normalize(learner.backbone(part.x) - mean, dim=-1) for part in (task.support, task.query))
    centroids = torch.stack([a[task.support.y == k].mean(0) for k in range(5)])
    expected = -torch.cdist(b, centroids).square()
    with torch.no_grad():
        features = task.support.replace_x(learner.features(task.support.x))
        found = learner.predict(learner.adapt(features), learner.features(task.query.x))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_nearest_centroid_is_measured_as_the_crow_flies():
    """The squared distance to the mean of a class's examples, as they are: not centred, not of length one."""
    learner = kshot.NearestCentroid(models.MLP(5, hidden=(6,), out_features=4)).double().eval()
    randomised(learner.backbone)
    with torch.no_grad():
        learner.statistics.mean.fill_(3.0)
        support = examples(5).replace_x(learner.features(examples(5).x))
        x = learner.features(queries(5))
        found = learner.predict(learner.adapt(support), x)
    for i in range(5):
        for k in range(WAY):
            expected = -sum((x[i, j] - mean_of(support, k)[j]) ** 2 for j in range(4))
            torch.testing.assert_close(found[i, k], expected, rtol=1e-10, atol=1e-12)


def test_the_linear_probe_is_logistic_regression():
    episodes = testing.gaussian_episodes(3, shot=4)
    l2 = 0.05
    found = logistic_regression(episodes.support, l2, steps=3000)
    for t in range(3):
        x, y = episodes.support.x[t], episodes.support.y[t]
        ones = torch.cat([x, torch.ones(len(x), 1)], 1)  # the bias shares the penalty
        reference = LogisticRegression(C=1 / (len(x) * l2), fit_intercept=False, tol=1e-8, max_iter=5000)
        reference.fit(ones.numpy(), y.numpy())
        expected = torch.from_numpy(reference.predict_proba(ones.numpy())).float()
        logits = x @ found["weight"][t] + found["bias"][t]
        assert torch.allclose(logits.softmax(-1), expected, atol=2e-3)


def test_a_linear_probe_of_unit_length_does_not_see_lengths():
    torch.manual_seed(0)
    support = testing.gaussian_episodes(1)[0].support
    rows = torch.arange(1.0, support.size + 1)[:, None]  # the mean of the training features is still zero
    for normalise, same in (("cl2", True), ("scale", False)):
        probe = kshot.LinearProbe(models.MLP(8, hidden=(16,), out_features=8), normalise=normalise).eval()
        a, b = probe.adapt(support), probe.adapt(support.replace_x(support.x * rows))
        assert torch.allclose(a["weight"], b["weight"], atol=1e-5) is same


def test_fine_tuning_without_steps_is_the_logistic_regression_that_it_begins_with():
    torch.manual_seed(0)
    backbone = models.MLP(8, hidden=(16,))
    probe, tuned = kshot.LinearProbe(backbone, classes=512).eval(), kshot.FineTuning(backbone, classes=512).eval()
    tuned.load_state_dict(probe.state_dict())
    with torch.no_grad():
        for learner in (probe, tuned):
            learner.statistics.variance.fill_(0.5)
    task = testing.gaussian_episodes(1)[0]
    expected = kshot.adapt(probe, task.support).predict(task.query.x)
    torch.testing.assert_close(
        kshot.adapt(tuned, task.support, steps=0).predict(task.query.x), expected, rtol=1e-3, atol=1e-3
    )
    moved = kshot.adapt(tuned, task.support, steps=5)
    assert not torch.equal(moved.adapted["backbone.layers.0.weight"], backbone.layers[0].weight)
    head = kshot.FineTuning(backbone, classes=512, layers="head").eval()
    assert set(kshot.adapt(head, task.support, steps=5).adapted) == {"weight", "bias"}


def test_baseline_plus_plus_begins_with_the_directions_of_the_class_means():
    torch.manual_seed(0)
    learner = kshot.BaselinePlusPlus(models.MLP(8, hidden=(16,)), classes=512).eval()
    task = testing.gaussian_episodes(1)[0]
    model = kshot.adapt(learner, task.support, steps=0)
    z = learner.backbone(task.support.x)
    means = torch.stack([z[task.support.y == k].mean(0) for k in range(5)])
    expected = learner.log_scale.exp() * F.cosine_similarity(
        learner.backbone(task.query.x)[:, None], means[None], dim=-1
    )
    torch.testing.assert_close(model.predict(task.query.x), expected.detach())
    before, after = (
        learner.loss(kshot.adapt(learner, task.support, steps=steps).predict(task.support.x), task.support)
        for steps in (0, 50)
    )
    assert after < before


def test_the_update_is_torchs_adam():
    torch.manual_seed(0)
    target = torch.randn(4)
    weight = nn.Parameter(torch.randn(4))
    ours, state = {"w": weight.detach().clone()}, None
    optimizer = torch.optim.Adam([weight], lr=0.05)
    for number in range(5):
        optimizer.zero_grad()
        loss = (weight - target).square().sum()
        loss.backward()
        gradient = 2 * (ours["w"] - target)
        ours, state = adam(Step(number, loss, {"w": gradient}), ours, state, lr=0.05)
        optimizer.step()
        torch.testing.assert_close(ours["w"], weight.detach(), rtol=1e-5, atol=1e-6)


def test_joint_training_is_the_loss_of_all_examples_without_adaptation():
    torch.manual_seed(0)
    learner = kshot.JointTraining(models.MLP(1, hidden=(8,), out_features=1), steps=3)
    episodes = testing.sinusoid_episodes(2)
    found = learner(episodes, mode="loop")
    for t, task in enumerate(episodes):
        x, y = torch.cat([task.support.x, task.query.x]), torch.cat([task.support.y, task.query.y])
        torch.testing.assert_close(found[t], (learner.network(x) - y).square().mean())


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_joint_training_goes_on_as_torchs_optimizer_would(optimizer):
    torch.manual_seed(0)
    backbone = models.MLP(1, hidden=(8,), out_features=1)
    learner = kshot.JointTraining(backbone, steps=4, lr=0.02, optimizer=optimizer)
    support = testing.sinusoid_episodes(1)[0].support
    adapted = learner.adapt(support)["parameters"]
    own = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer](backbone.parameters(), lr=0.02)
    for _ in range(4):
        own.zero_grad()
        (learner.network(support.x) - support.y).square().mean().backward()
        own.step()
    for name, weight in learner.network.named_parameters():
        torch.testing.assert_close(adapted[name], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kshot.SimpleShot(models.MLP(8), classes=1), "at least 2 training classes, got 1"),
        (lambda: kshot.SimpleShot(models.MLP(8), normalise="l1"), "'none', 'l2' or 'cl2', got 'l1'"),
        (lambda: kshot.LinearProbe(models.MLP(8), l2=0), "positive penalty l2, got 0"),
        (lambda: kshot.FineTuning(models.MLP(8), layers="last"), "layers to be 'all' or 'head', got 'last'"),
        (lambda: kshot.FineTuning(models.MLP(8), steps=-1), "at least 0 steps, got -1"),
        (lambda: kshot.JointTraining(models.MLP(1), optimizer="lbfgs"), "'adam' or 'sgd', got 'lbfgs'"),
        (lambda: kshot.SimpleShot.tiny("regression"), "for regression use JointTraining or MAML"),
        (lambda: kshot.ProtoNet.tiny("regression"), "for regression use MAML"),
    ],
)
def test_what_cannot_be_built(make, message):
    with pytest.raises(UnsupportedError, match=message):
        make()
