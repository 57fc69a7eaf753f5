"""`auto`: the engine mode that is fastest here, found by measuring, without touching random state or buffers.

Conv-4 MAML is fastest in a plain loop on a CPU, where per-task convolution weights become slow grouped convolutions
under `vmap`; a small MLP is an order of magnitude faster under `vmap` and more so compiled. So it is measured, never
assumed.
"""

from __future__ import annotations

import shutil
import time

import torch

from kshot.engine.hooks import Hooks, as_module
from kshot.engine.tasks import task_losses
from kshot.episodes import Episodes

COMPILE_SECONDS = 60.0
"""What compiling one graph costs, about; paid back only by a long run."""


def has_compiler() -> bool:
    """Whether a C++ compiler is there for inductor's CPU kernels."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def candidates(learner: Hooks) -> list[str]:
    """The modes worth measuring without a compilation: `native` stands for `vmap` where a learner has both."""
    modes = ["native"] if learner.native else []
    modes += [mode for mode in ("loop", "vmap") if mode in learner.modes and not (mode == "vmap" and learner.native)]
    return modes


def choose(learner: Hooks, episodes: Episodes, *, steps: int | None = None, repeats: int = 2) -> str:
    """Measures the losses and meta-gradients of `episodes` in each mode and returns the fastest mode's name.

    Args:
        steps: how many such steps are to come. `compile` is considered only where compiling pays within them.
    """
    modes = candidates(learner)
    if len(modes) == 1 and not _may_compile(learner, episodes):
        return modes[0]
    seconds = {mode: measure(learner, episodes, mode, repeats) for mode in modes}
    best = min(seconds, key=lambda mode: seconds[mode])
    # Compilation gains at most the eager time itself; below that it cannot pay for itself.
    if _may_compile(learner, episodes) and steps is not None and steps * seconds[best] / 2 > COMPILE_SECONDS:
        seconds["compile"] = measure(learner, episodes, "compile", repeats)
        best = min(seconds, key=lambda mode: seconds[mode])
    return best


def _may_compile(learner: Hooks, episodes: Episodes) -> bool:
    return "compile" in learner.modes and (episodes.device.type != "cpu" or has_compiler())


def measure(learner: Hooks, episodes: Episodes, mode: str, repeats: int = 2) -> float:
    """Seconds of one forward and backward pass in a mode, the best of `repeats` after a warm-up."""
    module = as_module(learner)
    parameters = [p for p in module.parameters() if p.requires_grad]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    devices = [episodes.device] if episodes.device.type == "cuda" else []
    best = float("inf")
    with torch.random.fork_rng(devices):
        for i in range(repeats + 1):
            start = time.perf_counter()
            losses = task_losses(learner, episodes, mode)
            if losses.requires_grad:
                torch.autograd.grad(losses.mean(), parameters, allow_unused=True)
            if devices:
                torch.cuda.synchronize()
            if i:
                best = min(best, time.perf_counter() - start)
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    return best
