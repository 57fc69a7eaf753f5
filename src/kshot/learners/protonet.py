"""Prototypical networks (Snell, Swersky, Zemel 2017)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kshot.episodes import Examples
from kshot.errors import UnsupportedError
from kshot.functional import class_means, one_hot, squared_distance
from kshot.learners.base import Learner


class ProtoNet(Learner):
    """A class is the mean of its examples' features; a query belongs to the nearest one.

    c_k = mean of f(x_i) over the support of class k (eq. 1); p(y = k | x) = softmax over k of -|f(x) - c_k|^2 (eq. 2).

    Args:
        backbone: f, `[n, *shape] -> [n, d]`.
        scale: where a learned factor of the distances begins (TADAM: Oreshkin, Rodriguez, Lacoste 2018, metric
            scaling); None: a factor of 1, which is not learned.
        symmetric: learn from the exchanged episode, too: the mean of the loss and of the one with support and query in
            each other's place, which costs no further features (prototype alignment, PANet: Wang et al. 2019).

    Raises:
        UnsupportedError: a scale that is not positive.
    """

    native = True

    def __init__(self, backbone: nn.Module, scale: float | None = None, symmetric: bool = False) -> None:
        super().__init__()
        if scale is not None and not scale > 0:
            raise UnsupportedError(f"expected a positive scale, got {scale!r}")
        self.backbone, self.symmetric = backbone, symmetric
        self.log_scale = None if scale is None else nn.Parameter(torch.tensor(math.log(scale)))

    def features(self, x: Any) -> Any:
        return self.backbone(x)

    def adapt(self, support: Examples) -> dict[str, Tensor]:  # type: ignore[override]
        return {"prototypes": class_means(support)}

    def predict(self, adapted: dict[str, Tensor], x: Tensor) -> Tensor:
        logits = -squared_distance(x, adapted["prototypes"])
        return logits if self.log_scale is None else logits * self.log_scale.exp()

    def objective(self, support: Examples, query: Examples) -> Tensor:
        loss = super().objective(support, query)
        if not self.symmetric:
            return loss
        # A class without queries has no prototype in the exchanged episode, and its examples no place.
        there = one_hot(query).bool().any(-2)
        asked = replace(support, mask=support.mask & there.gather(-1, support.y), classes=there, padded=True)
        return (loss + super().objective(query, asked)) / 2

    @classmethod
    def tiny(cls, kind: str = "classification") -> ProtoNet:
        from kshot.models import MLP

        if kind != "classification":
            raise UnsupportedError("ProtoNet compares class prototypes: for regression use MAML")
        return cls(MLP(8, hidden=(32,), out_features=16))
