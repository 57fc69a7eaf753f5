"""Model-agnostic meta-learning (Finn, Abbeel, Levine 2017)."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from kshot.engine.inner import Weights
from kshot.learners.gradient import GradientLearner
from kshot.models import MLP


class MAML(GradientLearner):
    """An initialisation from which a few gradient steps on the support set solve a task.

    theta' = theta - alpha * grad L(theta; support), `inner_steps` times (eq. 1); the outer loop minimises L(theta';
    query) through those steps (algorithm 1), or taking their gradients as constants (`order=1`, sec. 5.2).

    Args:
        backbone: the network, `[n, *shape] -> [n, d]`.
        way: classes of the linear head put on it (the most that a task may have); None leaves the backbone's own
            output and makes a regressor.
        inner_lr: alpha.
        inner_steps: inner gradient steps in training.
        order: 2, or 1 for FOMAML.
        test_steps: inner steps in eval mode; `inner_steps` by default. `adapt(support, steps=...)` overrides both.
        norm: where TaskBatchNorm layers get a query's statistics: `"support"`, from the support set (inductive), or
            `"batch"`, from the queries themselves (transductive, as in the original code). Of no effect on other
            layers.
    """

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
        self.inner_lr = float(inner_lr)

    def update(self, step: int, weights: Weights, gradients: Weights, state: Any) -> tuple[Weights, Any]:
        return {name: value - self.inner_lr * gradients[name] for name, value in weights.items()}, state

    @classmethod
    def tiny(cls, kind: str = "classification") -> MAML:
        if kind == "regression":
            return cls(MLP(1, hidden=(40, 40), out_features=1), inner_lr=0.02, inner_steps=2)
        return cls(MLP(8, hidden=(32,)), way=5, inner_lr=0.3, inner_steps=5)
