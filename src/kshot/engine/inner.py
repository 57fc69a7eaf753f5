"""The inner loop of gradient-based learners."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def gradient_descent(
    loss: Callable[[dict[str, Tensor]], Tensor],
    parameters: Mapping[str, Tensor],
    *,
    steps: int,
    lr: float | Mapping[str, Tensor],
    order: int = 2,
) -> dict[str, Tensor]:
    """`steps` of gradient descent, unrolled, differentiable in the parameters it started from (Finn et al. 2017, eq.
    1).

    Args:
        loss: a scalar function of the parameters.
        parameters: where to start; left as they are.
        lr: one step size, or one for each parameter.
        order: 2 differentiates through the gradients; 1 takes them as constants, so that no graph of them is kept.
    """
    gradient = torch.func.grad(loss)
    adapted = dict(parameters)
    for _ in range(steps):
        if order == 1:
            # An outer no_grad is not seen by func.grad itself: it only keeps the outer graph from growing.
            with torch.no_grad():
                gradients = gradient(adapted)
        else:
            gradients = gradient(adapted)
        adapted = {
            name: value - (lr if isinstance(lr, float) else lr[name]) * gradients[name]
            for name, value in adapted.items()
        }
    return adapted
