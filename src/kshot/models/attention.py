"""Attention from plain products: the fused kernels have no second derivative."""

from __future__ import annotations

from torch import Tensor, nn

from kshot.errors import UnsupportedError
from kshot.functional import hide


class MultiHeadAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, sec. 3.2) of queries over a masked set.

    Args:
        size: of queries, keys and the output.
        heads: how many; they divide `size`.
        values: size of the values; `size` by default.
    """

    def __init__(self, size: int, heads: int, values: int | None = None) -> None:
        super().__init__()
        if size % heads:
            raise UnsupportedError(f"expected a number of heads that divides the size {size}, got {heads}")
        self.heads = heads
        self.query, self.key = nn.Linear(size, size), nn.Linear(size, size)
        self.value, self.out = nn.Linear(size if values is None else values, size), nn.Linear(size, size)

    def remember(self, keys: Tensor, values: Tensor) -> dict[str, Tensor]:
        """Keys and values of a set `[..., n, size]`, by heads: what `forward` looks up."""
        return {"keys": self._split(self.key(keys)), "values": self._split(self.value(values))}

    def forward(self, x: Tensor, memory: dict[str, Tensor], mask: Tensor) -> Tensor:
        """What queries `[..., q, size]` read of a set whose real members are `mask` `[..., n]`: `[..., q, size]`."""
        asked, keys = self._split(self.query(x)), memory["keys"]
        logits = asked @ keys.transpose(-1, -2) / keys.shape[-1] ** 0.5
        weights = hide(logits, mask[..., None, None, :]).softmax(-1)
        read = (weights @ memory["values"]).transpose(-2, -3)
        out: Tensor = self.out(read.flatten(-2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.heads, -1))
        return heads.transpose(-2, -3)  # [..., heads, n, size / heads]
