"""Model-agnostic meta-learning (Finn, Abbeel, Levine 2017)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torch.func import functional_call

from kshot.engine import gradient_descent
from kshot.episodes import Examples
from kshot.errors import UnsupportedError
from kshot.learners.base import Learner, MetaGradient
from kshot.models import MLP, Network, Statistics


class MAML(Learner):
    """An initialisation from which a few gradient steps on the support set solve a task.

    theta' = theta - alpha * grad L(theta; support), `inner_steps` times (eq. 1); the outer loop minimises L(theta';
    query) through those steps (algorithm 1), or taking their gradients as constants (`order=1`, sec. 5.2).

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
            layers.
    """

    def __init__(
        self,
        backbone: nn.Module,
        way: int | None = None,
        inner_lr: float = 0.01,
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
        self.inner_lr, self.inner_steps, self.test_steps = float(inner_lr), inner_steps, test_steps
        self.order, self.norm = order, norm
        self.outputs = "values" if way is None else "logits"
        self.meta_gradient: MetaGradient = "exact" if order == 2 else "first_order"
        self.transductive = norm == "batch" and self.network.batch_statistics

    @property
    def way(self) -> int | None:
        return None if self.network.head is None else self.network.head.out_features

    def adapt(self, support: Examples, *, steps: int | None = None) -> dict[str, Any]:  # type: ignore[override]
        if steps is None:
            steps = self.inner_steps if self.training or self.test_steps is None else self.test_steps
        mask = support.mask if support.padded else None

        def loss(parameters: dict[str, Tensor]) -> Tensor:
            return self.loss(self._run(parameters, support.x, Statistics(mask)), support)

        parameters = gradient_descent(
            loss, dict(self.network.named_parameters()), steps=steps, lr=self.inner_lr, order=self.order
        )
        adapted: dict[str, Any] = {"parameters": parameters}
        if self.network.batch_statistics and self.norm == "support":
            statistics = Statistics(mask)
            self._run(parameters, support.x, statistics)
            adapted["statistics"] = statistics.collected
        return adapted

    def predict(self, adapted: dict[str, Any], x: Any, mask: Tensor | None = None) -> Tensor:
        return self._run(adapted["parameters"], x, Statistics(mask, given=adapted.get("statistics")))

    def _run(self, parameters: dict[str, Tensor], x: Any, statistics: Statistics) -> Tensor:
        arguments = (x, statistics) if self.network.batch_statistics else (x,)
        out: Tensor = functional_call(self.network, parameters, arguments)
        return out

    @classmethod
    def tiny(cls, kind: str = "classification") -> MAML:
        if kind == "regression":
            return cls(MLP(1, hidden=(40, 40), out_features=1), inner_lr=0.02, inner_steps=2)
        return cls(MLP(8, hidden=(32,)), way=5, inner_lr=0.3, inner_steps=5)
