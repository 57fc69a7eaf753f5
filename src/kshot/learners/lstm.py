"""An LSTM that learns to learn (Hochreiter, Younger, Conwell 2001)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kshot.errors import UnsupportedError
from kshot.learners.recurrent import RecurrentLearner
from kshot.models import MLP
from kshot.models.recurrent import LSTMCell


class LSTMLearner(RecurrentLearner):
    """The learning algorithm is the dynamics of a recurrent network: examples come in with the labels of those before.

    h_t, c_t = LSTM([f(x_t), y_{t-1}], h_{t-1}, c_{t-1}), and the output is a linear map of h_t: the LSTM baseline of
    Santoro et al. 2016 (table 1). Layers lie one upon the other. That a network which reads each example with the label
    before it can become a learning algorithm is Hochreiter, Younger, Conwell 2001; the backbone is neither's.

    Args:
        backbone: f, `[n, *shape] -> [n, d]`.
        way: classes (the most that a task may have); None for regression.
        hidden: size of a layer's state.
        layers: how many.
        out_features: values of a target, for regression.
        max_support: the longest support that it takes; None: what a Trainer has shown it, and any before.

    Raises:
        UnsupportedError: no layer; in `adapt`, a support longer than `max_support`.
    """

    toy_steps = 750
    # One state of fixed size has to hold all examples apart: on Omniglot, too, it ends far below the others (Santoro et
    # al. 2016, table 1: 64 % at a class's fifth instance, where a memory has 95 %).
    toy_accuracy = 0.5

    def __init__(
        self,
        backbone: nn.Module,
        way: int | None = None,
        hidden: int = 200,
        layers: int = 1,
        out_features: int = 1,
        max_support: int | None = None,
    ) -> None:
        super().__init__(backbone, way, out_features, max_support)
        if layers < 1 or hidden < 1:
            raise UnsupportedError(f"expected at least one layer of at least one unit, got {layers} of {hidden}")
        self.cells = nn.ModuleList([LSTMCell(self.inputs if i == 0 else hidden, hidden) for i in range(layers)])
        self.head = nn.Linear(hidden, self.labels)

    def initial(self, x: Tensor) -> Any:
        return [cell.initial(x) for cell in self.cells]  # type: ignore[operator]

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        after = []
        for cell, before in zip(self.cells, state, strict=True):
            after.append(cell(x, before))
            x = after[-1][0]
        out: Tensor = self.head(x)
        return out, after

    @classmethod
    def tiny(cls, kind: str = "classification") -> LSTMLearner:
        if kind == "regression":
            return cls(MLP(1, hidden=(32,), activation="tanh"), hidden=64)
        return cls(MLP(8, hidden=(32,), out_features=8), way=5, hidden=128)
