"""Joint training: one network for all tasks together, fine-tuned on each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from kshot.engine.inner import Step, Weights
from kshot.engine.rules import adam, sgd
from kshot.episodes import Examples
from kshot.errors import UnsupportedError
from kshot.learners.gradient import GradientLearner
from kshot.models import MLP, Statistics


class JointTraining(GradientLearner):
    """Multi-task training without any thought of adaptation, and then adaptation: the baseline of Finn, Abbeel, Levine
    2017, sec. 5.1 ("pretrained on all tasks").

    theta = argmin of the mean over tasks of L(theta; support and query), then theta' = theta - lr * (Adam's step, or
    the gradient) of L(theta'; support), `steps` times.

    Its training loss is that of all examples of a task, support and query, under the weights as they are; in a task
    Adam, or the paper's gradient descent, goes on from there on the support. Where labels mean another class in every
    task (few-shot classification) nothing but the features' average is to be learned that way: there `FineTuning` is
    the conventional choice.

    Args:
        backbone: the network, `[n, *shape] -> [n, d]`.
        way: classes of the linear head put on it (the most that a task may have); None for a regressor.
        steps: on the support. `adapt(support, steps=...)` overrides it.
        lr: their learning rate.
        norm: as for `MAML`.
        optimizer: whose steps they are, "adam" or "sgd".

    Raises:
        UnsupportedError: another optimizer, or fewer than 0 steps.
    """

    # On the sinusoids a rate of 0.01 is worse than no step at all (4.2 after five, 2.8 after none), 0.001 is not (2.7).
    suggested: ClassVar[Mapping[str, Mapping[str, Any]]] = {"regression": {"lr": 0.001}}

    toy_accuracy = 0.6  # its head starts from an average over all labels, and nothing has taught it to move well

    def __init__(
        self,
        backbone: nn.Module,
        way: int | None = None,
        steps: int = 30,
        lr: float = 0.01,
        norm: Literal["support", "batch"] = "support",
        optimizer: Literal["adam", "sgd"] = "adam",
    ) -> None:
        super().__init__(backbone, way, steps, 1, None, norm)
        if optimizer not in ("adam", "sgd"):
            raise UnsupportedError(f"expected optimizer to be 'adam' or 'sgd', got {optimizer!r}")
        self.lr, self.rule = float(lr), adam if optimizer == "adam" else sgd
        self.meta_gradient = "exact"  # of the loss that it is trained on, which has no inner loop

    def update(self, step: Step, weights: Weights, state: Any) -> tuple[Weights, Any]:
        return self.rule(step, weights, state, lr=self.lr)

    def objective(self, support: Examples, query: Examples) -> Tensor:
        losses = []
        for part in (support, query):
            output = self._run(self.start(), part.x, Statistics(part.mask if part.padded else None))
            losses.append(self.loss(output, part) * part.mask.sum())
        return (losses[0] + losses[1]) / (support.mask.sum() + query.mask.sum()).clamp(min=1)

    @classmethod
    def tiny(cls, kind: str = "classification") -> JointTraining:
        if kind == "regression":
            return cls(MLP(1, hidden=(40, 40), out_features=1), steps=60)
        return cls(MLP(8, hidden=(32,)), way=5, steps=30, lr=0.03)
