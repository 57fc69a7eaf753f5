"""The conditional neural process (Garnelo et al. 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot.episodes import Examples, first_tensor
from kshot.errors import UnsupportedError
from kshot.functional import class_means
from kshot.learners.context import ContextLearner
from kshot.models import MLP


class CNP(ContextLearner):
    """Encodes every support pair, averages, and decodes at the query: a distribution over its target.

    r_i = h(x_i, y_i), r = mean of the r_i, (mu, sigma) = g(x, r) (Garnelo et al. 2018, eq. 2-4). A class label is not
    encoded but kept apart: r is the mean of h(x_i) of each class, one behind the other (sec. 4.3). For regression the
    output is the predictive mean and log-variance, sigma = 0.1 + 0.9 softplus(.) as in the original code, and the loss
    is the negative log-likelihood.

    Args:
        backbone: features of x, `[n, *shape] -> [n, d]`; `MLP(d, hidden=())` takes it as it is.
        way: classes (the most that a task may have); None for regression.
        size: of r and of the hidden layers.
        layers: hidden layers of encoder and decoder.
        out_features: values of a target, for regression.

    Raises:
        UnsupportedError: a single class, a size below 1, or fewer than 0 layers.
    """

    toy_steps = 1500

    def __init__(
        self, backbone: nn.Module, way: int | None = None, size: int = 128, layers: int = 2, out_features: int = 1
    ) -> None:
        super().__init__(backbone, way, out_features)
        if size < 1 or layers < 0:
            raise UnsupportedError(f"expected a size of at least 1 and at least 0 layers, got {size} and {layers}")
        self.size = size
        if way is None:
            self.outputs = "mean_variance"
        features = int(backbone.out_features)  # type: ignore[arg-type]
        labels = out_features if way is None else 0
        self.encoder = MLP(features + labels, hidden=[size] * layers, out_features=size)
        seen, out = (size, 2 * out_features) if way is None else (way * size, way)
        self.decoder = MLP(features + seen, hidden=[size] * layers, out_features=out)

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        return getattr(self.backbone, "input_shape", None)

    def encode(self, support: Examples) -> Tensor:
        """r_i of the support `[..., n, d]`: `[..., n, size]`."""
        r: Tensor = self.encoder(first_tensor(support.x) if self._way else torch.cat(self.pairs(support), -1))
        return r

    def adapt(self, support: Examples) -> dict[str, Any]:  # type: ignore[override]
        r = self.encode(support)
        if self._way:
            return {"representation": class_means(support.widen(self._way).replace_x(r)).flatten(-2)}
        real = support.mask.unsqueeze(-1).to(r.dtype)
        return {"representation": (r * real).sum(-2) / real.sum(-2).clamp(min=1)}

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        r = adapted["representation"].unsqueeze(-2)
        return self.decode(x, r.expand(*x.shape[:-1], r.shape[-1]))

    def decode(self, x: Tensor, r: Tensor) -> Tensor:
        """Logits, or means and log-variances, from the queries' features and a representation for each."""
        out: Tensor = self.decoder(torch.cat([x, r], -1))
        if self._way:
            return out
        mean, raw = out.chunk(2, -1)
        return torch.cat([mean, 2 * (0.1 + 0.9 * F.softplus(raw)).log()], -1)

    @classmethod
    def tiny(cls, kind: str = "classification") -> CNP:
        if kind == "regression":
            return cls(MLP(1, hidden=()), size=64)
        return cls(MLP(8, hidden=(32,), out_features=16), way=5, layers=1)
