"""Curves over shots and steps, and the distribution over tasks."""

from __future__ import annotations

import pytest
import torch
from toy_sources import vector_source

import kshot
from kshot.episodes import Episodes, Examples
from kshot.evaluation import Evaluation, conventional_network, distribution, evaluate, shots_curve, steps_curve
from kshot.evaluation.curves import with_shots
from kshot.evaluation.subsets import first_shots, rolled_labels
from kshot.testing.toys import gaussian_episodes, sinusoid_episodes, uneven


def test_the_first_shots_of_each_class():
    episodes = gaussian_episodes(3, way=4, shot=5)
    fewer = first_shots(episodes, 2)
    assert fewer.support.x.shape == (3, 8, 8)
    assert bool(fewer.support.mask.all())
    for t in range(3):
        for c in range(4):
            mine = episodes.support.x[t][episodes.support.y[t] == c]
            assert torch.equal(fewer.support.x[t][fewer.support.y[t] == c], mine[:2])
    assert torch.equal(fewer.query.x, episodes.query.x)


def test_the_first_shots_of_uneven_tasks_and_of_functions():
    episodes = uneven(gaussian_episodes(4))
    fewer = first_shots(episodes, 1)
    own = [(fewer.support.mask[t] & (fewer.support.y[t] == c)).sum() for t in range(4) for c in range(5)]
    there = [bool((episodes.support.mask[t] & (episodes.support.y[t] == c)).any()) for t in range(4) for c in range(5)]
    assert [int(n) for n in own] == [int(x) for x in there]
    points = first_shots(sinusoid_episodes(2), 3)
    assert points.support.x.shape == (2, 3, 1)
    different = first_shots(gaussian_episodes(2, way=3), torch.tensor([[1, 2, 3], [5, 1, 1]]))
    counts = [
        [int((y[m] == c).sum()) for c in range(3)]
        for y, m in zip(different.support.y, different.support.mask, strict=True)
    ]
    assert counts == [[1, 2, 3], [5, 1, 1]]


def test_cached_features_follow_the_selection(clouds):
    episodes = clouds.test.replace(shot=4).sample(3, seed=0)
    fewer = first_shots(episodes, 2)
    assert isinstance(fewer, Episodes)
    where = {int(i): x for i, x in zip(episodes.support_ids.flatten(), episodes.support.x.flatten(0, 1), strict=True)}
    for i, x in zip(fewer.support_ids.flatten().tolist(), fewer.support.x.flatten(0, 1), strict=True):
        assert torch.equal(where[i], x)


def test_rolled_labels_have_no_fixed_point():
    classes = torch.tensor([[True, True, True, True], [True, False, True, True]])
    y = torch.tensor([[0, 1, 2, 3], [0, 2, 3, 0]])
    mask = torch.ones(2, 4, dtype=torch.bool)
    mask[1, 3] = False
    rolled = rolled_labels(Examples(torch.zeros(2, 4, 1), y, mask, classes))
    assert rolled.y.tolist() == [[1, 2, 3, 0], [2, 3, 0, 0]]


def test_the_shots_that_classes_allow(clouds):
    most, shots = with_shots(clouds.test, (1, 2, 5, 10, 20, 50))
    assert (most.shot, most.query, shots) == (10, 5, [1, 2, 5, 10])
    assert with_shots(vector_source(query=15).test, (1, 10))[0].query == 10
    sampled = kshot.tasks.make_split(clouds.test.pool, clouds.transform, "test", sampling="meta_dataset")
    assert with_shots(sampled, (1, 2)) is None


def test_more_shots_help_and_the_queries_stay(trained, clouds):
    network, _ = conventional_network(trained, clouds)
    curve = shots_curve(trained, clouds.test, tasks=80, network=network)
    assert curve.at == [1, 2, 5, 10]
    means = [point.mean for point in curve.lines["ProtoNet"]]
    assert means == sorted(means)
    assert len(curve.lines["nearest centroid on its features"]) == 4
    assert str(curve).splitlines()[0].split() == ["shots", "1", "2", "5", "10"]


def test_more_points_help_a_regressor(regressor, sinusoids):
    curve = shots_curve(regressor, sinusoids.test, shots=(2, 20), tasks=60)
    few, many = curve.lines["MAML"]
    assert many.mean < few.mean


def test_steps(regressor, trained, sinusoids, clouds):
    curve = steps_curve(regressor, sinusoids.test, steps=(0, 1, 5), tasks=60)
    none, one, _ = (point.mean for point in curve.lines["MAML"])
    assert one < none
    assert "chosen on val tasks" in str(curve)
    assert steps_curve(trained, clouds.test) is None


def made_up(scores, metric="accuracy"):
    ids = torch.arange(len(scores))[:, None] // 4 * torch.ones(1, 2, dtype=torch.int64)
    names = tuple(f"class {c}" for c in range(10))
    return Evaluation("ProtoNet", metric, torch.tensor(scores, dtype=torch.float64), ids, names, False)


@pytest.mark.parametrize("metric", ["accuracy", "mse"])
def test_the_worst_tail(metric):
    values = [i / 39 for i in range(40)]
    found = distribution(made_up(values, metric), hardest=2)
    worst = sorted(values, reverse=metric == "mse")
    assert found.tails[0.05] == pytest.approx(sum(worst[:2]) / 2)
    assert found.tails[0.1] == pytest.approx(sum(worst[:4]) / 4)
    assert found.quantiles[0.0] == pytest.approx(worst[0])
    assert found.quantiles[1.0] == pytest.approx(worst[-1])
    score, classes, task = found.hardest[0]
    assert (score, task) == (pytest.approx(worst[0]), 0 if metric == "accuracy" else 39)
    assert classes == (["class 0"] * 2 if metric == "accuracy" else ["class 9"] * 2)
    assert found.classes[0][0] == ("class 0" if metric == "accuracy" else "class 9")
    assert "Hardest tasks:" in str(found)


def test_the_hardest_tasks_are_named(trained, clouds):
    found = distribution(evaluate(trained, clouds.test, 30, baselines=False))
    score, classes, task = found.hardest[0]
    episode = clouds.test.sample(1, seed=1, first=task)
    assert classes == [clouds.test.pool.names[c] for c in episode.class_ids[0].tolist()]
    assert score == found.quantiles[0.0]


def test_no_more_shots_than_a_learner_takes(clouds):
    learner = kshot.SNAIL(kshot.models.MLP(8, hidden=(8,)), way=5, max_support=10).eval()
    curve = shots_curve(learner, clouds.test, shots=(1, 2, 5), tasks=4)
    assert curve is not None
    assert curve.at == [1, 2]
    assert curve.notes[-1] == "SNAIL takes 10 support examples at most"
    assert shots_curve(learner, clouds.test, shots=(5,), tasks=4) is None
