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


def measure_ceilings(size: int = 1024, seconds: float = 0.5) -> Ceilings:
    """The best of some repetitions: a ceiling is what is possible, not what is usual."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    out = torch.empty(size, size)
    flops = 2 * size**3 / _best(lambda: torch.mm(a, b, out=out), seconds)
    source = torch.randn(32 * 2**20)  # 128 MiB, beyond any cache
    target = torch.empty_like(source)
    moved = 2 * source.numel() * source.element_size()
    return Ceilings(flops, moved / _best(lambda: target.copy_(source), seconds))


def describe() -> dict[str, Any]:
    """The machine and the versions, JSON-able, without the host's name."""
    found = environment(torch.device("cpu"))
    return {key: found[key] for key in ("kshot", "python", "packages", "platform", "cpu", "cores", "threads", "commit")}


def _best(work: Callable[[], object], seconds: float) -> float:
    work()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best
