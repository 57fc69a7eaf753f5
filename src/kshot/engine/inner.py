"""The inner loop of gradient-based learners."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kshot.models.switch import differentiated_twice

Weights = dict[str, Tensor]


class Step(NamedTuple):
    """What an update rule gets to know of an inner step.

    Attributes:
        number: from 0 on.
        loss: of the weights before the step, a scalar.
        gradients: of it, by the weights' names.
    """

    number: int
    loss: Tensor
    gradients: Weights


Update = Callable[[Step, Weights, Any], tuple[Weights, Any]]
"""From a step, the weights before it and a state: the next weights, and the next state."""


def trajectory(
    loss: Callable[[int, Weights], Tensor],
    weights: Mapping[str, Tensor],
    update: Update,
    *,
    steps: int,
    order: int = 2,
    state: Any = None,
) -> Iterator[Weights]:
    """The weights after each of `steps` of an update rule on the gradients of a loss, differentiable in the weights
    that they started from and in the rule.

    Args:
        loss: a scalar function of the step (from 0 on) and the weights.
        weights: where to start; left as they are.
        update: the rule: what a step makes of the weights.
        order: 2 differentiates through the gradients; 1 takes them as constants, so that no graph of them is kept.
        state: what the rule remembers from one step to the next, at its first one (momentum, a hidden state).
    """
    gradient = torch.func.grad_and_value(lambda weights, number: loss(number, weights))
    now = dict(weights)
    for number in range(steps):
        if order == 1:
            # An outer no_grad is not seen by func.grad itself: it only keeps the outer graph from growing.
            with torch.no_grad():
                gradients, value = gradient(now, number)
        else:
            with differentiated_twice.set(differentiated_twice.on or torch.is_grad_enabled()):
                gradients, value = gradient(now, number)
        now, state = update(Step(number, value, gradients), now, state)
        yield now


def unroll(
    loss: Callable[[int, Weights], Tensor], weights: Mapping[str, Tensor], update: Update, **how: Any
) -> Weights:
    """The weights after the last step of a `trajectory`, whose arguments it takes; those given where there is none."""
    last = dict(weights)
    for now in trajectory(loss, weights, update, **how):
        last = now
    return last


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

    def descend(step: Step, weights: Weights, state: Any) -> tuple[Weights, Any]:
        rates = lr if isinstance(lr, Mapping) else dict.fromkeys(weights, lr)
        return {name: value - rates[name] * step.gradients[name] for name, value in weights.items()}, state

    return unroll(lambda _, weights: loss(weights), parameters, descend, steps=steps, order=order)
