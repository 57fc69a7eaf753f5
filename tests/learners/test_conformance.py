"""Every learner that is found, and ones of anyone's own, against the conformance suite."""

from __future__ import annotations

import pytest
import torch

import kshot
from kshot import models, testing
from kshot.learners import all_learners
from kshot.learners.matching import MatchingNet
from kshot.learners.relation import RelationNet


@testing.parametrize(
    *all_learners().values(),
    lambda: kshot.MAML(models.MLP(8, hidden=(32,)), way=5, inner_lr=0.3, inner_steps=5, order=1),
    lambda: kshot.MAML(models.MLP(8, hidden=(32,)), way=5, inner_lr=0.3, inner_steps=5, order=1, learned_rates=True),
    lambda: kshot.MetaSGD(models.MLP(8, hidden=(32,)), way=5, inner_lr=0.3, inner_steps=3, order=1),
    lambda: kshot.ANIL(models.MLP(8, hidden=(32,)), way=5, inner_lr=0.5, inner_steps=10, order=1),
    lambda: kshot.ProtoNet(models.MLP(8, hidden=(32,), out_features=16), scale=0.5, symmetric=True),
    lambda: MatchingNet(models.MLP(8, hidden=(32,), out_features=16), context_steps=2),
    lambda: RelationNet(models.MLP(8, hidden=(32,), out_features=16), hidden=32, loss="cross_entropy"),
    lambda: kshot.SoftKMeansProtoNet(models.MLP(8, hidden=(32,), out_features=16), variant="plain"),
    lambda: kshot.SoftKMeansProtoNet(models.MLP(8, hidden=(32,), out_features=16), variant="distractor"),
    lambda: kshot.MetaLSTM(models.MLP(8, hidden=(32,)), way=5, inner_lr=0.3, inner_steps=4, hidden=8),
    lambda: kshot.CNAPs(models.MLP(8, hidden=(32, 32)), encoder=models.MLP(8, hidden=(32,))),
    lambda: kshot.FineTuning(models.MLP(8, hidden=(32,), out_features=16), classes=512, layers="head"),
)
def test_conformance(check):
    check()


class NearestMean(kshot.Learner):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def features(self, x):
        return self.backbone(x)

    def adapt(self, support):
        return {"means": kshot.class_means(support)}

    def predict(self, adapted, z):
        return -kshot.squared_distance(z, adapted["means"])


class Normalised(models.Backbone):
    """An MLP whose features are normalised across examples."""

    def __init__(self):
        super().__init__()
        self.layers = models.Sequential(torch.nn.Linear(8, 32), models.TaskBatchNorm(32), torch.nn.Tanh())
        self.out_features = 32

    def forward(self, x, statistics=None):
        return self.layers(x, statistics)


@testing.parametrize(
    lambda: NearestMean(models.MLP(8, hidden=(32,))),
    lambda: NearestMean(Normalised()),
    lambda: kshot.MAML(Normalised(), way=5, inner_lr=0.3, inner_steps=5, norm="support"),
    lambda: kshot.MAML(Normalised(), way=5, inner_lr=0.3, inner_steps=5, norm="batch"),
    lambda: kshot.ANIL(Normalised(), way=5, inner_lr=0.3),
    lambda: kshot.MAML(Normalised(), way=5, inner_lr=0.3, inner_steps=2, learned_rates=True, step_norms=True),
)
def test_a_users_own(check):
    check()


def test_imaml_differentiates_the_supports_statistics():
    """With norm layers what a query is normalised by depends on the adapted weights, too."""
    make = lambda: kshot.IMAML(Normalised(), way=5, strength=1.0, inner_lr=0.1, inner_steps=4, cg_steps=2)  # noqa: E731
    testing.CHECKS["meta-gradient"](make, "classification")
    testing.CHECKS["masks"](make, "classification")


class Leaky(NearestMean):
    def adapt(self, support):
        self.last = kshot.class_means(support)
        return {"means": self.last}


class OrderDependent(NearestMean):
    def adapt(self, support):
        return {"means": kshot.class_means(support) + support.x[:1]}


class IgnoresMask(NearestMean):
    def adapt(self, support):
        labels = torch.nn.functional.one_hot(support.y, 5).to(support.x.dtype)
        return {"means": (labels.T @ support.x) / labels.sum(0)[:, None]}


class WrongGradient(NearestMean):
    def predict(self, adapted, z):
        return -kshot.squared_distance(z, adapted["means"].detach())


class SecretlyTransductive(NearestMean):
    def predict(self, adapted, z):
        return -kshot.squared_distance(z - z.mean(0), adapted["means"])


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (Leaky, "no leak"),
        (OrderDependent, "support order"),
        (IgnoresMask, "masks"),
        (WrongGradient, "meta-gradient"),
        (SecretlyTransductive, "transductive"),
    ],
)
def test_the_suite_finds_what_is_wrong(cls, name):
    with pytest.raises(AssertionError):
        testing.CHECKS[name](lambda: cls(models.MLP(8, hidden=(16,))), "classification")


class FirstOrderInName(kshot.MAML):
    def __init__(self):
        super().__init__(models.MLP(8, hidden=(32,)), way=5, inner_lr=0.3, inner_steps=2)
        self.meta_gradient = "first_order"


def test_the_suite_finds_a_first_order_flag_that_does_nothing():
    with pytest.raises(AssertionError, match="meta-gradient is not first-order"):
        testing.CHECKS["meta-gradient"](FirstOrderInName, "classification")


def test_check_learner_names_the_check():
    with pytest.raises(AssertionError, match="OrderDependent-classification-support order"):
        testing.check_learner(lambda: OrderDependent(models.MLP(8, hidden=(16,))))


class Ragged(kshot.ProtoNet):
    """Picks the real examples, as many as there are: shapes that depend on values."""

    def adapt(self, support):
        y = support.y[support.mask]
        return {"prototypes": torch.stack([support.x[support.mask][y == k].mean(0) for k in range(support.way)])}


def test_what_an_engine_mode_cannot_run_is_explained():
    with pytest.raises(AssertionError, match="whose shapes do not depend on values .*declares modes"):
        testing.check_learner(lambda: Ragged(models.MLP(8, hidden=(16,))))
