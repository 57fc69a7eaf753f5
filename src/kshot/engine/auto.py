"""`auto`: the engine mode that is fastest here, found by measuring, without touching random state or buffers.

Conv-4 MAML is fastest in a plain loop on some CPUs, where per-task convolution weights become slow grouped convolutions
under `vmap`; a small MLP is an order of magnitude faster under `vmap` and more so compiled. So it is measured, never
assumed. And `compile` is never trusted: compilers have silent faults (`check_compiled`).
"""

from __future__ import annotations

import contextlib
import functools
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kshot.engine.compiled import CompileWarning, reason, unexplained
from kshot.engine.hooks import Hooks, as_module
from kshot.engine.meta_gradient import meta_gradient
from kshot.engine.recomputing import is_recomputing
from kshot.episodes import Episodes
from kshot.errors import UnsupportedError

SECONDS_PER_OPERATOR = 0.02
"""What compiling costs for each operator of a graph and its gradient, about, on two cores: from 5 s for a Conv-4
ProtoNet (485 operators) to 65 s for a Conv-4 MAML (1,640). Paid back only by a long run."""

HOPELESS = 5.0
"""A mode whose first pass takes so many times as long as another mode's best is not measured further: hundreds of tasks
of a small MLP would have a loop run for most of a minute."""

LONG = 60.0
"""Seconds of compiling that a user is told of beforehand."""


def has_compiler() -> bool:
    """Whether a C++ compiler is there for inductor's CPU kernels."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def candidates(learner: Hooks) -> list[str]:
    """The modes worth measuring without a compilation, those first that are seldom slow by orders of magnitude:
    `native` stands for `vmap` where a learner has both."""
    modes = ["native"] if learner.native else []
    modes += [mode for mode in ("vmap", "loop") if mode in learner.modes and not (mode == "vmap" and learner.native)]
    return modes


def choose(
    learner: Hooks,
    episodes: Episodes,
    *,
    steps: int | None = None,
    repeats: int = 2,
    say: Callable[[str], None] = lambda _: None,
) -> str:
    """Measures the losses and meta-gradients of `episodes` in each mode and returns the fastest mode's name.

    Args:
        steps: how many such steps are to come. `compile` is considered only where compiling pays within them, and taken
            only where it computes the same.
        say: is told that compiling will take its time, and why `compile` was given up.
    """
    modes = candidates(learner)
    if len(modes) == 1 and not _may_compile(learner, episodes):
        return modes[0]
    seconds: dict[str, float] = {}
    for mode in modes:
        limit = HOPELESS * min(seconds.values(), default=math.inf)
        seconds[mode] = measure(learner, episodes, mode, repeats, limit)
    best = min(seconds, key=lambda mode: seconds[mode])
    price = math.inf if steps is None else compile_seconds(learner, episodes)
    # Compilation gains at most the eager time itself; below that it cannot pay for itself.
    if steps is None or steps * seconds[best] / 2 <= price:
        return best
    if price > LONG:
        say(f"trying mode compile, which takes about {price / 60:.0f} min; mode={best!r} begins at once")
    try:
        with compiling_fails():
            if measure(learner, episodes, "compile", repeats) < seconds[best]:
                check_compiled(learner, episodes)
                return "compile"
    except Exception as error:  # whatever the compiler met: the run goes on without it
        say(f"mode compile is not used, {best} is: {reason(error)}")
    return best


def compile_seconds(learner: Hooks, episodes: Episodes) -> float:
    """About how long it takes to compile a learner's losses and meta-gradient, which grows with the size of the graph;
    infinitely long where they cannot be compiled."""
    if not _may_compile(learner, episodes):
        return math.inf
    mode = "vmap" if "vmap" in learner.modes else candidates(learner)[0]
    operators = _Operators()  # type: ignore[no-untyped-call]
    with operators:
        losses_and_gradient(learner, episodes, mode)
    return SECONDS_PER_OPERATOR * operators.number


def check_compiled(learner: Hooks, episodes: Episodes) -> None:
    """Compares the compiled losses and meta-gradient of `episodes` with those of `vmap`.

    A learner that draws random numbers cannot be compared, and is not.

    Raises:
        CompileWarning: they cannot be compiled.
        UnsupportedError: they differ by more than rounding explains.
    """
    reference = "vmap" if "vmap" in learner.modes else "loop"
    losses, gradient = losses_and_gradient(learner, episodes, reference, seed=0)
    if not torch.equal(losses, losses_and_gradient(learner, episodes, reference, seed=1)[0]):
        return
    with compiling_fails():
        compiled, compiled_gradient = losses_and_gradient(learner, episodes, "compile")

    @functools.cache
    def precise() -> tuple[Tensor, Tensor]:
        with torch.autocast(losses.device.type, enabled=False):
            return losses_and_gradient(learner, episodes, reference)

    errors = (
        unexplained([compiled], [losses], lambda: [precise()[0]]),
        unexplained([compiled_gradient], [gradient], lambda: [precise()[1]]),
    )
    worst = max((error for error in errors if error is not None), default=None)
    if worst is not None:
        raise UnsupportedError(
            f"torch.compile (torch {torch.__version__}) gets another loss or meta-gradient for "
            f"{type(learner).__name__} than {reference} does ({compiled.mean():.4f} and {losses.mean():.4f}; relative "
            f"difference {worst:.1e}): use mode={reference!r}, or 'auto', which compares"
        )


def losses_and_gradient(
    learner: Hooks, episodes: Episodes, mode: str, seed: int | None = None
) -> tuple[Tensor, Tensor]:
    """The losses `[T]` of raw episodes and the flat gradient of their mean; random state and buffers are as before."""
    module = as_module(learner)
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        with torch.random.fork_rng([episodes.device] if episodes.device.type == "cuda" else []):
            if seed is not None:
                torch.manual_seed(seed)
            losses, gradients = meta_gradient(learner, episodes, mode)
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    pairs = zip(learner.parameters(), gradients, strict=True)
    flat = [torch.zeros_like(p) if g is None else g for p, g in pairs if p.requires_grad]
    return losses, torch.cat([g.flatten() for g in flat]) if flat else torch.zeros(0)


@contextlib.contextmanager
def compiling_fails() -> Iterator[None]:
    """What cannot be compiled is an error inside the context, a `CompileWarning`, in place of running uncompiled."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompileWarning)
        yield


def measure(learner: Hooks, episodes: Episodes, mode: str, repeats: int = 2, limit: float = math.inf) -> float:
    """Seconds of one forward and backward pass in a mode, the best of `repeats` after a warm-up; of the warm-up itself
    where that took longer than `limit`."""
    best = math.inf
    for i in range(repeats + 1):
        start = time.perf_counter()
        losses_and_gradient(learner, episodes, mode)
        if episodes.device.type == "cuda":
            torch.cuda.synchronize()
        took = time.perf_counter() - start
        if i:
            best = min(best, took)
        elif took > limit:
            return took
    return best


def _may_compile(learner: Hooks, episodes: Episodes) -> bool:
    if is_recomputing():
        return False  # a compiled graph keeps what it likes
    if learner.unrolls:
        return False  # over every example of a sequence: its graph would take many minutes to compile
    return "compile" in learner.modes and (episodes.device.type != "cpu" or has_compiler())


class _Operators(TorchDispatchMode):
    """Counts the operators that are run."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return func(*args, **(kwargs or {}))
