"""What the learners share that read a support set example by example, and answer on the way."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from kshot.engine.fits import check_support_size
from kshot.episodes import Examples, first_tensor
from kshot.errors import UnsupportedError
from kshot.learners.context import ContextLearner
from kshot.models.norms import FeatureStatistics


class RecurrentLearner(ContextLearner):
    """Reads (x_1, nothing), (x_2, y_1), (x_3, y_2), ...: a label arrives one step after its example, so that an
    example's own label can be asked for at its step (Hochreiter, Younger, Conwell 2001; Santoro et al. 2016, sec. 2).

    Its objective is online: every support example is predicted before its label is seen, and every query by one more
    step from the state after the support. Padding leaves the state as it is. A subclass has an `initial` state and a
    `step`.

    Features are centred and scaled by a running mean and variance before they are read: those of a Conv-4 are positive,
    and while what they have in common drowns what tells them apart, no state learns to hold either.

    Args:
        backbone: features of an example, `[n, *shape] -> [n, d]`.
        way: classes (the most that a task may have); None for regression.
        out_features: values of a target, for regression.
        max_support: the longest support that it takes; None: the longest that a Trainer has shown it, and any before.
            What a state has learned to hold says nothing of longer sequences: such a one is refused.
    """

    abstract: ClassVar[bool] = True
    unrolls = True
    support_order_matters = True

    def __init__(self, backbone: nn.Module, way: int | None, out_features: int, max_support: int | None = None) -> None:
        super().__init__(backbone, way, out_features)
        if max_support is not None and max_support < 1:
            raise UnsupportedError(f"expected max_support of at least 1, or None for any, got {max_support}")
        self.max_support = max_support
        self._limited = max_support is not None
        size = int(backbone.out_features)  # type: ignore[arg-type]
        self.statistics = FeatureStatistics(size, momentum=0.1)
        self.inputs = size + self.labels
        """Entries of what a step reads."""

    def features(self, x: Any) -> Any:
        return self.statistics.standardise(self.statistics(self.backbone(x)))

    def support_limit(self, trained_on: int) -> int | None:
        return self.max_support if self._limited else max(trained_on, self.max_support or 0)

    @abstractmethod
    def initial(self, x: Tensor) -> Any:
        """The state before the first of the inputs `[..., n, d]`: a pytree of tensors `[..., *]`."""

    @abstractmethod
    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The output `[..., labels]` for an input `[..., inputs]`, and the next state."""

    def read(self, support: Examples) -> tuple[Tensor, Any, Tensor]:
        """Of the support `[..., n]`: an output for each example before its label is seen, the last state, and the last
        label, which is still to be read."""
        z, y = self.pairs(support)
        state, label, outputs = self.initial(z), torch.zeros_like(y[..., 0, :]), []
        for i in range(support.size):
            output, after = self.step(torch.cat([z[..., i, :], label], -1), state)
            outputs.append(output)
            real = support.mask[..., i]
            state = pytree.tree_map(
                lambda new, old, real=real: torch.where(_as_wide(real, new), new, old), after, state
            )
            label = torch.where(real.unsqueeze(-1), y[..., i, :], label)
        return torch.stack(outputs, -2), state, label

    def online(self, support: Examples) -> Tensor:
        """Outputs for the support examples, each before its label is seen: `[..., n, labels]`."""
        return self.read(support)[0]

    def adapt(self, support: Examples) -> dict[str, Any]:  # type: ignore[override]
        if not support.padded:  # of a padded one `kshot.adapt` knows how much is real
            check_support_size(self, support.size)
        _, state, label = self.read(support)
        return {"state": state, "label": label}

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        axis, n = x.ndim - 2, x.shape[-2]

        def each(t: Tensor) -> Tensor:  # every query goes on from the same state
            return t.unsqueeze(axis).expand(*t.shape[:axis], n, *t.shape[axis:])

        state = pytree.tree_map(each, adapted["state"])
        return self.step(torch.cat([x, each(adapted["label"])], -1), state)[0]

    def objective(self, support: Examples, query: Examples) -> Tensor:
        on_the_way, state, label = self.read(support)
        outputs = torch.cat([on_the_way, self.predict({"state": state, "label": label}, first_tensor(query.x))], -2)
        everything = replace(
            query,
            y=torch.cat([support.y, query.y], support.mask.ndim - 1),
            mask=torch.cat([support.mask, query.mask], -1),
            padded=support.padded or query.padded,
        )
        return self.loss(outputs, everything)


def _as_wide(mask: Tensor, like: Tensor) -> Tensor:
    """`mask` `[...]` with the further dimensions of `like` `[..., *]`."""
    return mask.view(*mask.shape, *[1] * (like.ndim - mask.ndim))
