"""The simple neural attentive learner, SNAIL (Mishra, Rohaninejad, Chen, Abbeel 2018)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from kshot.engine.fits import check_support_size
from kshot.episodes import Examples
from kshot.errors import UnsupportedError
from kshot.functional import hide
from kshot.learners.context import ContextLearner
from kshot.models import MLP

Cache = dict[str, Tensor]


class SNAIL(ContextLearner):
    """Temporal convolutions remember, attention looks things up: a sequence of labelled examples, and the query last.

    Attention, TC, attention, TC, attention, and a linear map (sec. 3). A TC block has a dense block for each dilation
    1, 2, 4, ... up to the sequence's length. Since all is causal, nothing of the support depends on the query: what
    each layer made of the support is kept, and a query only takes the last place.

    Args:
        backbone: features of an example, `[n, *shape] -> [n, d]`.
        way: classes (the most that a task may have); None for regression.
        max_support: the longest support that it takes, way times shot; None: the longest that a Trainer has shown it.
        filters: of a dense block; 128 in the paper.
        sizes: of keys and values of the three attention blocks.
        out_features: values of a target, for regression.
        reach: how long a support the dilations are made for; None: `max_support`, or 25.

    Raises:
        UnsupportedError: a single class, no support at all, one longer than the dilations reach; in `adapt`, a longer
            one than `max_support`, not counting what is padding.
    """

    support_order_matters = True

    def __init__(
        self,
        backbone: nn.Module,
        way: int | None = None,
        max_support: int | None = None,
        filters: int = 128,
        sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] = ((64, 32), (256, 128), (512, 256)),
        out_features: int = 1,
        reach: int | None = None,
    ) -> None:
        super().__init__(backbone, way, out_features)
        self.reach = reach or (25 if max_support is None else max_support)
        if (max_support is not None and max_support < 1) or not sizes:
            raise UnsupportedError(
                f"expected a max_support of at least 1 example and an attention block, got {max_support} and {sizes!r}"
            )
        if self.reach < (max_support or 1):
            raise UnsupportedError(f"expected dilations that reach the whole support, {max_support}, got {self.reach}")
        self.max_support = self.reach if max_support is None else max_support
        self._limited, self._shown = max_support is not None, 0
        size = int(backbone.out_features) + self.labels  # type: ignore[arg-type]
        blocks: list[nn.Module] = []
        for i, (key, value) in enumerate(sizes):
            blocks.append(Attention(size, key, value))
            size += value
            if i < len(sizes) - 1:
                for level in range(max(1, math.ceil(math.log2(self.reach + 1)))):
                    blocks.append(Dense(size, filters, 2**level))
                    size += filters
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(size, self.labels)

    def support_limit(self, trained_on: int) -> int | None:
        return self.max_support if self._limited else min(max(trained_on, self._shown), self.reach)

    def amend(self, **arguments: Any) -> None:
        # A limit that a training sets changes nothing of what the dilations were made for.
        super().amend(**{"reach": self.reach, **arguments})
        self._shown = self.max_support or 0

    def adapt(self, support: Examples) -> dict[str, Any]:  # type: ignore[override]
        # How much of a padded one is real nobody knows here (`kshot.adapt` does): what runs has no such limit.
        if not support.padded:
            check_support_size(self, support.size)
        z, y = self.pairs(support)
        # The real examples come last, next to where the query will stand; convolutions go by places.
        order = support.mask.to(torch.uint8).argsort(dim=-1, stable=True).unsqueeze(-1)
        mask = support.mask.gather(-1, order.squeeze(-1))
        h = torch.cat([z, y], -1)
        h = h.gather(-2, order.expand(h.shape)) * mask.unsqueeze(-1)
        caches = []
        for block in self.blocks:
            h, cache = block.read(h, mask)  # type: ignore[operator]
            caches.append(cache)
        return {"caches": caches, "mask": mask}

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        h = torch.cat([x, x.new_zeros(*x.shape[:-1], self.labels)], -1)
        for block, cache in zip(self.blocks, adapted["caches"], strict=True):
            h = block.answer(h, cache, adapted["mask"])  # type: ignore[operator]
        out: Tensor = self.head(h)
        return out

    @classmethod
    def tiny(cls, kind: str = "classification") -> SNAIL:
        small: dict[str, Any] = {"filters": 16, "sizes": ((16, 16), (16, 16), (16, 16))}
        if kind == "regression":
            return cls(MLP(1, hidden=(32,), activation="tanh"), max_support=10, **small)
        return cls(MLP(8, hidden=(32,), out_features=16), way=5, max_support=25, **small)


class Dense(nn.Module):
    """A dense block: tanh(conv(h)) sigmoid(conv(h)) behind h, causal convolutions of two places (sec. 3.1)."""

    def __init__(self, size: int, filters: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.before = nn.Linear(size, 2 * filters, bias=False)
        self.now = nn.Linear(size, 2 * filters)

    def read(self, h: Tensor, mask: Tensor) -> tuple[Tensor, Cache]:
        """The block's output over the support `[..., n, size]`, and what a query needs of it."""
        n, d = h.shape[-2], self.dilation
        before = self.before(h)
        shifted = torch.cat([torch.zeros_like(before[..., :d, :]), before[..., : max(n - d, 0), :]], -2)[..., :n, :]
        # The query stands at place n: its convolution reaches back to n - d, or before the beginning.
        last = before[..., n - d, :] if d <= n else torch.zeros_like(before[..., 0, :])
        return self._join(h, shifted + self.now(h)) * mask.unsqueeze(-1), {"last": last}

    def answer(self, h: Tensor, cache: Cache, mask: Tensor) -> Tensor:
        """The block's output for queries `[..., q, size]`, each at the place behind the support."""
        return self._join(h, cache["last"].unsqueeze(-2) + self.now(h))

    @staticmethod
    def _join(h: Tensor, both: Tensor) -> Tensor:
        f, g = both.chunk(2, -1)
        return torch.cat([h, f.tanh() * g.sigmoid()], -1)


class Attention(nn.Module):
    """An attention block: what a causal lookup by keys reads, behind h (sec. 3.1)."""

    def __init__(self, size: int, key: int, value: int) -> None:
        super().__init__()
        self.key, self.query, self.value = nn.Linear(size, key), nn.Linear(size, key), nn.Linear(size, value)

    def read(self, h: Tensor, mask: Tensor) -> tuple[Tensor, Cache]:
        keys, values = self.key(h), self.value(h)
        n = h.shape[-2]
        causal = torch.ones(n, n, dtype=torch.bool, device=h.device).tril()
        logits = self.query(h) @ keys.transpose(-1, -2) / keys.shape[-1] ** 0.5
        weights = hide(logits, causal & mask.unsqueeze(-2)).softmax(-1)
        return torch.cat([h, weights @ values], -1) * mask.unsqueeze(-1), {"keys": keys, "values": values}

    def answer(self, h: Tensor, cache: Cache, mask: Tensor) -> Tensor:
        asked, scale = self.query(h), cache["keys"].shape[-1] ** -0.5
        others = hide(asked @ cache["keys"].transpose(-1, -2) * scale, mask.unsqueeze(-2))
        own = (asked * self.key(h)).sum(-1, keepdim=True) * scale
        weights = torch.cat([others, own], -1).softmax(-1)
        return torch.cat([h, weights[..., :-1] @ cache["values"] + weights[..., -1:] * self.value(h)], -1)
