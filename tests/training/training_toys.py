"""Small things to train."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import kshot
from kshot import models, tasks
from kshot.datasets.pool import Pool
from kshot.datasets.transform import IdentityTransform
from kshot.randomness import normal, seeded
from kshot.tasks import FewShotTasks, TaskSource

FEATURES = 6


def pool(classes: int, seed: int, examples: int = 12) -> Pool:
    """Gaussian clouds, of which only the first two features tell them apart."""
    means = 2.0 * normal(seed, torch.arange(classes).numpy()[:, None, None], 0, torch.arange(FEATURES).numpy())
    noise = normal(seed, torch.arange(classes).numpy()[:, None, None], 1 + torch.arange(examples).numpy()[:, None],
                   torch.arange(FEATURES).numpy())  # fmt: skip
    informative = torch.arange(FEATURES).numpy() < 2
    x = means * informative + noise * (1.5 - informative)
    return Pool.from_sorted(
        torch.from_numpy(x).float().flatten(0, 1), [examples] * classes, [f"{seed}/{c}" for c in range(classes)]
    )


def gaussians(way: int = 3, shot: int = 2, query: int = 3, val: bool = True) -> TaskSource:
    options = {"way": way, "shot": shot, "query": query}
    names = {"train": (12, 1), "val": (5, 2), "test": (5, 3)}
    if not val:
        del names["val"]
    return TaskSource(
        "gaussians",
        {
            name: FewShotTasks(pool(classes, seed), IdentityTransform(), name, **options)
            for name, (classes, seed) in names.items()
        },
        example_shape=(FEATURES,),
        transform=IdentityTransform(),
    )


def sinusoids() -> TaskSource:
    return tasks.load("sinusoids", shot=5, query=5)


class Noisy(models.Backbone):
    """Dropout and batch normalisation: all that has a state of its own."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = models.Sequential(
            nn.Linear(FEATURES, width), models.TaskBatchNorm(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, width)
        )
        self.out_features = width
        self.input_shape = (FEATURES,)

    def forward(self, x: Tensor, statistics: models.Statistics | None = None) -> Tensor:
        out: Tensor = self.layers(x, statistics)
        return out


def protonet(seed: int = 0, noisy: bool = False) -> kshot.ProtoNet:
    with seeded(seed):
        return kshot.ProtoNet(Noisy() if noisy else models.MLP(FEATURES, hidden=(8,), out_features=4))


def maml(seed: int = 0) -> kshot.MAML:
    with seeded(seed):
        return kshot.MAML(models.MLP(1, hidden=(8,), out_features=1), inner_lr=0.01)


def fit(learner: kshot.Learner, source: TaskSource, **options: Any) -> Any:
    defaults = {"steps": 6, "meta_batch": 4, "val_tasks": 10, "progress": False, "mode": "native", "device": "cpu"}
    if not learner.native:
        defaults["mode"] = "loop"
    return kshot.Trainer(learner, source, **{**defaults, **options}).fit()


def same(a: nn.Module, b: nn.Module) -> bool:
    """Bit for bit."""
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


class Broken(kshot.Learner):
    """Its loss is not finite from some step on."""

    def __init__(self, after: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(FEATURES))
        self.register_buffer("seen", torch.zeros(()))
        self.after = after

    def adapt(self, support: Any) -> Any:
        if self.training:
            self.seen += 1
        return {"means": kshot.class_means(support.replace_x(support.x * self.weight))}

    def predict(self, adapted: Any, x: Any) -> Any:
        logits = -kshot.squared_distance(x * self.weight, adapted["means"])
        return logits * (float("nan") if self.training and self.seen > 4 * self.after else 1.0)
