"""The inner loop of gradient-based learners."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]
Update = Callable[[int, Weights, Weights, Any], tuple[Weights, Any]]
"""From the step (from 0 on), the weights, their gradients and a state: the next weights, and the next state."""


def unroll(
    loss: Callable[[int, Weights], Tensor],
    weights: Mapping[str, Tensor],
    update: Update,
    *,
    steps: int,
    order: int = 2,
    state: Any = None,
) -> Weights:
    """`steps` of an update rule on the gradients of a loss, unrolled, differentiable in the weights and in the rule.

    Args:
        loss: a scalar function of the step (from 0 on) and the weights.
        weights: where to start; left as they are.
        update: the rule: what a step makes of weights and gradients.
        order: 2 differentiates through the gradients; 1 takes them as constants, so that no graph of them is kept.
        state: what the rule remembers from one step to the next, at its first one (momentum, a hidden state).
    """
    gradient = torch.func.grad(lambda weights, step: loss(step, weights))
    adapted = dict(weights)
    for step in range(steps):
        if order == 1:
            # An outer no_grad is not seen by func.grad itself: it only keeps the outer graph from growing.
            with torch.no_grad():
                gradients = gradient(adapted, step)
        else:
            gradients = gradient(adapted, step)
        adapted, state = update(step, adapted, gradients, state)
    return adapted


def gradient_descent(
    loss: Callable[[Weights], Tensor],
    parameters: Mapping[str, Tensor],
    *,
    steps: int,
    lr: float | Mapping[str, Tensor],
    order: int = 2,
) -> Weights:
    """`steps` of gradient descent, unrolled, differentiable in the parameters it started from (Finn et al. 2017, eq.
    1).

    Args:
        loss: a scalar function of the parameters.
        parameters: where to start; left as they are.
        lr: one step size, or one for each parameter.
        order: 2 differentiates through the gradients; 1 takes them as constants, so that no graph of them is kept.
    """

    def descend(_: int, weights: Weights, gradients: Weights, state: Any) -> tuple[Weights, Any]:
        rates = lr if isinstance(lr, Mapping) else dict.fromkeys(weights, lr)
        return {name: value - rates[name] * gradients[name] for name, value in weights.items()}, state

    return unroll(lambda _, weights: loss(weights), parameters, descend, steps=steps, order=order)
