"""Meta-SGD (Li, Zhou, Chen, Li 2017)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from kshot.engine.inner import Step, Weights
from kshot.learners.gradient import STEPS_FOR_CLASSES, GradientLearner
from kshot.models import MLP


class MetaSGD(GradientLearner):
    """MAML that also learns how far, and whether forwards or backwards, each weight goes.

    theta' = theta - alpha o grad L(theta; support), with a learned alpha of the shape of theta (eq. 4); the outer loop
    learns both (algorithm 1).

    Args:
        backbone: the network, `[n, *shape] -> [n, d]`.
        way: classes of the linear head put on it (the most that a task may have); None for a regressor.
        inner_lr: where every step size begins.
        inner_steps: inner gradient steps in training; one in the paper.
        order: 2, or 1 to take the inner gradients as constants (the step sizes are learned all the same).
        test_steps: inner steps in eval mode; `inner_steps` by default. `adapt(support, steps=...)` overrides both.
        norm: as for `MAML`.
    """

    suggested = STEPS_FOR_CLASSES

    def __init__(
        self,
        backbone: nn.Module,
        way: int | None = None,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        order: Literal[1, 2] = 2,
        test_steps: int | None = None,
        norm: Literal["support", "batch"] = "support",
    ) -> None:
        super().__init__(backbone, way, inner_steps, order, test_steps, norm)
        self.rates = nn.ParameterList([torch.full_like(p, float(inner_lr)) for p in self.network.parameters()])

    def update(self, step: Step, weights: Weights, state: Any) -> tuple[Weights, Any]:
        pairs = zip(weights.items(), self.rates, strict=True)
        return {name: value - rate * step.gradients[name] for (name, value), rate in pairs}, state

    @classmethod
    def tiny(cls, kind: str = "classification") -> MetaSGD:
        if kind == "regression":
            return cls(MLP(1, hidden=(40, 40), out_features=1), inner_lr=0.02, inner_steps=2)
        return cls(MLP(8, hidden=(32,)), way=5, inner_lr=0.3, inner_steps=3)
