"""The baselines that need no gradient through a network: heads in closed form, or convex, on given features.

Each is a `Learner`, so the engine runs them over many tasks, masks and all, like anything else. They are always in eval
mode, and their hooks take any leading (task) dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kshot.episodes import Examples, first_tensor
from kshot.functional import class_means, squared_distance
from kshot.learners.base import Learner
from kshot.learners.linear_probe import logistic_regression


class FeatureHead(Learner):
    """A head on the features of a trained network.

    Args:
        backbone: the network, `[n, *shape] -> [n, d]`.
        centre: mean of the training examples' features, `[d]`.
        scale: their root mean square distance from it.
        unit: centre the features and bring each to length one (SimpleShot's CL2N, Wang et al. 2019); otherwise they are
            only divided by `scale`.
    """

    native = True
    centre: Tensor

    def __init__(self, backbone: nn.Module, centre: Tensor, scale: float, unit: bool = True) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("centre", centre)
        self.scale, self.unit = float(scale), unit
        self.eval()

    def features(self, x: Any) -> Any:
        # Not normalised yet: one cache of features serves the heads with and without.
        return self.backbone(x)

    def normalise(self, z: Tensor) -> Tensor:
        z = (z - self.centre) / self.scale
        return nn.functional.normalize(z, dim=-1) if self.unit else z


class NearestCentroid(FeatureHead):
    """A query belongs to the class whose mean of support features is nearest."""

    def adapt(self, support: Examples) -> dict[str, Tensor]:  # type: ignore[override]
        return {"means": class_means(support.replace_x(self.normalise(first_tensor(support.x))))}

    def predict(self, adapted: dict[str, Tensor], x: Tensor) -> Tensor:
        return -squared_distance(self.normalise(x), adapted["means"])


class LinearProbe(FeatureHead):
    """Multinomial logistic regression on the support features, with an L2 penalty.

    `adapt(support, l2=...)`: the penalty, `l2 / 2 * |weights|^2` beside the mean cross entropy; scikit-learn's
    `C = 1 / (n * l2)`.
    """

    def adapt(self, support: Examples, *, l2: float = 0.01) -> dict[str, Tensor]:  # type: ignore[override]
        return logistic_regression(support.replace_x(self.normalise(first_tensor(support.x))), l2)

    def predict(self, adapted: dict[str, Tensor], x: Tensor) -> Tensor:
        return self.normalise(x) @ adapted["weight"] + adapted["bias"]


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
