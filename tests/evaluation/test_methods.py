"""How the baselines are run, and their own regressors, against scikit-learn."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge

import kshot
from kshot import engine, randomness
from kshot.episodes import Examples
from kshot.evaluation.conventional import Conventional
from kshot.evaluation.methods import Method, choose, methods
from kshot.evaluation.regressors import FineTunedRegressor, MeanPredictor, Ridge
from kshot.learners import FineTuning, JointTraining
from kshot.models.norms import FeatureStatistics
from kshot.testing.toys import sinusoid_episodes, uneven
from kshot.training.pretrain import PretrainedNetwork


def test_ridge_is_scikit_learns():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 1))
    support = Examples.of(torch.from_numpy(x).float(), torch.from_numpy(y).float())
    ridge = Ridge(l2=0.7)
    adapted = ridge.adapt(support)
    reference = SklearnRidge(alpha=0.7).fit(x, y)
    expected = torch.from_numpy(reference.predict(x)).float().view(-1, 1)
    assert torch.allclose(ridge.predict(adapted, support.x), expected, atol=1e-5)


@pytest.mark.parametrize("head", [Ridge(), MeanPredictor()], ids=lambda h: type(h).__name__)
def test_regressors_run_all_tasks_at_once_as_one_by_one(head):
    episodes = uneven(sinusoid_episodes(3))
    together = engine.predict_queries(head, episodes, "native")
    assert together.shape == episodes.query.y.shape
    assert torch.allclose(together, engine.predict_queries(head, episodes, "loop"), atol=1e-5)


def network(kind: type[kshot.Learner], channels: int, steps: int) -> kshot.Learner:
    with randomness.seeded(0):
        conv = kshot.models.Conv4(1, channels=channels, image_size=16)
        made = FineTuning(conv, lr=0.01, steps=steps) if kind is FineTuning else JointTraining(conv, 3, steps, 0.01)
    return made.eval()


@pytest.mark.parametrize("kind", [FineTuning, JointTraining])
def test_networks_trained_on_the_support_learn_it_and_leave_the_weights_alone(kind, places):
    episodes = places.test.replace(shot=3).sample(4, seed=0)
    learner = network(kind, 8, 40)
    before = copy.deepcopy(learner.state_dict())
    outputs = engine.predict_queries(learner, episodes, "loop")
    assert (outputs.argmax(-1) == episodes.query.y).float().mean() > 0.6
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    mapped, looped = (engine.predict_queries(learner, episodes, mode, steps=2) for mode in ("vmap", "loop"))
    assert torch.allclose(mapped, looped, atol=1e-2)


@pytest.mark.parametrize("kind", [FineTuning, JointTraining])
def test_tasks_side_by_side_are_as_one_after_another(kind, places):
    """Two threads, a copy of the network each, give the bits that one gives."""
    method = Method(network(kind, 4, 3))
    episodes = places.test.sample(7, seed=0)
    single = method.scores(episodes)
    torch.set_num_threads(2)
    try:
        double = method.scores(episodes)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert single.shape == (7,)
    assert torch.equal(single, double)


def test_the_best_on_val_tasks_is_chosen_and_what_diverged_is_not():
    drawn = sinusoid_episodes(5)
    support, query = (dataclasses.replace(part, y=3 * part.x) for part in (drawn.support, drawn.query))
    episodes = dataclasses.replace(drawn, support=support, query=query)  # on a line, which ridge finds
    broken = MeanPredictor()
    broken.predict = lambda adapted, x: torch.full_like(x, torch.nan)  # type: ignore[method-assign]
    strong, weak = Method(Ridge(0.1)), Method(Ridge(1e6))
    assert choose([Method(broken), weak, strong], episodes, "mse") is strong
    assert choose([weak, strong], None, "mse") is weak, "the most ordinary one, where there is nothing to choose by"
    slow, quick = Method(strong.learner, {"steps": 20}), Method(strong.learner, {"steps": 5})
    assert choose([slow, quick], episodes, "mse") is quick, "of equals the one that takes fewer steps"


def test_a_fine_tuned_regressor_runs_its_network_as_it_is():
    """Against torch's own Adam; also with norm layers that nobody may adapt."""
    with randomness.seeded(0):
        network = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1)).eval()
        network[1].running_mean.normal_()
    before = copy.deepcopy(network.state_dict())
    task = sinusoid_episodes(1)[0]
    learner = FineTunedRegressor(network, steps=3, lr=0.01).eval()
    found = learner.predict(learner.adapt(task.support), task.query.x)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    adam = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(3):
        adam.zero_grad()
        torch.nn.functional.mse_loss(network(task.support.x), task.support.y).backward()
        adam.step()
    torch.testing.assert_close(found, network(task.query.x), rtol=1e-5, atol=1e-5)


def test_methods_leave_the_random_state_alone(sinusoids):
    with randomness.seeded(0):
        learner = kshot.ANIL(kshot.models.MLP(1, hidden=(8,)))
        network = PretrainedNetwork(kshot.models.MLP(1, hidden=(8,)), 1).eval()
    state = torch.get_rng_state()
    made = methods(
        "fine_tuned",
        learner,
        sinusoids.test,
        Conventional(network, FeatureStatistics(8)),
        sinusoids.test.sample(2, seed=0),
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert len(made) == 7
    assert all(not method.learner.training for method in made)
