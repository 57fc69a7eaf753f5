"""Update rules of inner loops that several learners share."""

from __future__ import annotations

from typing import Any

import torch

from kshot.engine.inner import Step, Weights


def sgd(step: Step, weights: Weights, state: Any, *, lr: float) -> tuple[Weights, Any]:
    """A step of gradient descent."""
    return {name: value - lr * step.gradients[name] for name, value in weights.items()}, state


def adam(
    step: Step, weights: Weights, state: Any, *, lr: float, beta1: float = 0.9, beta2: float = 0.999
) -> tuple[Weights, Any]:
    """A step of Adam (Kingma, Ba 2015, algorithm 1)."""
    zeros = {name: torch.zeros_like(value) for name, value in weights.items()}
    mean, square = state or (zeros, zeros)
    mean = {name: torch.lerp(mean[name], g, 1 - beta1) for name, g in step.gradients.items()}
    square = {name: torch.lerp(square[name], g * g, 1 - beta2) for name, g in step.gradients.items()}
    rate, correction = lr / (1 - beta1 ** (step.number + 1)), (1 - beta2 ** (step.number + 1)) ** -0.5
    moved = {
        name: torch.addcdiv(value, mean[name], square[name].sqrt() * correction + 1e-8, value=-rate)
        for name, value in weights.items()
    }
    return moved, (mean, square)
