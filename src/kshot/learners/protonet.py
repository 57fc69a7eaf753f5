"""Prototypical networks (Snell, Swersky, Zemel 2017)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kshot.episodes import Examples
from kshot.errors import UnsupportedError
from kshot.functional import class_means, squared_distance
from kshot.learners.base import Learner


class ProtoNet(Learner):
    """A class is the mean of its examples' features; a query belongs to the nearest one.

    c_k = mean of f(x_i) over the support of class k (eq. 1); p(y = k | x) = softmax over k of -|f(x) - c_k|^2 (eq. 2).

    Args:
        backbone: f, `[n, *shape] -> [n, d]`.
    """

    native = True

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def features(self, x: Any) -> Any:
        return self.backbone(x)

    def adapt(self, support: Examples) -> dict[str, Tensor]:  # type: ignore[override]
        return {"prototypes": class_means(support)}

    def predict(self, adapted: dict[str, Tensor], x: Tensor) -> Tensor:
        return -squared_distance(x, adapted["prototypes"])

    @classmethod
    def tiny(cls, kind: str = "classification") -> ProtoNet:
        from kshot.models import MLP

        if kind != "classification":
            raise UnsupportedError("ProtoNet compares class prototypes: for regression use MAML")
        return cls(MLP(8, hidden=(32,), out_features=16))
