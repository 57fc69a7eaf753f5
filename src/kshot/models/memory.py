"""External memories that a network reads from and writes to: the Neural Turing Machine's, and the least recently used.

A memory module holds what is learned, never a content: that is the `State` which goes from step to step ::

    state = memory.initial(batch_shape, like=x)
    reads, state = memory(hidden, state)    # hidden [*batch_shape, in_features] -> reads [*batch_shape, out_features]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot.capture import CapturedModule
from kshot.errors import UnsupportedError
from kshot.models import addressing

State = dict[str, Tensor]
"""A memory between two steps: `memory` `[..., n, m]`, `reads` `[..., h * m]`, and what else its kind needs."""

EMPTY = 1e-6
"""What an unwritten memory holds (Collier and Beel 2018, "Implementing Neural Turing Machines", sec. 3.1)."""

LOOK, MOVE, STRENGTH = 2.0, 3.0, 8.0
"""Of a tape's heads, beside what a linear map begins with: LOOK is added to the gates of those that look, MOVE to their
shift of 0; of the one that moves, MOVE is added to its shift of 1 and taken from its gate; STRENGTH is added to all key
strengths. On priority sort a strength of 30 learned slower."""


class Memory(CapturedModule):
    """Base of the memories.

    Args:
        in_features: size of the controller's output, from which all heads' parameters are one linear map.
        slots: places of the memory, n.
        width: size of a place, m.
        read_heads, write_heads: how many.

    Attributes:
        out_features: size of what a step reads, `read_heads * width`.

    Raises:
        UnsupportedError: a size below 1.
    """

    def __init__(self, in_features: int, slots: int, width: int, read_heads: int, write_heads: int) -> None:
        super().__init__()
        sizes = {
            "in_features": in_features,
            "slots": slots,
            "width": width,
            "read_heads": read_heads,
            "write_heads": write_heads,
        }
        for name, size in sizes.items():
            if size < 1:
                raise UnsupportedError(f"expected {name} of a memory to be at least 1, got {size!r}")
        self.slots, self.width, self.read_heads, self.write_heads = slots, width, read_heads, write_heads
        self.out_features = read_heads * width
        self.first_reads = nn.Parameter(torch.zeros(self.out_features))

    def initial(self, batch_shape: Sequence[int], like: Tensor) -> State:
        """The state before the first step: an empty memory, and reads that are learned.

        Args:
            batch_shape: the leading dimensions.
            like: a tensor of the dtype and device to use.
        """
        shape = tuple(batch_shape)
        return {
            "memory": like.new_full((*shape, self.slots, self.width), EMPTY),
            "reads": self.first_reads.tanh().expand(*shape, self.out_features),
        }

    def forward(self, hidden: Tensor, state: State, real: Tensor | None = None) -> tuple[Tensor, State]:
        """One step: writes, then reads what is there.

        Args:
            hidden: the controller's output `[..., in_features]`.
            state: of the step before.
            real: bool `[...]`; where it is false the step is padding, and the state stays as it is. None: all real.

        Returns:
            The reads `[..., out_features]` and the next state.
        """
        raise NotImplementedError


class NTMMemory(Memory):
    """The memory of the Neural Turing Machine (Graves, Wayne, Danihelka 2014, sec. 3): content and location addressing.

    A head emits a key k, its strength beta, a gate g, shifts s and an exponent gamma; the writing ones an erase vector
    e and an add vector a, too (`kshot.models.addressing` has the formulas). All heads look at the memory as it was
    before the step; then it is written, then read. Before the first step every head is at place 0.

    Args:
        in_features, slots, width, read_heads, write_heads: see `Memory`.
        shifts: the furthest that a head can move in a step, k: by -k, ..., k places.
        start: what the heads do before anything is learned. `"neutral"`: what comes of a linear map's usual beginning;
            `"tape"`: the first writing head moves on a place a step, all others look by content. What is read is kept
            apart from the start, and can be found, and erased where it is found: priority sort needs that.

    Raises:
        UnsupportedError: shifts beyond half of the slots, another start, or a tape that cannot move.
    """

    def __init__(
        self,
        in_features: int,
        slots: int = 128,
        width: int = 20,
        read_heads: int = 1,
        write_heads: int = 1,
        shifts: int = 1,
        start: Literal["neutral", "tape"] = "neutral",
    ) -> None:
        super().__init__(in_features, slots, width, read_heads, write_heads)
        if start not in ("neutral", "tape"):
            raise UnsupportedError(f"expected start to be 'neutral' or 'tape', got {start!r}")
        if start == "tape" and shifts == 0:
            raise UnsupportedError(
                "expected shifts of at least 1, as a head of a tape moves, got 0: use shifts=1, or start='neutral'"
            )
        if shifts < 0 or 2 * shifts + 1 > slots:
            raise UnsupportedError(
                f"expected shifts between 0 and {(slots - 1) // 2}, half of the {slots} slots, got {shifts!r}"
            )
        self.shifts = shifts
        heads = read_heads + write_heads
        # Grouped by what is done to them: tanh of keys and add vectors, sigmoid of erase vectors and gates, softplus of
        # strengths and exponents, softmax of shifts. One linear map, and few small operations a step.
        self._tanh = heads * width + write_heads * width
        self._sigmoid = write_heads * width + heads
        self._softplus = 2 * heads
        self._softmax = heads * (2 * shifts + 1)
        self.heads = nn.Linear(in_features, self._tanh + self._sigmoid + self._softplus + self._softmax)
        if start == "tape":
            self._start_as_tape()

    @torch.no_grad()
    def _start_as_tape(self) -> None:
        _, sigmoid, softplus, softmax = self.heads.bias.split(
            [self._tanh, self._sigmoid, self._softplus, self._softmax]
        )
        gates, strengths = sigmoid[self.write_heads * self.width :], softplus[: len(softplus) // 2]
        kernels = softmax.view(-1, 2 * self.shifts + 1)
        strengths += STRENGTH
        gates += LOOK
        kernels[:, self.shifts] += MOVE
        first = self.read_heads  # of the writing ones
        gates[first] -= LOOK + MOVE
        kernels[first] = kernels[first].roll(1)

    def initial(self, batch_shape: Sequence[int], like: Tensor) -> State:
        heads = self.read_heads + self.write_heads
        first = F.one_hot(torch.zeros(heads, dtype=torch.int64, device=like.device), self.slots).to(like.dtype)
        state = super().initial(batch_shape, like)
        return {**state, "weights": first.expand(*batch_shape, heads, self.slots)}

    def forward(self, hidden: Tensor, state: State, real: Tensor | None = None) -> tuple[Tensor, State]:
        heads, writers, m = self.read_heads + self.write_heads, self.write_heads, self.width
        sizes = [self._tanh, self._sigmoid, self._softplus, self._softmax]
        vectors, gates, strengths, kernels = self.heads(hidden).split(sizes, -1)
        keys, add = vectors.tanh().unflatten(-1, (-1, m)).split([heads, writers], -2)
        erase, gate = gates.sigmoid().split([writers * m, heads], -1)
        strength, exponent = F.softplus(strengths).split(heads, -1)
        kernel = kernels.unflatten(-1, (heads, -1)).softmax(-1)

        content = addressing.by_content(addressing.cosine_similarity(keys, state["memory"]), strength)
        weights = addressing.interpolate(content, state["weights"], gate)
        weights = addressing.sharpen(addressing.shift(weights, kernel), 1 + exponent)
        if real is not None:  # held weights, and nothing to erase or add
            weights = torch.where(real[..., None, None], weights, state["weights"])
            erase, add = erase * real.unsqueeze(-1), add * real[..., None, None]
        reading, writing = weights.split([self.read_heads, writers], -2)
        memory = addressing.write(state["memory"], writing, erase.unflatten(-1, (writers, m)), add)
        reads = addressing.read(memory, reading).flatten(-2)
        if real is not None:
            reads = torch.where(real.unsqueeze(-1), reads, state["reads"])
        return reads, {"memory": memory, "weights": weights, "reads": reads}


class LRUAMemory(Memory):
    """Least recently used access (Santoro, Bartunov, Botvinick, Wierstra, Lillicrap 2016, sec. 3.2).

    Each head writes where it has just read, or to a place that has not been used for long, and then reads by content::

        w_w = sigmoid(alpha) w_r' + (1 - sigmoid(alpha)) w_lu'       (eq. 7; ' is the step before)
        M = M' + w_w k, after w_lu' has been set to zero             (eq. 8)
        w_r = softmax of beta cosine(k, M)                           (eq. 2-3; there beta = 1)
        w_u = decay w_u' + w_r + w_w                                 (eq. 5, summed over the heads)

    w_lu is one at the least used places of w_u, as many as there are heads (eq. 6): here the h-th least used is that of
    head h. Which place that is has no gradient. A step empties a place for every head: from `slots / heads` steps on
    there is none left that was never written, and what has not been used for longest gives way.

    Args:
        in_features, slots, width: see `Memory`.
        heads: each of them reads and writes.
        decay: of the usage weights a step, gamma in the paper.
        strength: where the learned key strength beta of a head begins; None: 1 and not learned, as in the paper.

    Raises:
        UnsupportedError: more heads than slots, a decay outside [0, 1], a strength that is not positive.
    """

    def __init__(
        self,
        in_features: int,
        slots: int = 128,
        width: int = 40,
        heads: int = 4,
        decay: float = 0.99,
        strength: float | None = None,
    ) -> None:
        super().__init__(in_features, slots, width, heads, heads)
        if heads > slots:
            raise UnsupportedError(f"expected at most one head for each of the {slots} slots, got {heads}")
        if not 0 <= decay <= 1:
            raise UnsupportedError(f"expected a decay in [0, 1], got {decay!r}")
        if strength is not None and not strength > 0:
            raise UnsupportedError(f"expected a positive strength, got {strength!r}")
        self.decay = decay
        self.log_strength = None if strength is None else nn.Parameter(torch.full((heads,), strength).log())
        self.heads = nn.Linear(in_features, heads * (width + 1))

    def initial(self, batch_shape: Sequence[int], like: Tensor) -> State:
        """Nothing read or used yet: the first head begins with place 0, the next one with place 1."""
        shape = tuple(batch_shape)
        return {
            **super().initial(shape, like),
            "weights": like.new_zeros(*shape, self.read_heads, self.slots),
            "usage": like.new_zeros(*shape, self.slots),
        }

    def forward(self, hidden: Tensor, state: State, real: Tensor | None = None) -> tuple[Tensor, State]:
        n, heads = self.width, self.read_heads
        vectors, gates = self.heads(hidden).split([heads * n, heads], -1)
        keys, gate = vectors.tanh().unflatten(-1, (heads, n)), gates.sigmoid()
        least = least_used(state["usage"], heads)
        writing = torch.lerp(least, state["weights"], gate.unsqueeze(-1))
        memory = state["memory"] * (1 - least.sum(-2)).unsqueeze(-1) + writing.transpose(-1, -2) @ keys
        strength = keys.new_ones(heads) if self.log_strength is None else self.log_strength.exp()
        reading = addressing.by_content(addressing.cosine_similarity(keys, memory), strength)
        reads = addressing.read(memory, reading).flatten(-2)
        usage = self.decay * state["usage"] + (reading + writing).sum(-2)
        new = {"memory": memory, "reads": reads, "weights": reading, "usage": usage}
        if real is not None:
            new = {
                k: torch.where(real.view(*real.shape, *[1] * (v.ndim - real.ndim)), v, state[k]) for k, v in new.items()
            }
        return new["reads"], new


def least_used(usage: Tensor, heads: int) -> Tensor:
    """One-hot rows at the least used places of `usage` `[..., n]`, the least first: `[..., heads, n]`.

    Places that are used alike are taken in their order.

    >>> least_used(torch.tensor([0.5, 0.1, 0.3]), 2)
    tensor([[0., 1., 0.],
            [0., 0., 1.]])
    """
    order = usage.detach().sort(dim=-1, stable=True).indices[..., :heads]
    return (order.unsqueeze(-1) == torch.arange(usage.shape[-1], device=usage.device)).to(usage.dtype)
