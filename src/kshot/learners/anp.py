"""The attentive neural process (Kim et al. 2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kshot.episodes import Examples, first_tensor
from kshot.learners.cnp import CNP
from kshot.models import MLP
from kshot.models.attention import MultiHeadAttention


class ANP(CNP):
    """A CNP whose representation is another one for each query: it attends to the support points near it.

    r_i from self-attention over the encoded pairs, r(x) by multi-head attention with x as the query and the x_i as keys
    (Kim et al. 2019, sec. 3, fig. 2): the deterministic path. Their latent path, which gives coherent samples of whole
    functions, is left out: mean and variance at a point do without it.

    Args:
        backbone: features of x, `[n, *shape] -> [n, d]`.
        way: classes (the most that a task may have); None for regression. Labels are encoded one-hot.
        size: of r, keys and hidden layers.
        layers: hidden layers of encoder and decoder.
        heads: of attention.
        out_features: values of a target, for regression.

    Raises:
        UnsupportedError: as for `CNP`, or a number of heads that does not divide the size.
    """

    toy_steps = 750

    def __init__(
        self,
        backbone: nn.Module,
        way: int | None = None,
        size: int = 128,
        layers: int = 2,
        heads: int = 8,
        out_features: int = 1,
    ) -> None:
        super().__init__(backbone, way, size, layers, out_features)
        features = int(backbone.out_features)  # type: ignore[arg-type]
        if way is not None:
            self.encoder = MLP(features + way, hidden=[size] * layers, out_features=size)
            self.decoder = MLP(features + size, hidden=[size] * layers, out_features=way)
        self.keys = MLP(features, hidden=[size], out_features=size)
        self.among, self.across = MultiHeadAttention(size, heads), MultiHeadAttention(size, heads)

    def adapt(self, support: Examples) -> dict[str, Any]:  # type: ignore[override]
        z = first_tensor(support.x)
        r = self.encode(support)
        r = r + self.among(r, self.among.remember(r, r), support.mask)
        return {"memory": self.across.remember(self.keys(z), r), "mask": support.mask}

    def encode(self, support: Examples) -> Tensor:
        r: Tensor = self.encoder(torch.cat(self.pairs(support), -1))
        return r

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        return self.decode(x, self.across(self.keys(x), adapted["memory"], adapted["mask"]))

    @classmethod
    def tiny(cls, kind: str = "classification") -> ANP:
        if kind == "regression":
            return cls(MLP(1, hidden=()), size=64)
        return cls(MLP(8, hidden=(32,), out_features=16), way=5, size=32)
