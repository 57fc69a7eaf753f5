"""The machine: what it is, and the most that it can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from kshot.training.environment import environment


@dataclass(frozen=True)
class Ceilings:
    """Measured, with as many threads as torch uses.

    Attributes:
        flops: operations a second of a product of two square float32 matrices.
        bytes: read and written a second by a copy that no cache holds.
    """

    flops: float
    bytes: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def measure_ceilings(size: int = 1024, seconds: float = 0.5, device: torch.device | str = "cpu") -> Ceilings:
    """The best of some repetitions: a ceiling is what is possible, not what is usual."""
    device = torch.device(device)
    size *= 8 if device.type == "cuda" else 1
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    out = torch.empty_like(a)
    flops = 2 * size**3 / _best(lambda: torch.mm(a, b, out=out), seconds, device)
    source = torch.randn(32 * 2**20, device=device)  # 128 MiB, beyond any cache
    target = torch.empty_like(source)
    moved = 2 * source.numel() * source.element_size()
    return Ceilings(flops, moved / _best(lambda: target.copy_(source), seconds, device))


def describe(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The machine and the versions, JSON-able, without the host's name."""
    found = environment(torch.device(device))
    keys = ("kshot", "python", "packages", "platform", "cpu", "cores", "threads", "commit", "gpu")
    return {key: found[key] for key in keys if key in found}


def _best(work: Callable[[], object], seconds: float, device: torch.device) -> float:
    def finished() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    finished()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        finished()
        best = min(best, time.perf_counter() - began)
    return best
