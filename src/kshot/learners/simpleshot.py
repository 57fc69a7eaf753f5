"""Nearest centroids on conventional features, SimpleShot (Wang, Chao, Weinberger, van der Maaten 2019)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from kshot.episodes import Examples, first_tensor
from kshot.errors import UnsupportedError
from kshot.functional import class_means, squared_distance
from kshot.learners.conventional import ConventionalLearner
from kshot.models import MLP

Normalise = Literal["none", "l2", "cl2"]


class SimpleShot(ConventionalLearner):
    """A query belongs to the class whose mean is nearest, after the features were centred and brought to length one.

    z <- (z - mean of the training features) / its length (CL2N; "l2" does not centre, "none" is the plain
    nearest centroid), then the nearest class mean (eq. 1).

    Args:
        backbone: the features, `[n, *shape] -> [n, d]`.
        classes: of the training pool.
        normalise: "cl2", "l2" or "none".

    Raises:
        UnsupportedError: another normalisation.
    """

    def __init__(self, backbone: nn.Module, classes: int | None = None, normalise: Normalise = "cl2") -> None:
        super().__init__(backbone, classes)
        if normalise not in ("none", "l2", "cl2"):
            raise UnsupportedError(f"expected normalise to be 'none', 'l2' or 'cl2', got {normalise!r}")
        self.normalise = normalise

    def adapt(self, support: Examples) -> dict[str, Tensor]:  # type: ignore[override]
        return {"means": class_means(support.replace_x(self._normalised(first_tensor(support.x))))}

    def predict(self, adapted: dict[str, Tensor], x: Tensor) -> Tensor:
        return -squared_distance(self._normalised(x), adapted["means"])

    def _normalised(self, z: Tensor) -> Tensor:
        if self.normalise == "cl2":
            z = z - self.statistics.mean
        return z if self.normalise == "none" else F.normalize(z, dim=-1, eps=1e-6)

    @classmethod
    def tiny(cls, kind: str = "classification") -> Any:
        if kind != "classification":
            raise UnsupportedError(f"{cls.__name__} compares class means: for regression use JointTraining or MAML")
        return cls(MLP(8, hidden=(32,), out_features=16), classes=512)
