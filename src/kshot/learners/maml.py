"""Model-agnostic meta-learning (Finn, Abbeel, Levine 2017), and what MAML++ adds to it (Antoniou, Edwards, Storkey
2019)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from kshot.engine.inner import Step, Weights, trajectory
from kshot.episodes import Examples
from kshot.errors import UnsupportedError
from kshot.learners.gradient import STEPS_FOR_CLASSES, GradientLearner
from kshot.models import MLP
from kshot.models.step_norms import StepNorms, norm_parameters


class MAML(GradientLearner):
    """An initialisation from which a few gradient steps on the support set solve a task.

    theta' = theta - alpha * grad L(theta; support), `inner_steps` times (eq. 1); the outer loop minimises L(theta';
    query) through those steps (algorithm 1), or taking their gradients as constants (`order=1`, sec. 5.2).

    MAML++ (sec. 4) is a switch each, all of them `MAML.plus_plus(backbone, way)`. Two of them change in the course of
    training: the Trainer says how far it is by `begin_step(step)`; an outer loop of one's own has to do so, too.

    Args:
        backbone: the network, `[n, *shape] -> [n, d]`.
        way: classes of the linear head put on it (the most that a task may have); None leaves the backbone's own
            output and makes a regressor.
        inner_lr: alpha.
        inner_steps: inner gradient steps in training.
        order: 2, or 1 for FOMAML.
        test_steps: inner steps in eval mode; `inner_steps` by default. `adapt(support, steps=...)` overrides both.
        norm: where TaskBatchNorm layers get a query's statistics: `"support"`, from the support set (inductive), or
            `"batch"`, from the queries themselves (transductive, as in the original code). Of no effect on other
            layers. Either way they are those of the weights of that very step, never shared among the steps.
        learned_rates: MAML++: learns an alpha for each layer and step. Steps beyond `inner_steps` take the last one's.
        step_norms: MAML++: norm layers have a scale and a shift for each step, and for the predictions after the last
            one, learned by the outer loop alone. (The running statistics that the authors' code keeps for each step are
            not there: it normalises by the batch's own always, as `norm="batch"` does.) `"auto"`: where there are any.
        multi_step: MAML++: for so many outer steps the loss after every inner step counts, each less and less but the
            last.
        first_order_until: MAML++: so many outer steps of order 1 come first (derivative-order annealing).

    Raises:
        UnsupportedError: an order, a number of steps or a norm that there is not, or `step_norms` without norm layers.
    """

    suggested = STEPS_FOR_CLASSES
    importance: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        way: int | None = None,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        order: Literal[1, 2] = 2,
        test_steps: int | None = None,
        norm: Literal["support", "batch"] = "support",
        learned_rates: bool = False,
        step_norms: bool | Literal["auto"] = False,
        multi_step: int = 0,
        first_order_until: int = 0,
    ) -> None:
        super().__init__(backbone, way, inner_steps, order, test_steps, norm)
        if step_norms not in (True, False, "auto"):
            raise UnsupportedError(f"expected step_norms to be True, False or 'auto', got {step_norms!r}")
        if multi_step < 0 or first_order_until < 0:
            raise UnsupportedError(
                "expected multi_step and first_order_until to be numbers of outer steps of at least 0, got "
                f"{multi_step} and {first_order_until}"
            )
        self.inner_lr = float(inner_lr)
        self.multi_step, self.first_order_until = multi_step, first_order_until
        self.asked_order, self.every_step_counts = order, False
        names = [name for name, _ in self.network.named_parameters()]
        self.rates = (
            nn.Parameter(torch.full((max(inner_steps, 1), len(names)), self.inner_lr)) if learned_rates else None
        )
        self.column = {name: i for i, name in enumerate(names)}
        if step_norms == "auto":
            step_norms = bool(norm_parameters(self.network))
        self.step_norms = StepNorms(self.network, inner_steps + 1) if step_norms else None
        self.register_buffer("importance", importance(inner_steps, 1.0), persistent=False)

    @classmethod
    def plus_plus(cls, backbone: nn.Module, way: int | None = None, **options: Any) -> MAML:
        """MAML with the switches of MAML++ on, five inner steps of 0.1 to begin with; `options` of the constructor
        come before that. Its cosine annealing of the outer rate is the Trainer's default schedule.

        `multi_step` and `first_order_until` are outer steps of the paper's training of 75,000: in a shorter one give
        fewer of both, or it ends before the second order begins."""
        switches = {"learned_rates": True, "step_norms": "auto", "multi_step": 5000, "first_order_until": 25000}
        return cls(backbone, way, **{"inner_lr": 0.1, "inner_steps": 5, **switches, **options})

    @property
    def recomputes(self) -> bool:  # type: ignore[override]
        """Not where the loss after every step counts: then all of them are kept."""
        return self.asked_order == 2 and not self.multi_step

    def begin_step(self, step: int | None) -> None:
        self.order = 1 if step is not None and step < self.first_order_until else self.asked_order
        self.meta_gradient = "exact" if self.order == 2 else "first_order"
        self.every_step_counts = step is not None and step < self.multi_step
        if step is not None and self.every_step_counts:
            self.importance.copy_(importance(self.inner_steps, step / self.multi_step))

    def start(self) -> Weights:
        weights = super().start()
        return weights if self.step_norms is None else self.step_norms.without(weights)

    def inner_loss(self, step: int, weights: Weights, support: Examples) -> Tensor:
        return super().inner_loss(step, self._at(step, weights), support)

    def update(self, step: Step, weights: Weights, state: Any) -> tuple[Weights, Any]:
        def rate(name: str) -> float | Tensor:
            if self.rates is None:
                return self.inner_lr
            return self.rates[min(step.number, len(self.rates) - 1), self.column[name]]

        return {name: value - rate(name) * step.gradients[name] for name, value in weights.items()}, state

    def adapted(self, weights: Weights, support: Examples, steps: int) -> dict[str, Any]:
        return super().adapted(self._at(steps, weights), support, steps)

    def objective(self, support: Examples, query: Examples) -> Tensor:
        if not (self.every_step_counts and self.training and self.inner_steps):
            return super().objective(support, query)
        path = trajectory(*self.inner_loop(support), steps=self.inner_steps, order=self.order)
        losses = [
            self.loss(self.predict_with_mask(self.adapted(weights, support, number), query), query)
            for number, weights in enumerate(path, 1)
        ]
        return torch.stack(losses) @ self.importance.to(losses[0].dtype)

    def _at(self, step: int, weights: Weights) -> Weights:
        """The weights with the scales and shifts that norm layers have at a step."""
        return weights if self.step_norms is None else {**weights, **self.step_norms(step)}

    @classmethod
    def tiny(cls, kind: str = "classification") -> MAML:
        if kind == "regression":
            return cls(MLP(1, hidden=(40, 40), out_features=1), inner_lr=0.02, inner_steps=2)
        return cls(MLP(8, hidden=(32,)), way=5, inner_lr=0.3, inner_steps=5)


def importance(steps: int, progress: float) -> Tensor:
    """How much the loss after each inner step counts (MAML++'s multi-step loss): all alike to begin with, at last (at
    `progress` 1) 0.03 / steps for each but the last, which has the rest.

    The annealing is linear, from 1 / steps down to that floor, as in the original code.
    """
    if steps < 1:
        return torch.zeros(0)
    others = max(1 - progress, 0.03) / steps
    weights = torch.full((steps,), others)
    weights[-1] = 1 - (steps - 1) * others
    return weights
