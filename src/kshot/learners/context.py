"""What the learners share that read a support set with its labels, and need no gradient to adapt."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from kshot.episodes import Examples, first_tensor
from kshot.functional import one_hot
from kshot.learners.base import Learner


class ContextLearner(Learner):
    """A backbone, and something that reads its features together with labels: one-hot classes, or targets.

    Args:
        backbone: features of an example, `[n, *shape] -> [n, d]`.
        way: classes (the most that a task may have); None for regression.
        out_features: values of a target, for regression.

    Attributes:
        labels: entries of a label.
    """

    abstract: ClassVar[bool] = True
    native = True

    def __init__(self, backbone: nn.Module, way: int | None, out_features: int) -> None:
        super().__init__()
        self.backbone, self._way = backbone, way
        self.outputs = "values" if way is None else "logits"
        self.labels = out_features if way is None else way

    @property
    def way(self) -> int | None:
        return self._way

    @property
    def target_size(self) -> int | None:
        return None if self._way else self.labels

    def features(self, x: Any) -> Any:
        return self.backbone(x)

    def pairs(self, support: Examples) -> tuple[Tensor, Tensor]:
        """Features `[..., n, d]` of the support examples, and their labels as numbers `[..., n, labels]`."""
        z = first_tensor(support.x)
        return z, one_hot(support.widen(self._way), z.dtype) if self._way else support.y
