"""Conv-4 as every contender writes it: the network of the Omniglot experiments, 28x28, 64 channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

SHAPE = (1, 28, 28)
BLOCKS, CHANNELS, FEATURES = 4, 64, 64


def network(way: int | None) -> nn.Module:
    """In plain PyTorch, normalised by the batch at hand; with a linear head on it, or none."""
    layers: list[nn.Module] = []
    for i in range(BLOCKS):
        convolution = nn.Conv2d(1 if i == 0 else CHANNELS, CHANNELS, 3, padding=1, bias=False)
        norm = nn.BatchNorm2d(CHANNELS, track_running_stats=False)
        layers += [convolution, norm, nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), *([] if way is None else [nn.Linear(FEATURES, way)]))


def forward(weights: Sequence[Tensor], x: Tensor) -> Tensor:
    """The same as a function of its parameters; a head is two more of them."""
    for i in range(BLOCKS):
        filters, scale, shift = weights[3 * i : 3 * i + 3]
        x = F.batch_norm(F.conv2d(x, filters, padding=1), None, None, scale, shift, training=True)
        x = F.max_pool2d(F.relu(x), 2)
    x = x.flatten(1)
    return F.linear(x, *weights[3 * BLOCKS :]) if len(weights) > 3 * BLOCKS else x


def jax_forward(weights: Any, x: Any) -> Any:
    """The same in JAX."""
    import jax
    import jax.numpy as jnp

    for i in range(BLOCKS):
        filters, scale, shift = weights[3 * i : 3 * i + 3]
        x = jax.lax.conv_general_dilated(x, filters, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))
        mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
        x = (x - mean) * jax.lax.rsqrt(variance + 1e-5) * scale[:, None, None] + shift[:, None, None]
        x = jax.lax.reduce_window(jax.nn.relu(x), -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    x = x.reshape(len(x), -1)
    return x @ weights[-2].T + weights[-1]
