"""Relation networks (Sung, Yang, Zhang, Xiang, Torr, Hospedales 2018)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from kshot.episodes import Examples, first_tensor
from kshot.errors import UnsupportedError
from kshot.functional import one_hot
from kshot.learners.base import Learner
from kshot.models import MLP, MaxPool2d


class RelationNet(Learner):
    """Learns how to compare: a second network scores how well a query and a class go together.

    r = g(concat(sum over the class's examples of f(x_i), f(x))) (eq. 1), in [0, 1], by the squared error to 1 for the
    query's own class and to 0 for the others (eq. 2). Here it is the mean over a class's examples in place of their
    sum, so that a class of five and one of two are of one size; with one shot they are the same.

    Where the backbone keeps its maps (`Conv4(flatten=False)`, `[n, c, h, w]`), g is the paper's: two blocks of 3x3
    convolution, norm, ReLU and pooling, then two linear layers; on feature vectors it is two linear layers. Its norm is
    over groups of channels, since a batch's statistics would make a prediction depend on the other queries.

    Args:
        backbone: f, `[n, *shape] -> [n, d]` or `[n, c, h, w]`.
        hidden: units between the two linear layers; None: the paper's 8 after the convolutions, 64 where there are
            none (8 then die, with the squared error, before they have learned anything).
        loss: "mse", the paper's, or "cross_entropy" of the scores before the sigmoid.

    Raises:
        UnsupportedError: another loss.
    """

    def __init__(
        self, backbone: nn.Module, hidden: int | None = None, loss: Literal["mse", "cross_entropy"] = "mse"
    ) -> None:
        super().__init__()
        if loss not in ("mse", "cross_entropy"):
            raise UnsupportedError(f"expected the loss 'mse' or 'cross_entropy', got {loss!r}")
        if hidden is not None and hidden < 1:
            raise UnsupportedError(f"expected at least one hidden unit, got {hidden}")
        self.backbone, self.criterion = backbone, loss
        self.relation = make_relation(backbone, hidden)

    def features(self, x: Any) -> Any:
        return self.backbone(x)

    def adapt(self, support: Examples) -> dict[str, Tensor]:  # type: ignore[override]
        z = first_tensor(support.x)
        labels = one_hot(support, z.dtype)
        sums = (labels.T @ z.flatten(1)).view(support.way, *z.shape[1:])
        return {"classes": sums / labels.sum(0).clamp(min=1).view(-1, *[1] * (z.ndim - 1))}

    def predict(self, adapted: dict[str, Tensor], x: Tensor) -> Tensor:
        classes = adapted["classes"]
        n, way = x.shape[0], classes.shape[0]
        pairs = torch.cat(
            [classes.unsqueeze(0).expand(n, *classes.shape), x.unsqueeze(1).expand(n, way, *x.shape[1:])], 2
        )
        scores: Tensor = self.relation(pairs.flatten(0, 1))
        return scores.view(n, way)

    def loss(self, output: Tensor, query: Examples) -> Tensor:
        if self.criterion == "cross_entropy":
            return super().loss(output, query)
        target = one_hot(query, output.dtype)
        real = (query.mask.unsqueeze(-1) & query.classes.unsqueeze(-2)).to(output.dtype)
        return ((output.sigmoid() - target).square() * real).sum() / real.sum().clamp(min=1)

    @classmethod
    def tiny(cls, kind: str = "classification") -> RelationNet:
        if kind != "classification":
            raise UnsupportedError("RelationNet scores a query against classes: for regression use MAML")
        return cls(MLP(8, hidden=(32,), out_features=16))


def make_relation(backbone: nn.Module, hidden: int | None = None) -> nn.Module:
    """g: from a class and a query, one behind the other, to a score `[n, 1]`."""
    shape = getattr(backbone, "out_shape", None)
    if shape is None or getattr(backbone, "flatten", False):
        size, hidden = int(backbone.out_features), 64 if hidden is None else hidden  # type: ignore[arg-type]
        return nn.Sequential(nn.Linear(2 * size, hidden), nn.ReLU(), nn.Linear(hidden, 1))
    channels, height, width = shape
    hidden = 8 if hidden is None else hidden
    blocks: list[nn.Module] = []
    for inputs in (2 * channels, channels):
        blocks += [
            nn.Conv2d(inputs, channels, 3, padding=1, bias=False),
            nn.GroupNorm(max(1, channels // 8), channels),
            nn.ReLU(),
        ]
        if min(height, width) >= 2:
            blocks.append(MaxPool2d(2))
            height, width = height // 2, width // 2
    return nn.Sequential(
        *blocks, nn.Flatten(), nn.Linear(channels * height * width, hidden), nn.ReLU(), nn.Linear(hidden, 1)
    )
