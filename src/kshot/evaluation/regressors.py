"""The baselines of regression: two that know no network, and one that was pretrained."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kshot.engine.inner import Weights, unroll
from kshot.engine.rules import adam
from kshot.episodes import Examples, first_tensor
from kshot.learners.base import Learner


class Ridge(Learner):
    """Ridge regression on the raw inputs, with a penalty `l2` and an intercept that is not penalised."""

    native = True
    outputs = "values"

    def __init__(self, l2: float = 1.0) -> None:
        super().__init__()
        self.l2 = l2

    def adapt(self, support: Examples) -> dict[str, Tensor]:  # type: ignore[override]
        x = first_tensor(support.x).flatten(support.mask.ndim)
        weight = support.mask.to(x.dtype).unsqueeze(-1)
        total = weight.sum(-2, keepdim=True).clamp(min=1)
        x_mean, y_mean = ((value * weight).sum(-2, keepdim=True) / total for value in (x, support.y))
        x, y = (x - x_mean) * weight, (support.y - y_mean) * weight
        gram = x.transpose(-1, -2) @ x + self.l2 * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        slope = torch.linalg.solve(gram, x.transpose(-1, -2) @ y)
        return {"weight": slope, "bias": y_mean - x_mean @ slope}

    def predict(self, adapted: dict[str, Tensor], x: Any) -> Tensor:
        weight = adapted["weight"]
        return first_tensor(x).flatten(weight.ndim - 1) @ weight + adapted["bias"]


class FineTunedRegressor(Learner):
    """A network that was pretrained on all tasks, and goes on training on the support by Adam.

    It is run as it is: norm layers keep their statistics from pretraining, those of a handful of points would be worse.

    Args:
        network: `[n, *shape] -> [n, outputs]`, in eval mode.
        steps, lr: of Adam.
    """

    modes = ("loop", "vmap")
    outputs = "values"

    def __init__(self, network: nn.Module, *, steps: int, lr: float) -> None:
        super().__init__()
        self.network, self.steps, self.lr = network, steps, lr

    def adapt(self, support: Examples) -> Weights:  # type: ignore[override]
        return unroll(
            lambda _, weights: self.loss(self.predict(weights, support.x), support),
            dict(self.network.named_parameters()),
            functools.partial(adam, lr=self.lr),
            steps=self.steps,
            order=1,
        )

    def predict(self, adapted: Weights, x: Any) -> Tensor:
        out: Tensor = functional_call(self.network, adapted, (x,))
        return out


class MeanPredictor(Learner):
    """Every prediction is the mean of the support targets."""

    native = True
    outputs = "values"

    def adapt(self, support: Examples) -> dict[str, Tensor]:  # type: ignore[override]
        weight = support.mask.to(support.y.dtype).unsqueeze(-1)
        return {"mean": (support.y * weight).sum(-2, keepdim=True) / weight.sum(-2, keepdim=True).clamp(min=1)}

    def predict(self, adapted: dict[str, Tensor], x: Any) -> Tensor:
        mean = adapted["mean"]
        n = first_tensor(x).shape[mean.ndim - 2]
        return mean.expand(*mean.shape[:-2], n, mean.shape[-1])
