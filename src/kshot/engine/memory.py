"""How much memory a computation takes: the bytes that torch holds at its peak."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch.utils import _pytree as pytree

from kshot.errors import UnsupportedError


def peak_memory(function: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """The most bytes that torch's tensors take at once while `function` runs, beyond what was there before.

    On a CPU the profiler's records of each allocation and release are added up; libraries' scratch space that torch
    does not allocate is not seen. On a GPU it is the allocator's own statistics, which are reset by it.

    Args:
        function: without arguments; runs once.
        device: where its tensors are.

    Raises:
        UnsupportedError: a kind of device whose allocations torch does not record.

    >>> peak_memory(lambda: torch.ones(1000) + torch.ones(1000))  # two vectors of 4 bytes a number, and their sum
    12000
    """
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return max(0, torch.cuda.max_memory_allocated(device) - before)
    if kind != "cpu":
        raise UnsupportedError(f"expected the device cpu or cuda to measure memory on, got {kind}")
    from torch.profiler import ProfilerActivity, profile

    # Without it, torch 2.13's profiler says on stderr that it starts and stops. It is read at the first profile.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        function()
    results = found.profiler.kineto_results
    # Releases have negative sizes. Events are not in the order of time, but those of one time are.
    changes = sorted(
        ((event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]"),
        key=lambda change: change[0],
    )
    held = peak = 0
    for _, size in changes:
        held += size
        peak = max(peak, held)
    return peak


def tensor_bytes(tree: object) -> int:
    """The bytes of all tensors of a pytree."""
    return sum(leaf.numel() * leaf.element_size() for leaf in pytree.tree_leaves(tree) if torch.is_tensor(leaf))
