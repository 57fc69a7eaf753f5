"""The memory-augmented neural network, MANN (Santoro, Bartunov, Botvinick, Wierstra, Lillicrap 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kshot.errors import UnsupportedError
from kshot.learners.recurrent import RecurrentLearner
from kshot.models import MLP
from kshot.models.memory import LRUAMemory
from kshot.models.recurrent import LSTMCell


class MANN(RecurrentLearner):
    """Binds an example to its label in a memory, and finds it again when the like of it comes.

    h_t = LSTM([f(x_t), y_{t-1}, r_{t-1}], h_{t-1}); the heads made from h_t write to the least recently used places of
    the memory and read r_t from it by content (sec. 3, `kshot.models.memory.LRUAMemory`); the output is a linear map of
    [h_t, r_t].

    Args:
        backbone: f, `[n, *shape] -> [n, d]`; the paper has the pixels themselves (`MLP(400, hidden=())`).
        way: classes (the most that a task may have); None for regression.
        hidden: size of the controller.
        slots, width: of the memory. Each example takes as many places as there are heads, so that a support of more
            than `slots / heads` examples reuses those least recently used, as in the paper: a longer one is no error.
        heads: each of them reads and writes.
        decay: of the usage weights.
        strength: where the learned key strength begins; None: 1, as in the paper.
        out_features: values of a target, for regression.
        max_support: the longest support that it takes; None: what a Trainer has shown it, and any before.

    Raises:
        UnsupportedError: a controller, memory or head of no size; in `adapt`, a support longer than `max_support`.
    """

    # With the paper's strength of 1 what is read is nearly a mean of all places.
    suggested: ClassVar[Mapping[str, Mapping[str, Any]]] = {"classification": {"strength": 10.0}}
    toy_steps = 500
    toy_accuracy = 0.4  # 0.59 after 750 steps, and rising: what to write and when is found late

    def __init__(
        self,
        backbone: nn.Module,
        way: int | None = None,
        hidden: int = 200,
        slots: int = 128,
        width: int = 40,
        heads: int = 4,
        decay: float = 0.99,
        strength: float | None = None,
        out_features: int = 1,
        max_support: int | None = None,
    ) -> None:
        super().__init__(backbone, way, out_features, max_support)
        if hidden < 1:
            raise UnsupportedError(f"expected a controller of at least one unit, got {hidden}")
        self.memory = LRUAMemory(hidden, slots, width, heads, decay, strength)
        self.controller = LSTMCell(self.inputs, hidden, extra=self.memory.out_features)
        self.head = nn.Linear(hidden + self.memory.out_features, self.labels)

    def initial(self, x: Tensor) -> Any:
        return {"controller": self.controller.initial(x), "memory": self.memory.initial(x.shape[:-2], x)}

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        h, c = self.controller(x, state["controller"], state["memory"]["reads"])
        reads, memory = self.memory(h, state["memory"])
        out: Tensor = self.head(torch.cat([h, reads], -1))
        return out, {"controller": (h, c), "memory": memory}

    @classmethod
    def tiny(cls, kind: str = "classification") -> MANN:
        if kind == "regression":
            return cls(MLP(1, hidden=(32,), activation="tanh"), hidden=64, slots=12, width=8, heads=1)
        return cls(MLP(8, hidden=(32,), out_features=8), way=5, hidden=64, slots=32, width=8, heads=2, strength=5.0)
