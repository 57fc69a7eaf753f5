"""A linear probe: logistic regression on conventional features."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot.episodes import Examples, first_tensor
from kshot.errors import UnsupportedError
from kshot.functional import mask_logits, one_hot
from kshot.learners.conventional import ConventionalLearner
from kshot.models import MLP


class LinearProbe(ConventionalLearner):
    """Multinomial logistic regression on the support's features, the strongest of the simple baselines (Tian, Wang,
    Krishnan, Tenenbaum, Isola 2020).

    Features are centred by the mean of the training features and divided by their root mean square length, which is no
    paper's: it makes one penalty suit all networks.

    Args:
        backbone: the features, `[n, *shape] -> [n, d]`.
        classes: of the training pool.
        l2: the penalty, `l2 / 2 * |weights|^2` beside the mean cross entropy: scikit-learn's `C = 1 / (n * l2)`.
            `adapt(support, l2=...)` overrides it.
        normalise: "scale" as above, or "cl2": each centred feature vector is brought to length one (`SimpleShot`).

    Raises:
        UnsupportedError: a penalty that is not positive, or another normalisation.
    """

    def __init__(
        self,
        backbone: nn.Module,
        classes: int | None = None,
        l2: float = 0.01,
        normalise: Literal["scale", "cl2"] = "scale",
    ) -> None:
        super().__init__(backbone, classes)
        if normalise not in ("scale", "cl2"):
            raise UnsupportedError(f"expected normalise to be 'scale' or 'cl2', got {normalise!r}")
        if not l2 > 0:
            raise UnsupportedError(f"expected a positive penalty l2, got {l2!r}")
        self.l2, self.normalise = float(l2), normalise

    def adapt(self, support: Examples, *, l2: float | None = None) -> dict[str, Tensor]:  # type: ignore[override]
        if l2 is not None and not l2 > 0:
            raise UnsupportedError(f"expected a positive penalty l2, got {l2!r}")
        z = self._standardised(first_tensor(support.x))
        return logistic_regression(support.replace_x(z), self.l2 if l2 is None else l2)

    def predict(self, adapted: dict[str, Tensor], x: Tensor) -> Tensor:
        return self._standardised(x) @ adapted["weight"] + adapted["bias"]

    def _standardised(self, z: Tensor) -> Tensor:
        z = z - self.statistics.mean
        return F.normalize(z, dim=-1, eps=1e-6) if self.normalise == "cl2" else z / self.statistics.length

    @classmethod
    def tiny(cls, kind: str = "classification") -> LinearProbe:
        if kind != "classification":
            raise UnsupportedError("LinearProbe is a classifier: for regression use RidgeNet or JointTraining")
        return cls(MLP(8, hidden=(32,), out_features=16), classes=512)


def logistic_regression(support: Examples, l2: float, steps: int = 300) -> dict[str, Tensor]:
    """Multinomial logistic regression of many tasks at once: `weight` `[..., d, way]` and `bias` `[..., 1, way]`.

    Gradient descent with Nesterov's momentum for strongly convex functions, on the coefficients of the support examples
    (the solution lies in their span, which is far smaller than the feature space): a gradient in the weights,
    `X^T (P - Y) / n + l2 W`, is one in the coefficients without the `X^T`. The Hessian is below half the mean squared
    length of an example (softmax's own is below 1/2), which sets the step. The bias is a feature of constant one and
    shares the penalty.

    Args:
        support: features `x` `[..., n, d]`.
        l2: strength of the penalty, above 0.
        steps: enough for a condition number of a thousand; the error falls by `exp(-steps / sqrt(condition))`.
    """
    x = first_tensor(support.x)
    weight = support.mask.to(x.dtype)
    weight = (weight / weight.sum(-1, keepdim=True).clamp(min=1)).unsqueeze(-1)  # [..., n, 1]
    labels = one_hot(support, x.dtype)
    kernel = x @ x.transpose(-1, -2) + 1.0
    steepest = 0.5 * (kernel.diagonal(dim1=-2, dim2=-1).unsqueeze(-1) * weight).sum((-2, -1), keepdim=True) + l2
    root = torch.sqrt(steepest / l2)
    momentum = (root - 1) / (root + 1)
    now = torch.zeros_like(labels)
    ahead = now
    for _ in range(steps):
        probabilities = mask_logits(kernel @ ahead, support.classes).softmax(-1)
        before, now = now, ahead - (weight * (probabilities - labels) + l2 * ahead) / steepest
        ahead = now + momentum * (now - before)
    return {"weight": x.transpose(-1, -2) @ now, "bias": now.sum(-2, keepdim=True)}
