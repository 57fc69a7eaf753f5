"""A learner's features as one compiled call: for a server, whose networks never change.

On a CPU a traced network with its constants frozen folds batch normalisation into the convolutions and keeps their
weights as oneDNN wants them: a Conv-4 takes 0.4 of its time on one core, and lets other threads run meanwhile, where
one operator after another would ask for Python's lock.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kshot.learners.base import Learner

Features = Callable[[Tensor], Tensor]

SIZES = (1, 2, 3, 7)
"""Batches that are tried: what is frozen must not have the size of the traced one built in."""

CLOSE = 1e-4
"""Of the largest feature: what folding may round otherwise."""


def frozen_features(learner: Learner) -> Features | None:
    """The learner's shared features of images or arrays `[n, *shape]`, compiled for this CPU; None where it has none,
    where it cannot be traced, or where that would say anything else than the learner itself.

    Args:
        learner: in eval mode, its parameters as they will stay.
    """
    shape, parameter = learner.input_shape, next(learner.parameters(), None)
    if not learner.shares_features() or shape is None or parameter is None or parameter.device.type != "cpu":
        return None
    generator = torch.Generator().manual_seed(0)
    samples = [torch.rand(n, *shape, generator=generator, dtype=parameter.dtype) for n in SIZES]
    # torch.jit is deprecated, and what replaces it needs a C++ compiler where the server runs. It may go: then, as
    # whenever something of this fails, features are computed as they always are.
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            traced = torch.jit.trace(_Features(learner).eval(), samples[1], check_trace=False)
            frozen: Features = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
            for sample in [*samples, *samples]:  # the second time a call is compiled for what the first one saw
                if not _agree(frozen(sample), learner.features(sample)):
                    return None
        except Exception:
            return None
    return frozen


class _Features(nn.Module):
    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.learner.features(x)
        return z


def _agree(found: Tensor, expected: object) -> bool:
    if not isinstance(expected, Tensor) or found.shape != expected.shape:
        return False
    return float((found - expected).abs().max()) <= CLOSE * max(1.0, float(expected.abs().max()))
