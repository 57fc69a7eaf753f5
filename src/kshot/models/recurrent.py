"""Recurrent cells from linear maps: torch's own have no rule for `vmap`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

State = tuple[Tensor, Tensor]


class LSTMCell(nn.Module):
    """Long short-term memory (Hochreiter, Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    Args:
        in_features: size of an input.
        size: of the state.
        extra: size of something else that the gates see besides input and state (what was read from a memory, say).
    """

    def __init__(self, in_features: int, size: int, extra: int = 0) -> None:
        super().__init__()
        self.size = size
        self.gates = nn.Linear(in_features + size + extra, 4 * size)
        with torch.no_grad():
            self.gates.bias[size : 2 * size].fill_(1.0)  # remembers, to begin with (Jozefowicz et al. 2015)

    def forward(self, x: Tensor, state: State, extra: Tensor | None = None) -> State:
        """The next hidden and cell state of `x` `[..., in_features]`, both `[..., size]`."""
        h, c = state
        seen = [x, h] if extra is None else [x, h, extra]
        i, f, o, g = self.gates(torch.cat(seen, -1)).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def initial(self, x: Tensor) -> State:
        """The state before the first of the inputs `[..., n, in_features]`: zeros `[..., size]`."""
        zeros = x.new_zeros(*x.shape[:-2], self.size)
        return zeros, zeros

    def scan(self, x: Tensor, mask: Tensor) -> Tensor:
        """The hidden state after each of a sequence's inputs `[..., n, in_features]`, `[..., n, size]`; what is masked
        leaves the state as it is."""
        h, c = self.initial(x)
        hidden = []
        for t in range(x.shape[-2]):
            new_h, new_c = self(x[..., t, :], (h, c))
            real = mask[..., t].unsqueeze(-1)
            h, c = torch.where(real, new_h, h), torch.where(real, new_c, c)
            hidden.append(h)
        return torch.stack(hidden, -2)
