"""Heads over features that are given: adaptation, loss, and the gradient back to the features, many tasks at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot import engine
from kshot.bench.counting import count
from kshot.bench.peers import kshot_maml
from kshot.bench.peers.loop import head_loss
from kshot.bench.workload import Answers, Contender, Count, Goal, Missing, Workload, flat
from kshot.bench.workloads.episodes import Scaling, random_episodes
from kshot.learners import ANIL, SNAIL, InContextTransformer, Learner, LSTMLearner, ProtoNet, RidgeNet
from kshot.randomness import seeded

WAY, QUERY, SIZE = 5, 15, 64

Task = tuple[Tensor, Tensor, Tensor, Tensor]
Loss = Callable[[Sequence[Tensor], Task], Tensor]
"""Of a learner's parameters, in their order, and a task's support and query, x and y each."""


class Heads(Workload):
    """5-way tasks with 15 queries a class, of 64 features.

    Args:
        name: of the workload.
        title: what the head is.
        make: the learner over features.
        shot: labelled examples of a class.
        tasks: of a meta-batch.
        ratio: how many times as fast as task by task it is to be.
        loss: of one task, written out by hand; None where the learner's own hooks, one task after another, are what
            there is to compare with.
    """

    unit = "tasks"
    on_gpu = True

    def __init__(
        self,
        name: str,
        title: str,
        make: Callable[[], Learner],
        shot: int,
        tasks: int,
        ratio: float,
        loss: Loss | None = None,
    ) -> None:
        self.name, self.title, self.amount = name, f"{title}, 5-way {shot}-shot", tasks
        self.make, self.shot, self.loss = make, shot, loss
        self.reference = "kshot loop" if loss is None else "plain loop"
        self.goals = (Goal(("kshot native", "kshot vmap", "kshot compile"), (self.reference,), ratio),)

    def contenders(self) -> Iterator[Contender | Missing]:
        batches = [
            random_episodes(int(self.amount), WAY, self.shot, QUERY, (SIZE,), seed).to(self.device) for seed in range(4)
        ]
        learner = self._learner().to(self.device)
        if self.loss is not None:
            tasks: list[Task] = [(t.support.x, t.support.y, t.query.x, t.query.y) for t in batches[0]]  # type: ignore[misc]
            yield _by_hand(self.loss, list(learner.parameters()), tasks)
        modes = [mode for mode in ("loop", "vmap", "compile") if mode in learner.modes]
        for mode in [*modes, *(["native"] if learner.native else [])]:
            yield kshot_maml.contender(self._learner, batches, mode)
        self.counted = lambda: engine.meta_gradient(learner, batches[0], "loop")

    def count(self) -> Count:
        return count(self.counted)

    def _learner(self) -> Learner:
        with seeded(0):
            return self.make()


def _by_hand(loss: Loss, parameters: list[nn.Parameter], tasks: list[Task]) -> Contender:
    optimizer = torch.optim.Adam(parameters, 1e-3)

    def backward() -> Tensor:
        optimizer.zero_grad()
        losses = torch.stack([loss(parameters, task) for task in tasks])
        losses.mean().backward()
        return losses.detach()

    def step() -> None:
        backward()
        optimizer.step()

    def answers() -> Answers:
        losses = backward()
        return {"losses": losses, "meta-gradient": flat(p.grad for p in parameters)}

    return Contender("plain loop", step, answers)


def _prototypes(parameters: Sequence[Tensor], task: Task) -> Tensor:
    (weight,) = parameters
    x, y, query, labels = task
    z = x * weight
    prototypes = torch.stack([z[y == k].mean(0) for k in range(WAY)])
    return F.cross_entropy(-torch.cdist(query * weight, prototypes).square(), labels)


def _ridge(parameters: Sequence[Tensor], task: Task) -> Tensor:
    strength, scale, bias, weight = parameters
    x, y, query, labels = task
    z, q = (torch.cat([v * weight, v.new_ones(len(v), 1)], 1) for v in (x, query))
    gram = z @ z.T + strength.exp() * torch.eye(len(z), device=z.device)
    head = z.T @ torch.linalg.solve(gram, F.one_hot(y, WAY).float())
    return F.cross_entropy(scale.exp() * (q @ head) + bias, labels)


def _anil(parameters: Sequence[Tensor], task: Task) -> Tensor:
    scaling, weight, bias = parameters
    x, y, query, labels = task
    return head_loss(weight, bias, x * scaling, y, query * scaling, labels)


def heads() -> list[tuple[str, Callable[[], Workload]]]:
    """The workloads of heads, by name."""
    made: list[tuple[str, Callable[[], Workload]]] = []

    def of(name: str, title: str, *how: Any) -> None:
        made.append((name, functools.partial(Heads, name, f"{title} on given features", *how)))

    for shot in (1, 5):
        of(f"prototypes-{shot}s", "Prototypes", lambda: ProtoNet(Scaling(SIZE)), shot, 64, 10, _prototypes)
        of(f"ridge-{shot}s", "The ridge head", lambda: RidgeNet(Scaling(SIZE)), shot, 64, 10, _ridge)
        of(f"anil-head-{shot}s", "ANIL's head, 5 steps,", lambda: ANIL(Scaling(SIZE), way=WAY), shot, 64, 10, _anil)
    transformer = lambda: InContextTransformer(Scaling(SIZE), way=WAY)  # noqa: E731
    of("in-context", "The in-context transformer", transformer, 1, 32, 10)
    of("lstm", "The LSTM learner", lambda: LSTMLearner(Scaling(SIZE), way=WAY), 1, 32, 5)
    of("snail", "SNAIL", lambda: SNAIL(Scaling(SIZE), way=WAY), 1, 32, 5)
    return made
