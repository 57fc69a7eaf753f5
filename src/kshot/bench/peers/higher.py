"""MAML with `higher` (Grefenstette et al. 2019), as in its examples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kshot.bench.peers.problem import Batch, MamlProblem


class Higher:
    """A functional copy of the network a task, and a differentiable optimizer."""

    name = "higher"

    def __init__(self, problem: MamlProblem) -> None:
        import higher

        self.higher: Any = higher
        self.problem, self.network = problem, problem.network()
        self.parameters = list(self.network.parameters())
        self.inner = torch.optim.SGD(self.parameters, lr=problem.lr)

    def backward(self, batch: Batch) -> Tensor:
        losses = []
        for t in range(batch.tasks):
            with self.higher.innerloop_ctx(self.network, self.inner, copy_initial_weights=False) as (copy, optimizer):
                for _ in range(self.problem.steps):
                    optimizer.step(self.problem.loss(copy(batch.support_x[t]), batch.support_y[t]))
                loss = self.problem.loss(copy(batch.query_x[t]), batch.query_y[t])
                (loss / batch.tasks).backward()
                losses.append(loss.detach())
        return torch.stack(losses)
