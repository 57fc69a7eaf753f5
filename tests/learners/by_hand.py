"""A small support and query with what formulas by hand have to leave out: padding, and a class that is not there."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot import Examples

F64 = torch.float64

Y = [0, 2, 0, 0, 1, 0, 1, 2, 0]
REAL = [True, True, True, False, True, True, True, True, False]
WAY = 4  # nobody is of class 3


def examples(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Examples:
    """Nine examples of features `[*shape]`, two of them padding: three of class 0, two of 1, two of 2, none of 3."""
    x = torch.randn(len(Y), *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    mask = torch.tensor(REAL)
    x[~mask] = 7.0  # what must not matter
    return Examples(x, torch.tensor(Y), mask, torch.tensor([True, True, True, False]))


def queries(*shape: int, n: int = 5, seed: int = 1) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def members(support: Examples, label: int) -> list[Tensor]:
    """The real examples of a class."""
    rows = zip(support.x, support.y.tolist(), support.mask.tolist(), strict=True)
    return [x for x, y, real in rows if real and y == label]


def mean_of(support: Examples, label: int) -> Tensor:
    """The mean of a class's real examples, zeros where there are none."""
    own = members(support, label)
    return sum(own, torch.zeros_like(support.x[0])) / max(len(own), 1)


def cross_entropy(logits: Tensor, task: Examples) -> Tensor:
    """The mean over the real examples, each of them of one of the task's own classes."""
    there, losses = task.classes.nonzero().flatten().tolist(), []
    for row, label, real in zip(logits, task.y.tolist(), task.mask.tolist(), strict=True):
        if real:
            losses.append(torch.stack([row[k] for k in there]).exp().sum().log() - row[label])
    return torch.stack(losses).mean()


def randomised(module: torch.nn.Module, seed: int = 0) -> None:
    """Draws every parameter anew, so that none is where it does not show (at zero or one, all alike)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=F64))


def perceptron(layers: list[torch.nn.Linear], x: Tensor) -> Tensor:
    """Linear layers with ReLUs between them, of one input."""
    for i, layer in enumerate(layers):
        x = torch.stack([row @ x for row in layer.weight]) + layer.bias
        if i < len(layers) - 1:
            x = torch.where(x > 0, x, torch.zeros_like(x))
    return x


def linears(module: torch.nn.Module) -> list[torch.nn.Linear]:
    return [m for m in module.modules() if isinstance(m, torch.nn.Linear)]
