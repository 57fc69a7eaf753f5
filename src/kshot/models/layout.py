"""Channels last: how a convolution on a CPU wants images to lie in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from kshot.models.switch import Switch, differentiated_twice, single_task

_wanted = Switch("channels last")


@contextmanager
def channels_last() -> Iterator[None]:
    """Within it a Conv-4 lays out images on a CPU channels last, as it does in mode `loop`; not for what runs under
    `vmap`, which knows no memory formats, nor for steps of an inner loop that are differentiated through: channels last
    takes 0.5 to 0.8 of the time of a Conv-4's gradient, and 1.2 to 2.3 of its second derivative's.

    On two cores outer steps took 0.6 to 0.8 of their time (ProtoNet 60-way on Omniglot 0.64, ANIL 0.63, ridge head on
    CIFAR-FS 0.68, relation net 0.79, MAML in a loop 0.75); a ResNet-12 took 1.1 of it, so that leaves them as they are.
    """
    with _wanted.set():
        yield


def laid_out(x: Tensor) -> Tensor:
    """Images `[n, C, H, W]` in the layout that is wanted; convolutions hand it on."""
    wanted = _wanted.on or (single_task.on and not differentiated_twice.on)
    if torch.compiler.is_compiling() or not wanted or x.ndim != 4 or x.device.type != "cpu":
        return x
    # A copy rather than `contiguous`: images of one channel lie in both orders at once, and would go on in the other.
    return torch.empty_like(x, memory_format=torch.channels_last).copy_(x)
