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
    mean = {name: (1 - beta1) * g + beta1 * mean[name] for name, g in step.gradients.items()}
    square = {name: (1 - beta2) * g.square() + beta2 * square[name] for name, g in step.gradients.items()}
    first, second = 1 - beta1 ** (step.number + 1), 1 - beta2 ** (step.number + 1)
    moved = {
        name: value - lr / first * mean[name] / ((square[name] / second).sqrt() + 1e-8)
        for name, value in weights.items()
    }
    return moved, (mean, square)
