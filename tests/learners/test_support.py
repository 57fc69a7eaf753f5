"""What a user gives as a support set, and what is said of what no learner can take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import kshot
from kshot import models, testing
from kshot.artifacts import from_pretrained
from kshot.errors import SupportError, UnsupportedError

X = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
TO_REGRESS = (
    r"this ProtoNet does classification, for regression use a regressor \(MAML without way, RidgeNet with out_features"
)


def protonet() -> kshot.ProtoNet:
    return kshot.ProtoNet(models.MLP(2, hidden=(4,)))


def sinusoids() -> kshot.Episodes:
    return kshot.tasks.load("sinusoids", shot=4, query=4).test.sample(2, seed=0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.randn(4, 1), rf"expected class labels \[n\], one for each example, got \[4, 1\]: {TO_REGRESS}"),
        (np.array([0.5, 1, 2, 3], np.float32), f"expected class labels, got the number 0.5: {TO_REGRESS}"),
        ([np.float32(0.5)] * 4, f"expected class labels, got the number 0.5: {TO_REGRESS}"),
        ([float("nan"), 1.0, 1.0, 2.0], f"expected class labels, got the number nan: {TO_REGRESS}"),
    ],
)
def test_numbers_are_no_labels_and_say_who_takes_them(labels: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        kshot.adapt(protonet(), (X, labels))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([[0], [1], [0], [1]]), r"expected class labels \[n\], .*, got \[4, 1\]: flatten them"),
        (np.array([["a"], ["b"], ["a"], ["b"]]), r"expected class labels \[n\], .*, got \[4, 1\]: flatten them"),
        ([[1], [2], [1], [2]], r"expected class labels, names or numbers, got \[1\]: give one for each example"),
        (None, "expected one label for each of the 4 support examples, got None: a ProtoNet needs them"),
        (3, "expected one label for each of the 4 support examples, got 3: a ProtoNet needs them"),
        (list("aba"), "expected one label for each of the 4 support examples, got 3$"),
    ],
)
def test_what_are_no_labels_is_refused(labels: Any, message: str) -> None:
    with pytest.raises(SupportError, match=message):
        kshot.adapt(protonet(), (X, labels))


@pytest.mark.parametrize(
    "labels",
    [
        list("abab"),
        np.array(["a", "b", "a", "b"]),
        np.array([3, 1, 3, 1]),
        [0.0, 1.0] * 2,
        [torch.tensor(i) for i in (0, 1, 0, 1)],
    ],
)
def test_labels_of_any_kind_are_names(labels: Any) -> None:
    assert kshot.adapt(protonet(), (X, labels)).labels == sorted({*np.asarray(labels).tolist()})


def test_tasks_of_another_kind_are_refused_where_a_learner_adapts() -> None:
    message = r"this ProtoNet does classification, the support set is for regression: use a regressor \(MAML"
    with pytest.raises(UnsupportedError, match=message):
        kshot.adapt(kshot.ProtoNet(models.MLP(1)), sinusoids()[0].support)
    classes = testing.gaussian_episodes(1)[0].support
    message = r"this CNP does regression, the support set is for classification: use a classifier \(ProtoNet"
    with pytest.raises(UnsupportedError, match=message):
        kshot.adapt(kshot.CNP(models.MLP(8, hidden=())), classes)
    message = r"this NTM does sequence, the support set is for regression: use a regressor"
    with pytest.raises(UnsupportedError, match=message):
        kshot.adapt(kshot.NTM(in_features=1, out_features=3, hidden=8), sinusoids()[0].support)


def test_episodes_of_another_kind_are_refused_where_a_learner_is_trained_by_hand() -> None:
    message = r"this CNP does regression, these episodes are classification: use a classifier"
    with pytest.raises(UnsupportedError, match=message):
        kshot.CNP(models.MLP(8, hidden=()))(testing.gaussian_episodes(2))
    message = r"this ProtoNet does classification, these episodes are regression: use a regressor"
    with pytest.raises(UnsupportedError, match=message):
        kshot.ProtoNet(models.MLP(1))(sinusoids())
    with pytest.raises(UnsupportedError, match="this NTM does sequence, these episodes are regression"):
        kshot.NTM(in_features=1, out_features=3, hidden=8)(sinusoids())
    copied = kshot.tasks.load("copy").test.sample(2, seed=0)
    with pytest.raises(UnsupportedError, match="this CNP does regression, these episodes are sequence: use a learner"):
        kshot.CNP(models.MLP(9, hidden=()))(copied)


def test_a_learner_of_sequences_takes_no_labels() -> None:
    learner = kshot.NTM(in_features=4, out_features=3, hidden=8)
    message = r"expected None in place of labels, since this NTM reads a sequence, .* give \(sequence, None\)"
    with pytest.raises(UnsupportedError, match=message):
        kshot.adapt(learner, (torch.eye(4), [0, 1, 0, 1]))
    assert kshot.adapt(learner, (torch.eye(4), None)).predict(torch.zeros(2, 4)).shape == (2, 3)


@pytest.mark.parametrize("cls", [kshot.LSTMLearner, kshot.MANN, kshot.SNAIL])
def test_episodes_of_more_support_than_a_learner_was_made_for_are_refused(cls: Any) -> None:
    learner = cls(models.MLP(8, hidden=(8,)), way=5, max_support=4)
    with pytest.raises(
        UnsupportedError, match=f"this {cls.__name__} was made or trained for at most 4 support examples, these"
    ):
        learner(testing.gaussian_episodes(2))


@pytest.mark.parametrize("cls", [kshot.LSTMLearner, kshot.MANN, kshot.SNAIL])
def test_who_reads_in_order_refuses_more_than_a_trainer_showed_it(cls: Any, tmp_path: Any) -> None:
    source = kshot.tasks.load("glyphs", way=3, shot=1, query=1, val={"shot": 1}, test={"shot": 2})
    torch.manual_seed(0)
    learner = cls(models.Conv4(channels=4), way=3)
    trainer = kshot.Trainer(
        learner, source, steps=1, meta_batch=1, val_tasks=2, mode="loop", progress=False, out=tmp_path / "run"
    )
    trainer.fit()
    message = f"this {cls.__name__} was made or trained for at most 3 support examples"
    for trained in (learner, from_pretrained(tmp_path / "run")):
        assert trained.max_support == 3
        with pytest.raises(UnsupportedError, match=message):
            kshot.adapt(trained, source.test.sample(1, seed=0)[0].support)


@pytest.mark.parametrize("cls", [kshot.LSTMLearner, kshot.MANN, kshot.SNAIL])
def test_a_training_that_is_refused_leaves_a_learner_as_it_was(cls: Any) -> None:
    """What a longer training shows it counts, too; what was asked for in so many words stays."""
    short = kshot.tasks.load("glyphs", way=3, shot=1, query=1, train={"shot": 1}, val={"shot": 2})
    even = {shot: kshot.tasks.load("glyphs", way=3, shot=shot, query=1) for shot in (1, 2)}
    torch.manual_seed(0)
    learner = cls(models.Conv4(channels=4), way=3)

    def fit(source: Any) -> None:
        kshot.Trainer(learner, source, steps=1, meta_batch=1, val_tasks=2, mode="loop", progress=False).fit()

    with pytest.raises(
        UnsupportedError, match="was made or trained for at most 3 support examples, the tasks of val have 6"
    ):
        fit(short)
    assert learner.max_support == (25 if cls is kshot.SNAIL else None)
    for shot, longest in ((1, 3), (2, 6), (1, 6)):
        fit(even[shot])
        assert learner.max_support == longest
    learner = cls(models.Conv4(channels=4), way=3, max_support=3)
    with pytest.raises(
        UnsupportedError, match="was made or trained for at most 3 support examples, the tasks of train have 6"
    ):
        fit(even[2])


def test_accuracy_by_instance_takes_no_longer_support_than_a_learner() -> None:
    from kshot.evaluation import by_instance

    torch.manual_seed(0)
    learner = kshot.MANN(models.Conv4(channels=4), way=3, max_support=3)
    source = kshot.tasks.load("glyphs", way=3, shot=2, query=1)
    with pytest.raises(UnsupportedError, match="at most 3 support examples, the tasks of test have 6"):
        by_instance(learner, source.test, 2)


def test_what_is_amended_is_an_argument() -> None:
    learner = kshot.MAML(models.Conv4(channels=4), way=3)
    other = learner.with_norm("batch")
    assert (other.config["arguments"]["norm"], other.transductive) == ("batch", True)
    assert "norm" not in learner.config["arguments"]
    with pytest.raises(TypeError, match="MAML has no argument 'nrom'"):
        learner.amend(nrom="batch")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"way": -1}, "expected at least 2 classes, got way=-1; way=None makes a regressor"),
        ({"way": 0}, "got way=0"),
        ({"way": 2.5}, "got way=2.5"),
        ({"way": "5"}, "got way='5'"),
        ({"way": True}, "got way=True"),
        ({"way": 5, "inner_lr": float("nan")}, "expected inner_lr to be a finite step size of at least 0, got nan"),
        ({"way": 5, "inner_lr": -0.1}, "of at least 0, got -0.1"),
    ],
)
@pytest.mark.parametrize("cls", [kshot.MAML, kshot.ANIL, kshot.Reptile, kshot.ALFA])
def test_what_is_no_number_of_classes_or_step_size_is_refused(
    cls: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedError, match=message):
        cls(models.MLP(8, hidden=(8,)), **arguments)


def test_a_backbone_is_a_network() -> None:
    for cls in (kshot.ProtoNet, kshot.MAML, kshot.SNAIL):
        with pytest.raises(
            UnsupportedError, match=f"expected the backbone of a {cls.__name__} to be a network such as"
        ):
            cls("conv4")
    with pytest.raises(TypeError, match="unexpected keyword argument 'bakcbone'"):
        kshot.ProtoNet(bakcbone=models.MLP(8))


@pytest.mark.parametrize("steps", ["a", 2.5, True])
def test_steps_are_a_whole_number(steps: Any) -> None:
    learner = kshot.MAML(models.MLP(8, hidden=(8,)), way=2)
    with pytest.raises(UnsupportedError, match=f"expected steps to be a whole number, got {steps!r}"):
        kshot.adapt(learner, (torch.randn(2, 8), ["a", "b"]), steps=steps)
