"""Where a head of a memory looks, step by step (Graves, Wayne, Danihelka 2014, "Neural Turing Machines", sec. 3.3).

All functions take any leading dimensions. Weights `[..., n]` are over the n places of a memory, never negative, and sum
to one; each step keeps them so.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-8
"""Added to squared lengths: the cosine of what is nearly empty is near zero, with a finite gradient."""
FLOOR = 1e-30
"""Added to a weight before its logarithm."""


def cosine_similarity(keys: Tensor, memory: Tensor) -> Tensor:
    """Cosines between keys `[..., h, m]` and the rows of a memory `[..., n, m]`: `[..., h, n]` (eq. 6).

    >>> cosine_similarity(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0], [-5.0, 0.0]]))
    tensor([[ 1.,  0., -1.]])
    """
    lengths = (memory.square().sum(-1) + TINY).rsqrt()
    keys = keys * (keys.square().sum(-1, keepdim=True) + TINY).rsqrt()
    return (keys @ memory.transpose(-1, -2)) * lengths.unsqueeze(-2)


def by_content(similarity: Tensor, strength: Tensor) -> Tensor:
    """Weights by content: the softmax of the similarities `[..., h, n]` times the key strength `[..., h]` (eq. 5)."""
    return (strength.unsqueeze(-1) * similarity).softmax(-1)


def interpolate(content: Tensor, previous: Tensor, gate: Tensor) -> Tensor:
    """`gate` `[..., h]` of the weights by content, the rest of the previous ones (both `[..., h, n]`) (eq. 7)."""
    return torch.lerp(previous, content, gate.unsqueeze(-1))


def shift(weights: Tensor, kernel: Tensor) -> Tensor:
    """Rotates weights `[..., h, n]` by the circular convolution with a kernel `[..., h, 2k + 1]` (eq. 8).

    The kernel says how much goes k places back, ..., stays, ..., goes k places on.

    >>> shift(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.0, 0.25, 0.75]]))
    tensor([[0.7500, 0.0000, 0.2500]])
    """
    n, k = weights.shape[-1], kernel.shape[-1] // 2
    if k == 0:
        return weights * kernel
    around = torch.cat([weights[..., n - k :], weights, weights[..., :k]], -1)
    parts = [around[..., 2 * k - j : 2 * k - j + n] * kernel[..., j : j + 1] for j in range(2 * k + 1)]
    return torch.stack(parts).sum(0)


def sharpen(weights: Tensor, exponent: Tensor) -> Tensor:
    """Weights `[..., h, n]` to the power of `exponent` `[..., h]` of at least 1, divided by their sum (eq. 9).

    As the softmax of `exponent log w`, which neither underflows nor divides by zero.
    """
    return (exponent.unsqueeze(-1) * (weights + FLOOR).log()).softmax(-1)


def write(memory: Tensor, weights: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """What several heads leave of a memory `[..., n, m]`: all erase (eq. 3), then all add (eq. 4).

    Args:
        weights: of the heads, `[..., h, n]`.
        erase: in [0, 1], `[..., h, m]`.
        add: `[..., h, m]`.
    """
    kept = memory
    for head in range(weights.shape[-2]):
        kept = torch.addcmul(kept, kept, weights[..., head, :, None] * erase[..., head, None, :], value=-1)
    return kept + weights.transpose(-1, -2) @ add


def read(memory: Tensor, weights: Tensor) -> Tensor:
    """The mean of the rows of a memory `[..., n, m]` by weights `[..., h, n]`: `[..., h, m]` (eq. 2)."""
    return weights @ memory
