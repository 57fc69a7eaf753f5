"""Max pooling that compiles to what it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaxPool2d(nn.Module):
    """Maxima over `size` x `size` windows that do not overlap; rows and columns that fill no window are left out.

    Eagerly it is torch's own. While torch.compile traces, it is written with `torch.maximum`: inductor (seen with torch
    2.13 on a CPU) takes the gradient of a max-pooled batch normalisation to other elements than the largest, so that a
    compiled MAML step has another loss and another meta-gradient.
    """

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """`[..., c, h, w] -> [..., c, h // size, w // size]`."""
        if not torch.compiler.is_compiling():
            return F.max_pool2d(x, self.size)
        for dim in (-2, -1):
            windows = x.narrow(dim, 0, x.shape[dim] // self.size * self.size).unflatten(dim, (-1, self.size))
            x, *others = windows.unbind(dim)
            for other in others:
                x = torch.maximum(x, other)
        return x

    def extra_repr(self) -> str:
        return str(self.size)
