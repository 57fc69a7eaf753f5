"""The machine: what it is, and the most that it can do."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from kshot.training.environment import environment, has_bf16


@dataclass(frozen=True)
class Ceilings:
    """Measured, with as many threads as torch uses.

    Attributes:
        flops: operations a second of a product of two square float32 matrices; on a GPU without TF32.
        bytes: read and written a second by a copy that no cache holds.
        bf16_flops: the same as `flops` of bf16 matrices.
    """

    flops: float
    bytes: float
    bf16_flops: float

    def flops_in(self, precision: str) -> float:
        """The ceiling of what computes in a precision. A machine without units for bf16 takes longer for it than for
        float32, in which the same work could be done: the ceiling is the higher of the two."""
        return max(self.flops, self.bf16_flops) if precision == "bf16" else self.flops

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def measure_ceilings(size: int = 1024, seconds: float = 0.5, device: torch.device | str = "cpu") -> Ceilings:
    """The best of some repetitions: a ceiling is what is possible, not what is usual."""
    device = torch.device(device)
    size *= 8 if device.type == "cuda" else 1
    bf16_size = size if device.type == "cuda" or has_bf16() else size // 4  # emulated, at 1 GFLOP/s or so

    def product(dtype: torch.dtype, size: int) -> float:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        return 2 * size**3 / _best(lambda: torch.mm(a, b, out=out), seconds, device)

    with full_float32():
        flops, bf16_flops = product(torch.float32, size), product(torch.bfloat16, bf16_size)
    source = torch.randn(32 * 2**20, device=device)  # 128 MiB, beyond any cache
    target = torch.empty_like(source)
    moved = 2 * source.numel() * source.element_size()
    return Ceilings(flops, moved / _best(lambda: target.copy_(source), seconds, device), bf16_flops)


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """On a GPU, too, float32 is float32 inside the context. As torch comes, products are, and convolutions are in TF32,
    of 10 bits: they would be above the ceiling of a product, and their gradients too coarse to be compared."""
    # The older of torch's two ways to say so: parts of torch still ask in it, and it fails where both were used.
    settings: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [setting.allow_tf32 for setting in settings]
    try:
        for setting in settings:
            setting.allow_tf32 = False
        yield
    finally:
        for setting, allowed in zip(settings, before, strict=True):
            setting.allow_tf32 = allowed


def describe(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The machine and the versions, JSON-able, without the host's name."""
    found = environment(torch.device(device))
    keys = ("kshot", "python", "packages", "platform", "cpu", "instructions", "cores", "threads", "commit")
    kept = {key: found[key] for key in keys if key in found}
    if torch.device(device).type == "cuda":
        kept |= {"gpu": found["gpu"], "cuda": found["cuda"], "tf32": False}  # `full_float32`
    return kept


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
