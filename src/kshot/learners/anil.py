"""Almost no inner loop (Raghu, Raghu, Bengio, Vinyals 2020)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from kshot.engine import gradient_descent
from kshot.episodes import Examples, first_tensor
from kshot.errors import UnsupportedError
from kshot.learners.base import Learner, MetaGradient
from kshot.models import MLP


class ANIL(Learner):
    """MAML whose inner loop adapts the head alone; the features are shared by all tasks (sec. 4).

    w' = w - alpha * grad_w L(w; f(x), y), `inner_steps` times on the support set; the outer loop learns f, and the w
    that tasks begin with, by L(w'; query).

    Args:
        backbone: the shared features, `[n, *shape] -> [n, d]`.
        way: classes of the head (the most that a task may have); None for regression.
        out_features: values of the head, for regression.
        inner_lr: step size on the head.
        inner_steps: inner gradient steps in training.
        order: 2, or 1 to take the inner gradients as constants.
        test_steps: inner steps in eval mode; `inner_steps` by default. `adapt(support, steps=...)` overrides both.

    Raises:
        UnsupportedError: an order or a number of steps that there is not.
    """

    native_predict = True

    def __init__(
        self,
        backbone: nn.Module,
        way: int | None = None,
        inner_lr: float = 0.1,
        inner_steps: int = 5,
        order: Literal[1, 2] = 2,
        test_steps: int | None = None,
        out_features: int = 1,
    ) -> None:
        super().__init__()
        if order not in (1, 2):
            raise UnsupportedError(f"expected order 1 (first-order) or 2, got {order!r}")
        if inner_steps < 0 or (test_steps is not None and test_steps < 0):
            raise UnsupportedError(f"expected at least 0 inner steps, got {min(inner_steps, test_steps or 0)}")
        self.backbone = backbone
        self.head = nn.Linear(int(backbone.out_features), out_features if way is None else way)  # type: ignore[arg-type]
        self.inner_lr, self.inner_steps, self.test_steps = float(inner_lr), inner_steps, test_steps
        self.order = order
        self.outputs = "values" if way is None else "logits"
        self.meta_gradient: MetaGradient = "exact" if order == 2 else "first_order"

    @property
    def way(self) -> int | None:
        return self.head.out_features if self.outputs == "logits" else None

    @property
    def target_size(self) -> int | None:
        return None if self.outputs == "logits" else self.head.out_features

    def features(self, x: Any) -> Any:
        return self.backbone(x)

    def adapt(self, support: Examples, *, steps: int | None = None) -> dict[str, Tensor]:  # type: ignore[override]
        if steps is not None and steps < 0:
            raise UnsupportedError(f"expected at least 0 inner steps, got {steps}")
        if steps is None:
            steps = self.inner_steps if self.training or self.test_steps is None else self.test_steps

        def loss(head: dict[str, Tensor]) -> Tensor:
            return self.loss(self.predict(head, first_tensor(support.x)), support)

        return gradient_descent(
            loss, dict(self.head.named_parameters()), steps=steps, lr=self.inner_lr, order=self.order
        )

    def predict(self, adapted: dict[str, Tensor], x: Tensor) -> Tensor:
        if x.ndim == 2:  # of one task
            return F.linear(x, adapted["weight"], adapted["bias"])
        return x @ adapted["weight"].mT + adapted["bias"].unsqueeze(-2)

    @classmethod
    def tiny(cls, kind: str = "classification") -> ANIL:
        if kind == "regression":
            return cls(MLP(1, hidden=(40, 40)), inner_lr=0.05, inner_steps=3)
        return cls(MLP(8, hidden=(32,)), way=5, inner_lr=0.3, inner_steps=5)
