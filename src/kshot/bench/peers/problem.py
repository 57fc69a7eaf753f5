"""A MAML problem as every library can be handed it, and the outer step that those on PyTorch share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot.bench.workload import Answers, Contender, flat
from kshot.engine import peak_memory
from kshot.episodes import Episodes, first_tensor

OUTER_LR = 1e-3


class Batch(NamedTuple):
    """A meta-batch as plain tensors, each `[T, n, ...]`."""

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor

    @classmethod
    def of(cls, episodes: Episodes) -> Batch:
        return cls(
            first_tensor(episodes.support.x), episodes.support.y, first_tensor(episodes.query.x), episodes.query.y
        )

    @property
    def device(self) -> torch.device:
        return self.support_x.device

    @property
    def tasks(self) -> int:
        return len(self.support_y)

    def task(self, t: int) -> Batch:
        """One task of it, as a meta-batch."""
        return Batch(*(part[t : t + 1] for part in self))


@dataclass(frozen=True)
class MamlProblem:
    """MAML on some tasks: `steps` of gradient descent on the support set, Adam on the loss of the query set.

    Attributes:
        module: makes the network, in plain PyTorch.
        forward: the same as a function of its parameters, in their order, and the inputs.
        jax_forward: the same for JAX.
        weights: its parameters, where all begin.
        classes: whether labels are classes (cross entropy) or values (mean squared error).
        lr, steps: of the inner loop.
        batches: that the steps take in turn; no task has padding.
    """

    module: Callable[[], nn.Module]
    forward: Callable[[Sequence[Tensor], Tensor], Tensor]
    jax_forward: Callable[[Any, Any], Any]
    weights: Sequence[Tensor]
    classes: bool
    lr: float
    steps: int
    batches: Sequence[Batch]

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(output, y) if self.classes else F.mse_loss(output, y)

    def network(self) -> nn.Module:
        """A network with the weights where all begin."""
        made = self.module().to(self.weights[0].device)
        with torch.no_grad():
            for parameter, value in zip(made.parameters(), self.weights, strict=True):
                parameter.copy_(value)
        return made


class Peer(Protocol):
    """A way to the meta-gradient on PyTorch."""

    name: str
    parameters: list[nn.Parameter]

    def backward(self, batch: Batch) -> Tensor:
        """Adds the gradient of the mean loss over the tasks to the parameters'; returns the losses."""


def outer_loop(peer: Peer, problem: MamlProblem) -> Contender:
    """A peer with Adam around it."""
    optimizer = torch.optim.Adam(peer.parameters, OUTER_LR)
    batches: Iterator[Batch] = itertools.cycle(problem.batches)

    def step() -> None:
        optimizer.zero_grad()
        peer.backward(next(batches))
        optimizer.step()

    def answers() -> Answers:
        optimizer.zero_grad()
        losses = peer.backward(problem.batches[0])
        return {"losses": losses.detach(), "meta-gradient": flat(p.grad for p in peer.parameters)}

    def peak() -> int:
        optimizer.zero_grad()
        return peak_memory(lambda: peer.backward(problem.batches[0]), problem.batches[0].device)

    return Contender(peer.name, step, answers, peak=peak)
