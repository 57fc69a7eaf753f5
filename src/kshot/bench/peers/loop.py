"""MAML as published PyTorch code writes it: a loop over tasks, fast weights in a list, autograd through the updates."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot.bench.peers.problem import Batch, MamlProblem


class PlainLoop:
    """Task by task; one backward pass over the mean of their losses."""

    name = "plain loop"

    def __init__(self, problem: MamlProblem) -> None:
        self.problem = problem
        self.parameters = [nn.Parameter(w.clone()) for w in problem.weights]

    def backward(self, batch: Batch) -> Tensor:
        problem, losses = self.problem, []
        for t in range(batch.tasks):
            x, y = batch.support_x[t], batch.support_y[t]
            fast: list[Tensor] = list(self.parameters)
            for _ in range(problem.steps):
                loss = problem.loss(problem.forward(fast, x), y)
                gradients = torch.autograd.grad(loss, fast, create_graph=True)
                fast = [w - problem.lr * g for w, g in zip(fast, gradients, strict=True)]
            losses.append(problem.loss(problem.forward(fast, batch.query_x[t]), batch.query_y[t]))
        stacked = torch.stack(losses)
        stacked.mean().backward()
        return stacked


def head_loss(weight: Tensor, bias: Tensor, z: Tensor, y: Tensor, query: Tensor, labels: Tensor) -> Tensor:
    """ANIL's loss of one task's features: five steps of a linear head on the support set."""
    for _ in range(5):
        loss = F.cross_entropy(F.linear(z, weight, bias), y)
        gradients = torch.autograd.grad(loss, (weight, bias), create_graph=True)
        weight, bias = weight - 0.1 * gradients[0], bias - 0.1 * gradients[1]
    return F.cross_entropy(F.linear(query, weight, bias), labels)


class TaskwiseLoop(PlainLoop):
    """The same with a backward pass after each task, so that one task's graph is held at a time."""

    name = "plain loop, a backward pass a task"

    def backward(self, batch: Batch) -> Tensor:
        losses = [PlainLoop.backward(self, batch.task(t)) for t in range(batch.tasks)]
        for parameter in self.parameters:
            assert parameter.grad is not None
            parameter.grad /= batch.tasks
        return torch.cat(losses)
