"""Meta-Curvature (Park, Oliva 2019)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from kshot.engine.inner import Step, Weights
from kshot.learners.gradient import STEPS_FOR_CLASSES, GradientLearner
from kshot.models import MLP


class MetaCurvature(GradientLearner):
    """MAML whose gradients are turned by learned matrices: the curvature that tasks have in common.

    theta' = theta - alpha MC(grad L(theta; support)), MC(G) = G x_3 M_f x_2 M_i x_1 M_o: a matrix each for the outputs,
    the inputs and the filter's places of a weight (eq. 8); a factor each for the entries of a vector. All begin as
    identities, which is MAML, and are learned with the initialisation.

    Args:
        backbone: the network, `[n, *shape] -> [n, d]`.
        way: classes of the linear head put on it (the most that a task may have); None for a regressor.
        inner_lr: alpha.
        inner_steps: inner gradient steps in training.
        order: 2, or 1 to take the inner gradients as constants (the matrices are learned all the same).
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
        self.inner_lr = float(inner_lr)
        self.curvatures = nn.ModuleList([Curvature(p) for p in self.network.parameters()])

    def update(self, step: Step, weights: Weights, state: Any) -> tuple[Weights, Any]:
        pairs = zip(weights.items(), self.curvatures, strict=True)
        return {name: value - self.inner_lr * turn(step.gradients[name]) for (name, value), turn in pairs}, state

    @classmethod
    def tiny(cls, kind: str = "classification") -> MetaCurvature:
        if kind == "regression":
            return cls(MLP(1, hidden=(40, 40), out_features=1), inner_lr=0.02, inner_steps=2)
        return cls(MLP(8, hidden=(32,)), way=5, inner_lr=0.3, inner_steps=3)


class Curvature(nn.Module):
    """The learned matrices of one weight `[out, in, *places]`, or factors of a vector."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        if weight.ndim < 2:
            self.factors = nn.ParameterList([torch.ones_like(weight)])
        else:
            sizes = [weight.shape[0], weight.shape[1], *([weight[0, 0].numel()] if weight.ndim > 2 else [])]
            self.factors = nn.ParameterList([torch.eye(size).to(weight) for size in sizes])

    def forward(self, gradient: Tensor) -> Tensor:
        """A gradient of the weight's shape, turned."""
        if gradient.ndim < 2:
            return torch.mul(gradient, self.factors[0])
        g: Tensor = torch.einsum(
            "ab,bc...->ac...", self.factors[0], gradient.flatten(2) if gradient.ndim > 2 else gradient
        )
        g = torch.einsum("cd,bd...->bc...", self.factors[1], g)
        if gradient.ndim > 2:
            g = g @ self.factors[2].T
        return g.reshape(gradient.shape)
