"""Siamese networks (Koch, Zemel, Salakhutdinov 2015)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot.episodes import Examples, first_tensor
from kshot.errors import UnsupportedError
from kshot.functional import one_hot
from kshot.learners.base import Learner
from kshot.models import MLP


class SiameseNet(Learner):
    """Learns whether two examples are of one class; a query has the class of the support examples most like it.

    p(same | a, b) = sigmoid(sum over j of alpha_j |f(a)_j - f(b)_j| + beta) (sec. 3.1). Trained on all pairs of a query
    and a support example, with as much weight on the pairs of one class as on the others (the paper draws its pairs
    so); a class's score is the mean of its examples' logits.

    Args:
        backbone: f, `[n, *shape] -> [n, d]`.
    """

    native = True

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        # The further apart the less alike, with as many pairs above zero as below where features are of unit scale, as
        # batch norm leaves them: from zero the bias needs thousands of steps to get there.
        size = int(backbone.out_features)  # type: ignore[arg-type]
        self.weight = nn.Parameter(torch.full((size,), -0.1))
        self.bias = nn.Parameter(torch.tensor(0.06 * size))

    def features(self, x: Any) -> Any:
        return self.backbone(x)

    def same(self, a: Tensor, b: Tensor) -> Tensor:
        """Logits that a row of `a` `[..., n, d]` and one of `b` `[..., m, d]` are of one class: `[..., n, m]`."""
        return ((a.unsqueeze(-2) - b.unsqueeze(-3)).abs() * self.weight).sum(-1) + self.bias

    def adapt(self, support: Examples) -> dict[str, Tensor]:  # type: ignore[override]
        z = first_tensor(support.x)
        return {"support": z, "labels": one_hot(support, z.dtype)}

    def predict(self, adapted: dict[str, Tensor], x: Tensor) -> Tensor:
        labels = adapted["labels"]
        return self.same(x, adapted["support"]) @ labels / labels.sum(-2, keepdim=True).clamp(min=1)

    def objective(self, support: Examples, query: Examples) -> Tensor:
        logits = self.same(first_tensor(query.x), first_tensor(support.x))
        real = (query.mask.unsqueeze(-1) & support.mask.unsqueeze(-2)).to(logits.dtype)
        same = (query.y.unsqueeze(-1) == support.y.unsqueeze(-2)).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, same, reduction="none")
        return sum(_mean(losses, real * which) for which in (same, 1 - same)) / 2  # type: ignore[return-value]

    @classmethod
    def tiny(cls, kind: str = "classification") -> SiameseNet:
        if kind != "classification":
            raise UnsupportedError("SiameseNet says whether two examples share a class: for regression use MAML")
        return cls(MLP(8, hidden=(32,), out_features=16))


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum((-1, -2)) / weights.sum((-1, -2)).clamp(min=1)
