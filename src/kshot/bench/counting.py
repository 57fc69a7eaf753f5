"""How much work there is in a computation, however it is done: operations, and bytes that operators read and write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from kshot.bench.peers.loop import PlainLoop
from kshot.bench.peers.problem import MamlProblem
from kshot.bench.workload import Count

_VIEWS = (
    "view",
    "expand",
    "transpose",
    "t.default",
    "unsqueeze",
    "squeeze",
    "detach",
    "permute",
    "select",
    "slice",
    "alias",
)


def count(work: Callable[[], object]) -> Count:
    """Runs `work` once and counts.

    Operations are those of matrix products and convolutions (a multiplication and an addition are two). Bytes are those
    of the tensors that each operator is given and gives back, views apart: what memory would have to move if nothing
    stayed in a cache and nothing was fused.
    """
    with FlopCounterMode(display=False) as flops, Operators() as operators:
        work()
    return Count(int(flops.get_total_flops()), operators.bytes)


def count_work(problem: MamlProblem) -> Count:
    """What a meta-gradient consists of, as the plain loop does it."""
    peer = PlainLoop(problem)
    return count(lambda: peer.backward(problem.batches[0]))


class Operators(TorchDispatchMode):
    """Counts the operators that reach a kernel.

    Attributes:
        number: of them.
        bytes: of the tensors that each is given and gives back, views apart.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.number = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        result = func(*args, **(kwargs or {}))
        if not any(name in str(func) for name in _VIEWS):
            tensors = [t for t in pytree.tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return result
