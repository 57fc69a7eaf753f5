"""Prototypical networks refined by soft k-means on the queries themselves."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kshot.episodes import Examples
from kshot.errors import UnsupportedError
from kshot.functional import mask_logits
from kshot.learners.protonet import ProtoNet
from kshot.learners.soft_kmeans import class_sums, moved
from kshot.models import MLP


class TransductiveProtoNet(ProtoNet):
    """Class means that the queries move, each by how much it seems to belong to the class.

    The plain soft k-means of Ren et al. 2018 (eq. 4, see `SoftKMeansProtoNet`) with the queries as the unlabelled set.
    So a prediction depends on which other queries are asked with it; one query alone moves the means, too.

    Args:
        backbone: f, `[n, *shape] -> [n, d]`.
        steps: of refinement.
        scale: as for `ProtoNet`.

    Raises:
        UnsupportedError: fewer than 1 step, or a scale that is not positive.
    """

    transductive = True

    def __init__(self, backbone: nn.Module, steps: int = 1, scale: float | None = None) -> None:
        super().__init__(backbone, scale)
        if steps < 1:
            raise UnsupportedError(f"expected at least 1 step of refinement, got {steps!r}: without any use ProtoNet")
        self.steps = steps

    def adapt(self, support: Examples) -> dict[str, Tensor]:  # type: ignore[override]
        sums, counts = class_sums(support)
        return {"sums": sums, "counts": counts, "classes": support.classes}

    def predict(self, adapted: dict[str, Any], x: Tensor, mask: Tensor | None = None) -> Tensor:
        sums, counts, classes = adapted["sums"], adapted["counts"], adapted["classes"]
        prototypes = moved(sums, counts, x, x.new_zeros(*x.shape[:-1], sums.shape[-2]))
        for _ in range(self.steps):
            weights = mask_logits(super().predict({"prototypes": prototypes}, x), classes).softmax(-1)
            weights = weights if mask is None else weights * mask.unsqueeze(-1)
            prototypes = moved(sums, counts, x, weights)
        return super().predict({"prototypes": prototypes}, x)

    @classmethod
    def tiny(cls, kind: str = "classification") -> TransductiveProtoNet:
        if kind != "classification":
            raise UnsupportedError("TransductiveProtoNet compares class prototypes: for regression use MAML")
        return cls(MLP(8, hidden=(32,), out_features=16))
