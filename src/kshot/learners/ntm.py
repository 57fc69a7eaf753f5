"""The Neural Turing Machine (Graves, Wayne, Danihelka 2014), and the LSTM that it is compared with."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from kshot.episodes import Examples, first_tensor
from kshot.errors import UnsupportedError
from kshot.learners.base import Learner
from kshot.models.memory import NTMMemory
from kshot.models.recurrent import LSTMCell

State = dict[str, Any]


class NTM(Learner):
    """Reads a sequence into its memory, then writes out what is asked for, a vector of bits a step.

    `adapt` reads the support, one example a step of time; `predict` runs on over the queries. A step::

        h = controller(x, reads of the step before)          (sec. 3, figure 1)
        reads, memory = heads(h) on the memory               (eq. 2-9, `kshot.models.memory.NTMMemory`)
        logits of the bits = W [h, reads]

    The state (memory, weights, reads, and the controller's own) is what is adapted; the next prediction begins where
    the support ended, so the order of the queries is time, too.

    Args:
        in_features: channels of an input vector.
        out_features: bits of an output vector.
        hidden: size of the controller.
        controller: `"lstm"` or `"feedforward"` (one layer, tanh).
        slots, width: of the memory; 0 slots leave the memory out, which is the plain LSTM of the paper's comparison.
        read_heads, write_heads: how many.
        shifts: the furthest that a head moves in a step.
        layers: of the LSTM.
        start: of the heads, `"neutral"` or `"tape"`; see `NTMMemory`.

    Raises:
        UnsupportedError: a size below 1, an unknown controller or start, or what needs a memory without one: a
            feed-forward controller, a tape.
    """

    outputs = "bits"
    native = True
    support_order_matters = True
    sequential = True
    unrolls = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: int = 100,
        controller: Literal["lstm", "feedforward"] = "lstm",
        slots: int = 128,
        width: int = 20,
        read_heads: int = 1,
        write_heads: int = 1,
        shifts: int = 1,
        layers: int = 1,
        start: Literal["neutral", "tape"] = "neutral",
    ) -> None:
        super().__init__()
        sizes = {"in_features": in_features, "out_features": out_features, "hidden": hidden, "layers": layers}
        for name, size in sizes.items():
            if size < 1:
                raise UnsupportedError(f"expected {name} to be at least 1, got {size!r}")
        if controller not in ("lstm", "feedforward"):
            raise UnsupportedError(f"expected a controller of lstm or feedforward, got {controller!r}")
        if controller == "feedforward" and (not slots or layers > 1):
            raise UnsupportedError(
                "expected a feed-forward controller to have a memory and one layer, as it keeps nothing itself: use "
                "controller='lstm', or slots of at least 1 and layers=1"
            )
        if start != "neutral" and not slots:
            raise UnsupportedError(
                f"expected slots of at least 1 for start={start!r}, got 0: without a memory leave it out"
            )
        self.in_features, self.out_features = in_features, out_features
        self.memory = NTMMemory(hidden, slots, width, read_heads, write_heads, shifts, start) if slots else None
        seen = 0 if self.memory is None else self.memory.out_features
        self.cells = nn.ModuleList(
            LSTMCell(hidden if layer else in_features, hidden, extra=0 if layer else seen)
            for layer in range(layers if controller == "lstm" else 0)
        )
        self.layer = nn.Linear(in_features + seen, hidden) if controller == "feedforward" else None
        self.output = nn.Linear(hidden + seen, out_features)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.in_features,)

    @property
    def bits(self) -> int:
        return self.out_features

    def _cells(self) -> list[LSTMCell]:
        return cast("list[LSTMCell]", list(self.cells))

    def initial(self, x: Tensor) -> State:
        """The state before the first of the inputs `[..., n, in_features]`."""
        state: State = {"cells": [cell.initial(x) for cell in self._cells()]}
        return state if self.memory is None else {**state, "memory": self.memory.initial(x.shape[:-2], x)}

    def step(self, x: Tensor, state: State, real: Tensor | None = None) -> tuple[Tensor, State]:
        """One step of time: what the output is made of, `[..., hidden + reads]`, and the next state.

        Args:
            x: input `[..., in_features]`.
            state: of the step before.
            real: bool `[...]`; padding (false) leaves the state as it is. None: all real.
        """
        reads = None if self.memory is None else state["memory"]["reads"]
        cells, h = [], x
        for i, (cell, old) in enumerate(zip(self._cells(), state["cells"], strict=True)):
            new = cell(h, old, None if i else reads)
            if real is not None:
                new = tuple(torch.where(real.unsqueeze(-1), a, b) for a, b in zip(new, old, strict=True))
            cells.append(new)
            h = new[0]
        if self.layer is not None:
            assert reads is not None
            h = self.layer(torch.cat([x, reads], -1)).tanh()
        if self.memory is None:
            return h, {"cells": cells}
        reads, memory = self.memory(h, state["memory"], real)
        return torch.cat([h, reads], -1), {"cells": cells, "memory": memory}

    def adapt(self, support: Examples) -> State:  # type: ignore[override]
        x = first_tensor(support.x)
        state = self.initial(x)
        for t in range(support.size):
            _, state = self.step(x[..., t, :], state, support.mask[..., t] if support.padded else None)
        return state

    def predict(self, adapted: State, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of the bits `[..., n, out_features]` of the steps x `[..., n, in_features]` after the support."""
        state, seen = adapted, []
        for t in range(x.shape[-2]):
            features, state = self.step(x[..., t, :], state, None if mask is None else mask[..., t])
            seen.append(features)
        if not seen:  # nothing was asked
            return x.new_zeros(*x.shape[:-1], self.out_features)
        return self.output(torch.stack(seen, -2))  # type: ignore[no-any-return]

    @classmethod
    def tiny(cls, kind: str = "classification") -> NTM:
        if kind != "sequence":
            raise UnsupportedError("NTM answers a sequence with a sequence: for classification use ProtoNet")
        return cls(in_features=4, out_features=3, hidden=32, slots=8, width=8)
