"""The ridge-regression head, R2-D2 (Bertinetto, Henriques, Torr, Vedaldi 2019)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from kshot.episodes import Examples, first_tensor
from kshot.errors import UnsupportedError
from kshot.functional import one_hot
from kshot.learners.base import Learner
from kshot.models import MLP


class RidgeNet(Learner):
    """Solves for a linear head in closed form; the outer loop learns features for which that is a good head.

    W = Z^T (Z Z^T + lambda I)^-1 Y (eq. 4, with as many unknowns as examples), and the prediction alpha Z' W + beta
    (eq. 5), with alpha, beta and lambda learned. Z has a constant one behind the features: the intercept. Y is one-hot
    for classes, and the targets themselves for regression.

    Args:
        backbone: the features, `[n, *shape] -> [n, d]`.
        out_features: values of the head, for regression; None for classification.
        strength: where lambda begins.
        scale: where alpha begins.

    Raises:
        UnsupportedError: a strength or scale that is not positive.
    """

    native = True

    def __init__(
        self, backbone: nn.Module, out_features: int | None = None, strength: float = 1.0, scale: float = 1.0
    ) -> None:
        super().__init__()
        if not strength > 0 or not scale > 0:
            raise UnsupportedError(f"expected a positive strength and scale, got {strength!r} and {scale!r}")
        self.backbone = backbone
        self.log_strength = nn.Parameter(torch.tensor(math.log(strength)))
        self.log_scale, self.bias = nn.Parameter(torch.tensor(math.log(scale))), nn.Parameter(torch.zeros(()))
        self.outputs = "logits" if out_features is None else "values"
        self.out_features = out_features

    @property
    def target_size(self) -> int | None:
        return self.out_features

    def features(self, x: Any) -> Any:
        return self.backbone(x)

    def adapt(self, support: Examples) -> dict[str, Tensor]:  # type: ignore[override]
        real = support.mask.unsqueeze(-1)
        z = with_one(first_tensor(support.x)) * real  # rows of zeros change nothing
        y = one_hot(support, z.dtype) if self.outputs == "logits" else support.y * real
        identity = torch.eye(z.shape[-2], dtype=z.dtype, device=z.device)
        gram = z @ z.transpose(-1, -2) + self.log_strength.exp() * identity
        return {"head": z.transpose(-1, -2) @ torch.linalg.solve(gram, y)}

    def predict(self, adapted: dict[str, Tensor], x: Tensor) -> Tensor:
        return self.log_scale.exp() * (with_one(x) @ adapted["head"]) + self.bias

    @classmethod
    def tiny(cls, kind: str = "classification") -> RidgeNet:
        if kind == "regression":
            return cls(MLP(1, hidden=(40, 40)), out_features=1, strength=1.0)
        return cls(MLP(8, hidden=(32,), out_features=16), scale=5.0)


def with_one(z: Tensor) -> Tensor:
    """Features `[..., d]` with a constant one behind them: the head's intercept, regularised like the rest of it."""
    return torch.cat([z, torch.ones_like(z[..., :1])], -1)
