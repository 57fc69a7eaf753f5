"""kshot itself: the outer step of a `Trainer`, in each engine mode."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch

from kshot import engine
from kshot.bench.workload import Answers, Contender, flat
from kshot.engine import peak_memory
from kshot.episodes import Episodes, first_tensor
from kshot.learners import Learner
from kshot.training.optimizers import make_optimizer, make_schedule
from kshot.training.step import OuterStep, autocast


def contender(
    make: Callable[[], Learner],
    meta_batches: Sequence[Episodes],
    mode: str,
    *,
    lr: float = 1e-3,
    chunk: int | None = None,
    amp: str | None = None,
    recompute: bool = False,
    name: str | None = None,
    tolerance: float = 1e-3,
    tolerances: Mapping[str, float] | None = None,
) -> Contender:
    """A learner's outer step in a mode, as training takes it. What `compile` cannot compile runs as `vmap` does, and
    a `CompileWarning` says so: whoever times it makes that an error first (`engine.compiling_fails`).

    Args:
        make: the learner, with the weights where all begin.
        meta_batches: that the steps take in turn.
        chunk: tasks at once.
        amp: mixed precision.
        recompute: computes inner steps again in the backward pass.
        name: `"kshot MODE"` otherwise.
        tolerance, tolerances: of its answers.
    """
    device = first_tensor(meta_batches[0].support.x).device
    learner = make().to(device).train()
    optimizer = make_optimizer("adam", learner.parameters(), lr)
    schedule = make_schedule("constant", optimizer, 10**9)
    outer = OuterStep(
        learner, optimizer, schedule, mode=mode, chunk=chunk, amp=amp, clip=None, device=device, recompute=recompute
    )
    batches = itertools.cycle(meta_batches)
    size = len(meta_batches[0])

    def step() -> None:
        outer([next(batches)], size)

    def answers() -> Answers:
        losses, total = [], [torch.zeros_like(p) for p in learner.parameters()]
        for part in meta_batches[0].chunks(chunk):
            with autocast(amp, device), engine.recomputing(recompute):
                found, gradients = engine.meta_gradient(learner, part, mode, 1 / size)
            losses.append(found.float())
            total = [a if g is None else a + g for a, g in zip(total, gradients, strict=True)]
        return {"losses": torch.cat(losses), "meta-gradient": flat(total)}

    return Contender(
        name or f"kshot {mode}",
        step,
        answers,
        peak=lambda: peak_memory(answers, device),
        tolerance=tolerance,
        tolerances=tolerances or {},
        ours=True,
        precision=amp or "float32",
    )
