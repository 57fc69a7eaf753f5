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
        run: without synchronisation within.
        inputs: to record it with.
    """

    def __init__(self, run: Run, inputs: Sequence[Tensor]) -> None:
        self.inputs = [t.clone() for t in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries set themselves up before anything is recorded
            for _ in range(3):
                run(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = list(run(*self.inputs))

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
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
