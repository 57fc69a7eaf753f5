"""Several processes that train together: each works on some of the tasks, their gradients are added.

`torchrun --nproc-per-node N -m kshot train ...` starts them. Tasks depend on (seed, step, task number) alone, so each
process samples its own part of every meta-batch, and any number of them train on the same tasks. What they tell each
other is one sum of a flat vector a step; nothing is pickled.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kshot.errors import ElsewhereError, KshotError, LostProcessError
from kshot.processes import place

TIMEOUT = timedelta(hours=1)
"""How long a process waits for the others: longer than any step, validation or compilation. One that dies is noticed
at once, its connection being closed; this is for one that hangs."""

ROUNDING = 1e-4
"""Relative difference of weights that machines of several kinds come to by rounding."""


@dataclass
class Traffic:
    """What a process has told the others.

    Attributes:
        calls: sums, and what one tells all.
        bytes: of the vectors in them.
        seconds: spent in them, the waiting included.
    """

    calls: int = 0
    bytes: int = 0
    seconds: float = 0.0


@dataclass
class Group:
    """The processes that train together.

    Attributes:
        rank: of this process, from 0 on.
        size: how many there are; a group of one does nothing.
        device: where what is told has to be.
        traffic: what was told so far.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, number: int) -> range:
        """Which of `number` tasks are this process's: the first processes have one more where that is uneven."""
        each, more = divmod(number, self.size)
        first = self.rank * each + min(self.rank, more)
        return range(first, first + each + (self.rank < more))

    def sum(self, vector: Tensor) -> Tensor:
        """The sum of a vector over all processes, bit by bit the same in each of them.

        Raises:
            LostProcessError: one of them is gone.
        """
        if self.size == 1:
            return vector
        moved = vector.to(self.device).contiguous()
        with self._told(moved):
            dist.all_reduce(moved)
        return moved.to(vector.device)

    def tell(self, value: bytes | None) -> bytes:
        """What the leading process says, to all.

        Raises:
            LostProcessError: one of them is gone.
        """
        if self.size == 1:
            assert value is not None
            return value
        length = torch.tensor([len(value) if value is not None else 0], dtype=torch.int64, device=self.device)
        with self._told(length):
            dist.broadcast(length, src=0)
        content = torch.empty(int(length), dtype=torch.uint8, device=self.device)
        if value is not None and len(value):
            content.copy_(torch.frombuffer(bytearray(value), dtype=torch.uint8))
        if len(content):
            with self._told(content):
                dist.broadcast(content, src=0)
        return content.cpu().numpy().tobytes()

    def tell_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Gives the tensors of all processes the values of the leading one's, in place."""
        if self.size == 1:
            return
        for tensor in tensors.values():
            moved = tensor.detach().to(self.device).contiguous()
            with self._told(moved):
                dist.broadcast(moved, src=0)
            with torch.no_grad():
                tensor.copy_(moved)

    def first(self, work: Callable[[], Any]) -> Any:
        """What a function returns in the leading process, JSON-able, known to all; it runs nowhere else.

        Raises:
            ElsewhereError: in the others, where it failed there.
        """
        if self.size == 1:
            return work()
        if not self.leads:
            answer = json.loads(self.tell(None))
            if "error" in answer:
                raise ElsewhereError(answer["error"])
            return answer["value"]
        try:
            value = work()
        except BaseException as error:
            self.tell(json.dumps({"error": str(error) or type(error).__name__}).encode())
            raise
        self.tell(json.dumps({"value": value}).encode())
        return value

    def check_same(self, value: float, what: str) -> bool:
        """Whether a number is the same in all processes, to the last bit.

        Raises:
            KshotError: it differs by more than rounding explains.
        """
        if self.size == 1:
            return True
        both = torch.tensor([value, -value], dtype=torch.float64, device=self.device)
        with self._told(both):
            dist.all_reduce(both, op=dist.ReduceOp.MAX)
        most, least = float(both[0]), -float(both[1])
        if not math.isclose(most, least, rel_tol=ROUNDING) and not (math.isnan(most) and math.isnan(least)):
            raise KshotError(
                f"{what} differ between the {self.size} processes ({most!r} and {least!r}): a "
                "learner or a callback does something in one of them alone. Go on from the last checkpoint"
            )
        return most == least

    @contextlib.contextmanager
    def _told(self, tensor: Tensor) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        except (RuntimeError, dist.DistError) as error:
            raise LostProcessError(
                f"one of the {self.size} processes that train together is gone ({_short(error)})"
            ) from error
        self.traffic.calls += 1
        self.traffic.bytes += tensor.numel() * tensor.element_size()
        self.traffic.seconds += time.perf_counter() - began


_joined: Group | None = None


def join(device: torch.device | None = None) -> Group:
    """The group of this process: those that `torchrun` started together, or itself alone.

    Where the process group of torch.distributed is there already, it is taken as it is.

    Args:
        device: that the learner is on; a GPU's processes talk through NCCL, others through Gloo.

    Raises:
        LostProcessError: the others cannot be reached.
    """
    global _joined
    if not dist.is_available():
        return Group()
    if not dist.is_initialized():
        if place().size == 1:
            return Group()
        gpu = device is not None and device.type == "cuda"
        if gpu:
            torch.cuda.set_device(device)  # what NCCL takes to be this process's
            # Else a sum returns before it is done: who is gone is noticed elsewhere, and no waiting is counted.
            os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=TIMEOUT)
        except (RuntimeError, dist.DistError) as error:
            raise LostProcessError(
                f"the processes that torchrun started cannot reach each other ({_short(error)}): check "
                "--rdzv-endpoint, or --master-addr and --master-port, and that nothing blocks the port"
            ) from error
    if _joined is None or _joined.size != dist.get_world_size():
        gpu = device is not None and device.type == "cuda" and "nccl" in str(dist.get_backend())
        _joined = Group(dist.get_rank(), dist.get_world_size(), device if gpu and device else torch.device("cpu"))
    return _joined


def leave() -> None:
    """Ends the process group, where there is one, when all are ready: the last thing that a command does."""
    global _joined
    _joined = None
    if dist.is_available() and dist.is_initialized():
        with contextlib.suppress(RuntimeError, dist.DistError):
            dist.barrier()  # who leaves first takes the others' connections along
            dist.destroy_process_group()


def _short(error: Exception) -> str:
    """What a backend says, without where in its sources it says so."""
    text = str(error)
    found = re.search(r"Connection \w+( by peer)?|[Tt]im(ed ?out|eout)[^.\n]{0,60}", text)
    return found[0] if found else (text.splitlines() or [type(error).__name__])[0][:120]
