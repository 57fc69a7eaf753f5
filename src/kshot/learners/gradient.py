"""What the learners share that adapt a whole network by gradient steps on the support set."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.func import functional_call

from kshot.engine.inner import Step, Update, Weights, unroll
from kshot.engine.recomputing import is_recomputing, unroll_in_segments
from kshot.episodes import Examples
from kshot.errors import UnsupportedError
from kshot.learners.base import Learner, MetaGradient
from kshot.models import Network, Statistics

STEPS_FOR_CLASSES = {"classification": {"inner_lr": 0.1, "inner_steps": 5}}
"""What MAML++ begins with, for those whose defaults are MAML's of the sinusoids."""


class GradientLearner(Learner):
    """A network whose weights take `inner_steps` steps of an update rule; `update` is what its subclasses differ in.

    Args:
        backbone: the network, `[n, *shape] -> [n, d]`.
        way: classes of the linear head put on it (the most that a task may have); None leaves the backbone's own
            output and makes a regressor.
        inner_steps: inner gradient steps in training.
        order: 2, or 1 to take the inner gradients as constants.
        test_steps: inner steps in eval mode; `inner_steps` by default. `adapt(support, steps=...)` overrides both.
        norm: where TaskBatchNorm layers get a query's statistics: `"support"`, from the support set (inductive), or
            `"batch"`, from the queries themselves (transductive). Of no effect on other layers.

    Raises:
        UnsupportedError: an order, a number of steps or a norm that there is not.
    """

    abstract: ClassVar[bool] = True
    """No algorithm itself: `all_learners` passes over a class that says so in its own body."""

    def __init__(
        self,
        backbone: nn.Module,
        way: int | None = None,
        inner_steps: int = 1,
        order: Literal[1, 2] = 2,
        test_steps: int | None = None,
        norm: Literal["support", "batch"] = "support",
    ) -> None:
        super().__init__()
        if order not in (1, 2):
            raise UnsupportedError(f"expected order 1 (first-order) or 2, got {order!r}")
        if norm not in ("support", "batch"):
            raise UnsupportedError(
                f"expected norm 'support' or 'batch', got {norm!r}. For group norm build the backbone with it."
            )
        if inner_steps < 0 or (test_steps is not None and test_steps < 0):
            raise UnsupportedError(f"expected at least 0 inner steps, got {min(inner_steps, test_steps or 0)}")
        self.network = Network(backbone, way)
        self.inner_steps, self.test_steps = inner_steps, test_steps
        self.order, self.norm = order, norm
        self.outputs = "values" if way is None else "logits"
        self.meta_gradient: MetaGradient = "exact" if order == 2 else "first_order"
        self.transductive = norm == "batch" and self.network.batch_statistics

    @property
    def way(self) -> int | None:
        return None if self.network.head is None else self.network.head.out_features

    @property
    def target_size(self) -> int | None:
        size = getattr(self.network.backbone, "out_features", None)
        return size if self.network.head is None and isinstance(size, int) else None

    def update(self, step: Step, weights: Weights, state: Any) -> tuple[Weights, Any]:
        """One inner step: the next weights, and what the rule remembers; `state` begins as None."""
        raise NotImplementedError(f"{type(self).__name__} defines no update(step, weights, state)")

    def start(self) -> Weights:
        """The weights that every task begins with."""
        return dict(self.network.named_parameters())

    @property
    def recomputes(self) -> bool:  # type: ignore[override]
        """With order 1 nothing is kept of the steps anyway."""
        return self.order == 2

    def inner_loss(self, step: int, weights: Weights, support: Examples) -> Tensor:
        """What the inner loop descends at a step."""
        mask = support.mask if support.padded else None
        return self.loss(self._run(weights, support.x, Statistics(mask, wanted=False)), support)

    def with_norm(self, norm: Literal["support", "batch"]) -> GradientLearner:
        """A copy of the learner that predicts with the other kind of statistics: what is adapted is the same."""
        other = copy.deepcopy(self)
        other.amend(norm=norm)
        other.transductive = norm == "batch" and self.network.batch_statistics
        return other

    def steps_of(self, steps: int | None) -> int:
        """How many steps an adaptation takes, of which `steps` were asked for."""
        if steps is not None:
            if steps < 0:
                raise UnsupportedError(f"expected at least 0 inner steps, got {steps}")
            return steps
        return self.inner_steps if self.training or self.test_steps is None else self.test_steps

    def adapt(self, support: Examples, *, steps: int | None = None) -> dict[str, Any]:  # type: ignore[override]
        number = self.steps_of(steps)
        if is_recomputing():
            weights = unroll_in_segments(self, self.inner_loop, support, steps=number, order=self.order)
        else:
            weights = unroll(*self.inner_loop(support), steps=number, order=self.order)
        return self.adapted(weights, support, number)

    def inner_loop(self, support: Examples) -> tuple[Callable[[int, Weights], Tensor], Weights, Update]:
        """What `unroll` needs to know: the loss, where the weights start, and the update rule."""
        return (lambda step, now: self.inner_loss(step, now, support)), self.start(), self.update

    def adapted(self, weights: Weights, support: Examples, steps: int) -> dict[str, Any]:
        """What predictions need after so many steps: the weights, and where the norm says so the support's statistics
        under them."""
        adapted: dict[str, Any] = {"parameters": weights}
        if self.network.batch_statistics and self.norm == "support":
            statistics = Statistics(support.mask if support.padded else None)
            self._run(weights, support.x, statistics)
            adapted["statistics"] = statistics.collected
        return adapted

    def predict(self, adapted: dict[str, Any], x: Any, mask: Tensor | None = None) -> Tensor:
        return self._run(adapted["parameters"], x, Statistics(mask, given=adapted.get("statistics"), wanted=False))

    def _run(self, weights: Weights, x: Any, statistics: Statistics) -> Tensor:
        arguments = (x, statistics) if self.network.batch_statistics else (x,)
        out: Tensor = functional_call(self.network, weights, arguments)
        return out
