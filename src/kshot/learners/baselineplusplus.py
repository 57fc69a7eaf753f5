"""Baseline++ (Chen, Liu, Kira, Wang, Huang 2019)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from kshot.engine.inner import Weights
from kshot.episodes import Examples, first_tensor
from kshot.functional import class_means
from kshot.functional import cosine as cosines
from kshot.learners.finetuning import FineTuning


class BaselinePlusPlus(FineTuning):
    """Classifiers that compare directions, in training and on the support (sec. 3.2).

    The logit of a class is the cosine of feature and class vector times a scale, learned in training. On the support
    the features stay as they are, and the class vectors are trained: from the class means (the paper: at random).

    Args:
        backbone: the features, `[n, *shape] -> [n, d]`.
        classes: of the training pool.
        steps: of Adam on the class vectors; 100 iterations in the paper. `adapt(support, steps=...)` overrides it.
        lr: its learning rate. `adapt(support, lr=...)` overrides it.
    """

    def __init__(self, backbone: nn.Module, classes: int | None = None, steps: int = 100, lr: float = 0.01) -> None:
        super().__init__(backbone, classes, "head", steps, lr, cosine=True)

    def first_head(self, support: Examples) -> Weights:
        return {"weight": F.normalize(class_means(support), dim=-1, eps=1e-6)}

    def predict(self, adapted: Weights, x: Any) -> Tensor:
        scale = 10.0 if self.log_scale is None else self.log_scale.exp()
        return scale * cosines(first_tensor(x), adapted["weight"])
