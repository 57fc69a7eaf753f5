"""MAML with learn2learn (Arnold et al. 2020), where it is installed; it no longer builds on current Pythons."""

from __future__ import annotations

import torch
from torch import Tensor

from kshot.bench.peers.problem import Batch, MamlProblem


class Learn2Learn:
    """A clone of the network a task."""

    name = "learn2learn"

    def __init__(self, problem: MamlProblem) -> None:
        import learn2learn

        self.problem = problem
        self.maml = learn2learn.algorithms.MAML(problem.network(), lr=problem.lr, first_order=False)
        self.parameters = list(self.maml.parameters())

    def backward(self, batch: Batch) -> Tensor:
        losses = []
        for t in range(batch.tasks):
            clone = self.maml.clone()
            for _ in range(self.problem.steps):
                clone.adapt(self.problem.loss(clone(batch.support_x[t]), batch.support_y[t]))
            loss = self.problem.loss(clone(batch.query_x[t]), batch.query_y[t])
            (loss / batch.tasks).backward()
            losses.append(loss.detach())
        return torch.stack(losses)
