"""Tensors on their way to a device."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device | str | None) -> Tensor:
    """A tensor of the CPU on a device; itself where that is the CPU.

    For a CUDA device it is copied from pinned memory, so that whoever sends it does not wait: the copy takes its place
    in the device's own order of work, before all that uses it.
    """
    if device is None or torch.device(device).type == "cpu":
        return tensor
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
