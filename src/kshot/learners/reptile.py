"""Reptile (Nichol, Achiam, Schulman 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from kshot.engine.inner import Step, Weights
from kshot.engine.rules import adam, sgd
from kshot.episodes import Examples, first_tensor
from kshot.errors import UnsupportedError
from kshot.learners.base import attach
from kshot.learners.gradient import GradientLearner
from kshot.models import MLP


class Reptile(GradientLearner):
    """Trains on a task, then moves the initialisation towards the weights that came of it.

    theta <- theta + epsilon (theta' - theta), theta' the weights after `inner_steps` steps on the task (algorithm 1; of
    several tasks the mean, algorithm 2). Here theta - theta' is the meta-gradient, and epsilon the learning rate of an
    outer SGD: `Trainer(..., optimizer="sgd", lr=1.0, schedule="linear")` is the paper's outer loop. No gradient flows
    through the inner loop.

    The inner loop is Adam without momentum (beta1 = 0), as in the paper's experiments; its second moments begin anew
    with each task, while the original code keeps them. It learns from support examples alone: give train tasks more
    shots than test tasks (`train=dict(shot=10)`); a training loss is that of their queries, and only reported.

    Args:
        backbone: the network, `[n, *shape] -> [n, d]`.
        way: classes of the linear head put on it (the most that a task may have); None for a regressor.
        inner_lr: of Adam (or, with `beta2=None`, of plain SGD).
        inner_steps: inner steps in training.
        test_steps: inner steps in eval mode. `adapt(support, steps=...)` overrides both.
        batch: examples that an inner step sees, one mini-batch of the support after the other; None: all of them.
        test_batch: the same in eval mode; `batch` by default.
        beta2: decay of Adam's second moments; None for SGD.
        norm: `"support"` is the paper's inductive evaluation, `"batch"` its transductive one.

    Raises:
        UnsupportedError: an empty mini-batch, a beta2 outside [0, 1), a number of steps or a norm that there is not.
    """

    suggested_training: ClassVar[Mapping[str, Any]] = {"optimizer": "sgd", "lr": 1.0}

    def __init__(
        self,
        backbone: nn.Module,
        way: int | None = None,
        inner_lr: float = 0.001,
        inner_steps: int = 5,
        test_steps: int | None = 50,
        batch: int | None = 10,
        beta2: float | None = 0.999,
        norm: Literal["support", "batch"] = "support",
        test_batch: int | None = None,
    ) -> None:
        super().__init__(backbone, way, inner_steps, 1, test_steps, norm)
        for size in (batch, test_batch):
            if size is not None and size < 1:
                raise UnsupportedError(f"expected a mini-batch of at least 1 example, or None for all, got {size}")
        if beta2 is not None and not 0 <= beta2 < 1:
            raise UnsupportedError(f"expected beta2 in [0, 1), or None for SGD, got {beta2}")
        self.inner_lr, self.beta2 = float(inner_lr), beta2
        self.batch, self.test_batch = batch, batch if test_batch is None else test_batch
        self.meta_gradient = "reptile"
        self.support_order_matters = self.test_batch is not None

    def inner_loss(self, step: int, weights: Weights, support: Examples) -> Tensor:
        size = self.batch if self.training else self.test_batch
        return super().inner_loss(step, weights, support if size is None else minibatch(support, step, size))

    def update(self, step: Step, weights: Weights, state: Any) -> tuple[Weights, Any]:
        if self.beta2 is None:
            return sgd(step, weights, state, lr=self.inner_lr)
        return adam(step, weights, state, lr=self.inner_lr, beta1=0.0, beta2=self.beta2)

    def objective(self, support: Examples, query: Examples) -> Tensor:
        theta, adapted = self.start(), self.adapt(support)
        value = self.loss(self.predict_with_mask(adapted, query), query)
        return attach(value, theta, {name: p - adapted["parameters"][name] for name, p in theta.items()})

    @classmethod
    def tiny(cls, kind: str = "classification") -> Reptile:
        if kind == "regression":
            return cls(MLP(1, hidden=(40, 40), out_features=1), inner_lr=0.02, inner_steps=10, test_steps=20, batch=5)
        return cls(MLP(8, hidden=(32,)), way=5, inner_lr=0.02, inner_steps=5, test_steps=20)


def minibatch(examples: Examples, step: int, size: int) -> Examples:
    """The `step`-th mini-batch of one task's real examples in their order, beginning anew after the last.

    Every mini-batch is of one size, padding or not: a task with fewer examples gives some of them twice.
    """
    real = examples.mask.sum().clamp(min=1)
    order = (~examples.mask).to(torch.uint8).argsort(stable=True)  # the real ones first
    rows = order[(step * size + torch.arange(size, device=examples.device)) % real]
    x = examples.x
    chosen = {k: v[rows] for k, v in x.items()} if isinstance(x, dict) else first_tensor(x)[rows]
    return replace(examples, x=chosen, y=examples.y[rows], mask=examples.mask[rows])
