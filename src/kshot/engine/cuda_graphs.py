"""Replaying a compiled graph on a GPU: its kernels are launched all at once, where launching each took longer than it.

A small network's step is hundreds of kernels of a few microseconds each. What is recorded once (a CUDA graph) is
launched in one call; its inputs and outputs lie in the same place each time, so both are copied. Whether that pays is
measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Run = Callable[..., Sequence[Tensor]]

CALLS = 5
"""Of each, to see which is quicker."""


class Replayed:
    """A function of tensors on a GPU, recorded for inputs of one shape.

    Args:
        run: without synchronisation within, and without random numbers.
        inputs: to record it with; they lie on the device that it computes on.

    Raises:
        RuntimeError: it cannot be recorded, or computes something else when it is replayed with other inputs.
    """

    def __init__(self, run: Run, inputs: Sequence[Tensor]) -> None:
        self.device = inputs[0].device
        self.inputs = [t.clone() for t in inputs]
        with torch.cuda.device(self.device):  # whose streams are meant: the current device is another one's, often
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # libraries set themselves up before anything is recorded
                for _ in range(3):
                    run(*self.inputs)
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            # What other threads do meanwhile, one that samples ahead, is no part of it.
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.outputs = list(run(*self.inputs))
        others = [t.flip(0) if t.ndim else t for t in inputs]
        # A recording without a kernel in it would be quick, and give the same answers for ever.
        if not all(
            torch.allclose(a, b, rtol=1e-2, atol=1e-6) for a, b in zip(self(*others), run(*others), strict=True)
        ):
            raise RuntimeError("a replay computes something else than what was recorded")

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        with torch.cuda.device(self.device):
            for own, given in zip(self.inputs, inputs, strict=True):
                own.copy_(given, non_blocking=True)
            self.graph.replay()
            return [t.clone() for t in self.outputs]  # the next call writes over them


def quicker(
    run: Run,
    record: Callable[[], Run],
    inputs: Sequence[Tensor],
    wait: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
) -> Run:
    """What is recorded, where that can be and takes less time; what there is otherwise.

    Args:
        run: what there is.
        record: makes the other one. May fail: not everything can be recorded.
        wait: until the device is done.
    """
    try:
        recorded = record()
        return min((run, recorded), key=lambda each: _seconds(each, inputs, wait, clock))
    except RuntimeError:
        return run


def _seconds(run: Run, inputs: Sequence[Tensor], wait: Callable[[], object], clock: Callable[[], float]) -> float:
    run(*inputs)
    wait()
    began = clock()
    for _ in range(CALLS):
        run(*inputs)
    wait()
    return clock() - began
