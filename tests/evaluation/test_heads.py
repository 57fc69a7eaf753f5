"""The baselines' own learners, against scikit-learn and torch.optim."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge
from torch import nn

import kshot
from kshot import engine, randomness
from kshot.episodes import Examples
from kshot.evaluation.heads import LinearProbe, MeanPredictor, NearestCentroid, Ridge, logistic_regression
from kshot.evaluation.methods import Method
from kshot.evaluation.networks import FineTuned, FromScratch, adam
from kshot.functional import mask_logits
from kshot.testing.toys import gaussian_episodes, sinusoid_episodes, uneven, unpadded


def test_the_linear_probe_is_logistic_regression():
    episodes = gaussian_episodes(3, shot=4)
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


def test_ridge_is_scikit_learns():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 1))
    support = Examples.of(torch.from_numpy(x).float(), torch.from_numpy(y).float())
    ridge = Ridge()
    adapted = ridge.adapt(support, l2=0.7)
    reference = SklearnRidge(alpha=0.7).fit(x, y)
    expected = torch.from_numpy(reference.predict(x)).float().view(-1, 1)
    assert torch.allclose(ridge.predict(adapted, support.x), expected, atol=1e-5)


def heads() -> list[kshot.Learner]:
    backbone = kshot.models.MLP(8, hidden=(16,))
    centre = torch.zeros(16)
    return [NearestCentroid(backbone, centre, 1.0), LinearProbe(backbone, centre, 1.0, unit=False)]


@pytest.mark.parametrize("head", heads(), ids=lambda h: type(h).__name__)
def test_heads_run_all_tasks_at_once_as_one_by_one_and_ignore_padding(head):
    episodes = uneven(gaussian_episodes(4))
    together = engine.predict_queries(head, episodes, "native")
    single = engine.predict_queries(head, episodes, "loop")
    assert torch.allclose(together, single, atol=1e-3)
    for t, task in enumerate(episodes):
        support, query = unpadded(task)
        with torch.no_grad():
            adapted = head.adapt(support.replace_x(head.features(support.x)))
            alone = mask_logits(head.predict(adapted, head.features(query.x)), query.classes)
        padded = mask_logits(together[t], task.query.classes)[task.query.mask]
        assert torch.allclose(padded, alone, atol=1e-3)


@pytest.mark.parametrize("head", [Ridge(), MeanPredictor()], ids=lambda h: type(h).__name__)
def test_regressors_run_all_tasks_at_once_as_one_by_one(head):
    episodes = uneven(sinusoid_episodes(3))
    together = engine.predict_queries(head, episodes, "native")
    assert together.shape == episodes.query.y.shape
    assert torch.allclose(together, engine.predict_queries(head, episodes, "loop"), atol=1e-5)


def test_adam_is_torchs():
    with randomness.seeded(0):
        network = nn.Linear(4, 3)
        x, y = torch.randn(10, 4), torch.randint(0, 3, (10,))
    reference = copy.deepcopy(network)
    optimizer = torch.optim.Adam(reference.parameters(), lr=0.01)
    for _ in range(7):
        optimizer.zero_grad()
        nn.functional.cross_entropy(reference(x), y).backward()
        optimizer.step()
    parameters = {name: value.detach() for name, value in network.named_parameters()}

    def loss(p):
        return nn.functional.cross_entropy(torch.func.functional_call(network, p, (x,)), y)

    start, middle, end = adam(loss, parameters, steps=(0, 3, 7), lr=0.01)
    assert torch.equal(start["weight"], parameters["weight"])
    assert not torch.allclose(middle["weight"], end["weight"])
    assert torch.allclose(end["weight"], reference.weight, atol=1e-6)


def test_tasks_side_by_side_are_as_one_after_another(places):
    """Two threads, a copy of the network each, give the bits that one gives."""
    with randomness.seeded(0):
        tuned = FineTuned(kshot.models.Conv4(1, channels=4, image_size=16))
    method = Method(tuned, {"lr": 0.01, "steps": (1, 3)}, {"lr": 0.01})
    episodes = places.test.sample(7, seed=0)
    single = method.scores(episodes)
    torch.set_num_threads(2)
    try:
        double = method.scores(episodes)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert single.shape == (2, 7)
    assert torch.equal(single, double)
    assert torch.equal(method.chosen(3).scores(episodes)[0], single[1])


def networks() -> list[kshot.Learner]:
    with randomness.seeded(0):
        conv = kshot.models.Conv4(1, channels=8, image_size=16)
        return [FineTuned(copy.deepcopy(conv)), FromScratch(conv, 3)]


@pytest.mark.parametrize("learner", networks(), ids=lambda n: type(n).__name__)
def test_networks_trained_on_the_support_learn_it_and_leave_the_weights_alone(learner, places):
    episodes = places.test.replace(shot=3).sample(4, seed=0)
    before = copy.deepcopy(learner.state_dict())
    outputs = engine.predict_queries(learner, episodes, "loop", steps=(0, 40), lr=0.01)
    assert outputs.shape == (4, 2, 9, 3)
    accuracy = (outputs.argmax(-1) == episodes.query.y[:, None]).float().mean((0, 2))
    assert accuracy[1] > 0.6
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    mapped = engine.predict_queries(learner, episodes, "vmap", steps=(0, 2), lr=0.01)
    assert torch.allclose(mapped, engine.predict_queries(learner, episodes, "loop", steps=(0, 2), lr=0.01), atol=1e-2)
