"""Matching networks (Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra 2016)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from kshot.episodes import Examples, first_tensor
from kshot.errors import UnsupportedError
from kshot.functional import cosine, hide, one_hot
from kshot.learners.base import Learner
from kshot.models import MLP
from kshot.models.recurrent import LSTMCell


class MatchingNet(Learner):
    """A query's label is an average of the support's labels, weighted by how alike the examples are.

    p(y | x) = sum over i of a(x, x_i) y_i (eq. 1), a the softmax of the cosines of f(x) and g(x_i) (sec. 2.1.1).
    With `context_steps` f and g see the whole support set (full-context embeddings): g(x_i) by a bidirectional LSTM
    over the examples in their order, added to them (appendix A.2); f(x) by that many steps of an LSTM that attends to
    the g(x_i) (appendix A.1, eq. 3-6), from h_0 = f'(x).

    Args:
        backbone: the features that f and g begin with, `[n, *shape] -> [n, d]`.
        scale: of the cosines, learned (the paper has 1, with which the softmax stays nearly flat).
        context_steps: steps of the attending LSTM; 0: no full-context embeddings.

    Raises:
        UnsupportedError: a scale that is not positive, or fewer than 0 steps.
    """

    native = True

    def __init__(self, backbone: nn.Module, scale: float = 10.0, context_steps: int = 0) -> None:
        super().__init__()
        if not scale > 0 or context_steps < 0:
            raise UnsupportedError(
                f"expected a positive scale and at least 0 context steps, got {scale!r} and {context_steps!r}"
            )
        self.backbone, self.context_steps = backbone, context_steps
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.support_order_matters = context_steps > 0
        if context_steps:
            size = int(backbone.out_features)  # type: ignore[arg-type]
            self.forwards, self.backwards = LSTMCell(size, size), LSTMCell(size, size)
            self.attending = LSTMCell(size, size, extra=size)

    def features(self, x: Any) -> Any:
        return self.backbone(x)

    def adapt(self, support: Examples) -> dict[str, Tensor]:  # type: ignore[override]
        z = first_tensor(support.x)
        if self.context_steps:
            there = self.forwards.scan(z, support.mask)
            back = self.backwards.scan(z.flip(-2), support.mask.flip(-1)).flip(-2)
            z = z + there + back
        return {"support": z, "labels": one_hot(support, z.dtype), "mask": support.mask}

    def predict(self, adapted: dict[str, Tensor], x: Tensor) -> Tensor:
        support, mask = adapted["support"], adapted["mask"]
        if self.context_steps:
            x = self._in_context(x, support, mask)
        weights = self._attention(self.log_scale.exp() * cosine(x, support), mask)
        return (weights @ adapted["labels"]).clamp(min=1e-7).log()  # log-probabilities are logits of themselves

    def _in_context(self, x: Tensor, support: Tensor, mask: Tensor) -> Tensor:
        h, c = x, torch.zeros_like(x)
        for _ in range(self.context_steps):
            read = self._attention(h @ support.transpose(-1, -2), mask) @ support
            h, c = self.attending(x, (h, c), read)
            h = h + x
        return h

    @staticmethod
    def _attention(logits: Tensor, mask: Tensor) -> Tensor:
        # Without any support every weight is the same, and multiplies labels that are all zero.
        return hide(logits, mask.unsqueeze(-2)).softmax(-1)

    @classmethod
    def tiny(cls, kind: str = "classification") -> MatchingNet:
        if kind != "classification":
            raise UnsupportedError("MatchingNet averages the support's labels as classes: for regression use MAML")
        return cls(MLP(8, hidden=(32,), out_features=16))
