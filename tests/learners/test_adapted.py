"""`kshot.adapt` and `AdaptedModel`: what a user meets."""

from __future__ import annotations

import threading

import pytest
import torch

import kshot
from kshot import models
from kshot.episodes import Examples
from kshot.errors import SupportError, UnsupportedError


@pytest.fixture
def learner():
    torch.manual_seed(0)
    return kshot.ProtoNet(models.MLP(2, hidden=(8,)))


def test_labels_come_back(learner):
    x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.1, 0.9]])
    model = kshot.adapt(learner, (x, ["up", "right", "up"]))
    assert model.labels == ["right", "up"]
    probabilities = model.probabilities(x)
    assert probabilities.shape == (3, 2)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(3))
    assert model.classify(x) == ["up", "right", "up"]


def test_a_fixed_head_masks_the_classes_that_a_task_lacks():
    model = kshot.adapt(kshot.MAML(models.MLP(2), way=5), (torch.randn(6, 2), [0, 1, 2, 0, 1, 2]), steps=2)
    assert model.predict(torch.randn(4, 2)).shape == (4, 5)
    probabilities = model.probabilities(torch.randn(4, 2))
    assert probabilities.shape == (4, 3)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(4))


def test_examples_and_arrays_are_the_same(learner):
    x, y = torch.randn(6, 2), torch.tensor([0, 1, 2] * 2)
    q = torch.randn(3, 2)
    torch.testing.assert_close(
        kshot.adapt(learner, Examples.of(x, y)).predict(q), kshot.adapt(learner, (x, y)).predict(q)
    )
    torch.testing.assert_close(
        kshot.adapt(learner, (x.numpy(), y.numpy())).predict(q), kshot.adapt(learner, (x, y)).predict(q)
    )


def test_regression():
    learner = kshot.MAML(models.MLP(1, out_features=1), inner_lr=0.01)
    model = kshot.adapt(learner, (torch.randn(5, 1), torch.randn(5)))
    assert model.predict(torch.randn(4, 1)).shape == (4, 1)
    with pytest.raises(UnsupportedError, match="made for regression: use predict"):
        model.probabilities(torch.randn(4, 1))


def test_adapting_leaves_a_training_learner_in_training(learner):
    learner.train()
    kshot.adapt(learner, (torch.randn(4, 2), [0, 1, 0, 1])).predict(torch.randn(1, 2))
    assert learner.training


def test_threads_do_not_meet(learner):
    learner.eval()
    results = {}

    def work(name, offset):
        x = torch.tensor([[0.0, 1.0], [1.0, 0.0]]) + offset
        model = kshot.adapt(learner, (x, [f"{name}a", f"{name}b"]))
        results[name] = [model.classify(x) for _ in range(50)]

    threads = [threading.Thread(target=work, args=(f"t{i}", float(i))) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for name, answers in results.items():
        assert answers == [[f"{name}a", f"{name}b"]] * 50


@pytest.mark.parametrize(
    ("support", "error", "message"),
    [
        ((torch.randn(3, 2), ["a", "a", "a"]), SupportError, r"at least two classes, got 1 \(a\)"),
        ((torch.tensor([[0.0, float("nan")], [1.0, 0.0]]), [0, 1]), SupportError, "support examples hold NaN"),
        ((torch.randn(4, 3), [0, 1, 0, 1]), SupportError, r"of shape \[n, 2\], got \[4, 3\]"),
        ((torch.randn(4, 2), [0, 1]), SupportError, "one label for each of the 4 support examples, got 2"),
        ((torch.randn(0, 2), []), SupportError, "the support set is empty"),
        ((object(), [0, 1]), SupportError, "as a tensor or a numeric array, got object"),
    ],
)
def test_bad_support(learner, support, error, message):
    with pytest.raises(error, match=message):
        kshot.adapt(learner, support)


def test_bad_queries_and_options(learner):
    model = kshot.adapt(learner, (torch.randn(4, 2), [0, 1, 0, 1]))
    with pytest.raises(SupportError, match=r"query examples of shape \[n, 2\], got \[4, 3\]"):
        model.predict(torch.randn(4, 3))
    with pytest.raises(UnsupportedError, match="takes no option 'steps'. It takes: no options"):
        kshot.adapt(learner, (torch.randn(4, 2), [0, 1, 0, 1]), steps=3)
    maml = kshot.MAML(models.MLP(2), way=2)
    with pytest.raises(UnsupportedError, match="no option 'step'. Did you mean 'steps'"):
        kshot.adapt(maml, (torch.randn(4, 2), [0, 1, 0, 1]), step=3)
    with pytest.raises(UnsupportedError, match="a head of 2 classes, the support set has 3"):
        kshot.adapt(maml, (torch.randn(3, 2), [0, 1, 2]))
