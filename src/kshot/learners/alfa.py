"""ALFA: adaptive hyperparameters of the inner loop (Baik, Choi, Choi, Kim, Lee 2020)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from kshot.engine.inner import Step, Weights
from kshot.learners.gradient import STEPS_FOR_CLASSES, GradientLearner
from kshot.models import MLP


class ALFA(GradientLearner):
    """MAML whose step sizes and weight decays are made for the task, layer and step by a small network.

    theta_{j+1} = beta_j o theta_j - alpha_j o grad L(theta_j; support) (eq. 5), with (alpha_j, beta_j) = g(tau_j),
    tau_j the mean of the gradients and of the weights of each layer (eq. 6). As in the original code g's outputs are
    factors of a learned step size and decay of each layer and step; here they begin as ones, so that it begins as MAML
    with the decay.

    Args:
        backbone: the network, `[n, *shape] -> [n, d]`.
        way: classes of the linear head put on it (the most that a task may have); None for a regressor.
        inner_lr: where the step sizes begin.
        inner_steps: inner gradient steps in training.
        decay: where the weight decays begin, relative to `inner_lr`.
        order: 2, or 1 to take the inner gradients as constants.
        test_steps: inner steps in eval mode; `inner_steps` by default. `adapt(support, steps=...)` overrides both.
        norm: as for `MAML`.
    """

    suggested = STEPS_FOR_CLASSES

    def __init__(
        self,
        backbone: nn.Module,
        way: int | None = None,
        inner_lr: float = 0.01,
        inner_steps: int = 5,
        decay: float = 0.0005,
        order: Literal[1, 2] = 2,
        test_steps: int | None = None,
        norm: Literal["support", "batch"] = "support",
    ) -> None:
        super().__init__(backbone, way, inner_steps, order, test_steps, norm)
        layers = len(list(self.network.parameters()))
        rows = max(inner_steps, 1)
        self.rates = nn.Parameter(torch.full((rows, layers), float(inner_lr)))
        self.decays = nn.Parameter(torch.full((rows, layers), float(inner_lr) * float(decay)))
        self.generator = nn.Sequential(
            nn.Linear(2 * layers, 2 * layers), nn.ReLU(), nn.Linear(2 * layers, 2 * layers), nn.ReLU(),
            nn.Linear(2 * layers, 2 * layers),
        )  # fmt: skip
        last = self.generator[-1]
        nn.init.zeros_(last.weight)  # type: ignore[arg-type]
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def update(self, step: Step, weights: Weights, state: Any) -> tuple[Weights, Any]:
        means = [step.gradients[name].mean() for name in weights] + [value.mean() for value in weights.values()]
        alpha, beta = (1 + self.generator(torch.stack(means))).chunk(2)
        row = min(step.number, len(self.rates) - 1)
        alpha, beta = alpha * self.rates[row], 1 - beta * self.decays[row]
        moved = {
            name: beta[i] * value - alpha[i] * step.gradients[name] for i, (name, value) in enumerate(weights.items())
        }
        return moved, state

    @classmethod
    def tiny(cls, kind: str = "classification") -> ALFA:
        if kind == "regression":
            return cls(MLP(1, hidden=(40, 40), out_features=1), inner_lr=0.02, inner_steps=2)
        return cls(MLP(8, hidden=(32,)), way=5, inner_lr=0.3, inner_steps=3)
