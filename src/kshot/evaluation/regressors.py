"""Baselines of regression that know no network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kshot.episodes import Examples, first_tensor
from kshot.learners.base import Learner


class Ridge(Learner):
    """Ridge regression on the raw inputs, with an intercept that is not penalised: `adapt(support, l2=...)`."""

    native = True
    outputs = "values"

    def adapt(self, support: Examples, *, l2: float = 1.0) -> dict[str, Tensor]:  # type: ignore[override]
        x = first_tensor(support.x).flatten(support.mask.ndim)
        weight = support.mask.to(x.dtype).unsqueeze(-1)
        total = weight.sum(-2, keepdim=True).clamp(min=1)
        x_mean, y_mean = ((value * weight).sum(-2, keepdim=True) / total for value in (x, support.y))
        x, y = (x - x_mean) * weight, (support.y - y_mean) * weight
        gram = x.transpose(-1, -2) @ x + l2 * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        slope = torch.linalg.solve(gram, x.transpose(-1, -2) @ y)
        return {"weight": slope, "bias": y_mean - x_mean @ slope}

    def predict(self, adapted: dict[str, Tensor], x: Any) -> Tensor:
        weight = adapted["weight"]
        return first_tensor(x).flatten(weight.ndim - 1) @ weight + adapted["bias"]


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
