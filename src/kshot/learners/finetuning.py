"""Conventional pre-training, then fine-tuning on the support: the baselines of Chen, Liu, Kira, Wang, Huang (2019)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torch.func import functional_call

from kshot.engine.inner import Weights, unroll
from kshot.engine.rules import adam
from kshot.episodes import Examples, first_tensor
from kshot.errors import UnsupportedError
from kshot.learners.conventional import ConventionalLearner
from kshot.learners.linear_probe import logistic_regression
from kshot.models import MLP


class FineTuning(ConventionalLearner):
    """A conventionally trained network that goes on training on the support set.

    The head for the training classes gives way to one for the task's, the logistic regression on the support's
    features (a linear probe first and fine-tuning then distorts the features least, Kumar et al. 2022); from there
    Adam trains the whole network, or the head alone: argmin of the mean cross entropy of softmax(W f(x) + b) on the
    support, `steps` steps of it. Batch normalisation keeps its running statistics.

    No one paper has it so. A new head on features that stay is the Baseline of Chen et al. 2019; the whole network from
    a head made of the support's features is Dhillon, Chaudhari, Ravichandran, Soatto 2020, sec. 3.1 (there the head
    begins with the class means, brought to length one, eq. 6).

    Args:
        backbone: the features, `[n, *shape] -> [n, d]`.
        classes: of the training pool.
        layers: what is trained on the support, "all" or the "head".
        steps: of Adam. `adapt(support, steps=...)` overrides it.
        lr: its learning rate. `adapt(support, lr=...)` overrides it.
        cosine: the classifier of the training classes compares directions alone.

    Raises:
        UnsupportedError: other layers, or fewer than 0 steps.
    """

    native = False

    def __init__(
        self,
        backbone: nn.Module,
        classes: int | None = None,
        layers: Literal["all", "head"] = "all",
        steps: int = 20,
        lr: float = 0.001,
        cosine: bool = False,
    ) -> None:
        super().__init__(backbone, classes, cosine)
        if layers not in ("all", "head"):
            raise UnsupportedError(f"expected layers to be 'all' or 'head', got {layers!r}")
        if steps < 0:
            raise UnsupportedError(f"expected at least 0 steps, got {steps}")
        self.layers, self.steps, self.lr = layers, steps, float(lr)

    def features(self, x: Any) -> Any:
        # In a task the whole network is the task's own: there are no features that tasks share.
        return super().features(x) if self.training or self.layers == "head" else x

    def embedded(self, x: Any) -> Tensor:
        return first_tensor(x) if self.training or self.layers == "head" else self._features({}, x)

    def adapt(self, support: Examples, *, steps: int | None = None, lr: float | None = None) -> Weights:  # type: ignore[override]
        if steps is not None and steps < 0:
            raise UnsupportedError(f"expected at least 0 steps, got {steps}")
        start: Weights = {}
        if self.layers == "all":
            start = {f"backbone.{name}": p for name, p in self.backbone.named_parameters()}
        start |= self.first_head(support.replace_x(self._features(start, support.x)))
        rate = self.lr if lr is None else lr
        return unroll(
            lambda _, weights: self.loss(self.predict(weights, support.x), support),
            start,
            lambda step, weights, state: adam(step, weights, state, lr=rate),
            steps=self.steps if steps is None else steps,
            order=1,
        )

    def first_head(self, support: Examples) -> Weights:
        """The head that training on the support begins with."""
        scale = self.statistics.length
        head = logistic_regression(support.replace_x(first_tensor(support.x) / scale), l2=0.01)
        return {"weight": head["weight"] / scale, "bias": head["bias"]}

    def predict(self, adapted: Weights, x: Any) -> Tensor:
        return self._features(adapted, x) @ adapted["weight"] + adapted["bias"]

    def _features(self, weights: Weights, x: Any) -> Tensor:
        own = {name.removeprefix("backbone."): v for name, v in weights.items() if name.startswith("backbone.")}
        if self.layers == "head":
            return first_tensor(x)
        out: Tensor = functional_call(self.backbone, own, (x,))
        return out

    @classmethod
    def tiny(cls, kind: str = "classification") -> Any:
        if kind != "classification":
            raise UnsupportedError(f"{cls.__name__} is a classifier: for regression use JointTraining or MAML")
        return cls(MLP(8, hidden=(32,), out_features=16), classes=512)
