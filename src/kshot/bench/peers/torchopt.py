"""MAML with TorchOpt (Ren et al. 2023), as in its examples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kshot.bench.peers.problem import Batch, MamlProblem


class TorchOpt:
    """A differentiable optimizer that moves the network itself, and takes it back after each task."""

    name = "torchopt"

    def __init__(self, problem: MamlProblem) -> None:
        import torchopt

        self.torchopt: Any = torchopt
        self.problem, self.network = problem, problem.network()
        self.parameters = list(self.network.parameters())
        self.inner = torchopt.MetaSGD(self.network, lr=problem.lr)

    def backward(self, batch: Batch) -> Tensor:
        torchopt, losses = self.torchopt, []
        network, optimizer = (torchopt.extract_state_dict(part, by="reference") for part in (self.network, self.inner))
        for t in range(batch.tasks):
            for _ in range(self.problem.steps):
                self.inner.step(self.problem.loss(self.network(batch.support_x[t]), batch.support_y[t]))
            loss = self.problem.loss(self.network(batch.query_x[t]), batch.query_y[t])
            losses.append(loss)
            torchopt.recover_state_dict(self.network, network)
            torchopt.recover_state_dict(self.inner, optimizer)
        stacked = torch.stack(losses)
        stacked.mean().backward()
        return stacked
