"""Whole outer steps of learners whose features are shared by all tasks: ANIL and ProtoNet, Conv-4 included."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot.bench.counting import count
from kshot.bench.peers import kshot_maml
from kshot.bench.peers.loop import head_loss
from kshot.bench.peers.problem import Batch
from kshot.bench.workload import Answers, Contender, Count, Goal, Missing, Workload, flat
from kshot.bench.workloads import pictures
from kshot.bench.workloads.episodes import random_episodes
from kshot.engine import peak_memory
from kshot.episodes import Episodes
from kshot.learners import ANIL, Learner, ProtoNet
from kshot.models import Conv4
from kshot.randomness import seeded

KINKS = 5e-3
"""Relative difference of two gradients in float32: another order of sums moves a few maxima of Conv-4's pooling."""

Loss = Callable[[nn.Module, Sequence[Tensor], Batch], Tensor]
"""Of the backbone, the parameters after the backbone's, and one task."""


class Whole(Workload):
    """An outer step over some tasks of pictures.

    Args:
        name, title: of the workload.
        make: the learner.
        loss: of one task, in the style of published code: its support and query go through the backbone together.
        episodes: of a meta-batch, by seed.
        ratio: how many times as fast as task by task it is to be; None: no goal.
    """

    on_gpu = True

    def __init__(
        self,
        name: str,
        title: str,
        make: Callable[[], Learner],
        loss: Loss,
        episodes: Callable[[int], Episodes],
        ratio: float | None = None,
    ) -> None:
        self.name, self.title, self.make, self.loss, self.episodes = name, title, make, loss, episodes
        self.amount = len(episodes(0))
        ours = ("kshot native", "kshot loop", "kshot vmap", "kshot compile")
        self.goals = () if ratio is None else (Goal(ours, ("learn2learn's style",), ratio),)
        self.reference = "learn2learn's style" if ratio is not None else "plain loop"

    def contenders(self) -> Iterator[Contender | Missing]:
        batches = [self.episodes(seed).to(self.device) for seed in range(2)]
        self.plain = _PlainStep(self._learner(), self.loss, [Batch.of(e) for e in batches])
        yield self.plain.contender(self.reference)
        learner = self._learner()
        for mode in [*learner.modes, *(["native"] if learner.native else [])]:
            yield kshot_maml.contender(self._learner, batches, mode, tolerance=KINKS)

    def count(self) -> Count:
        return count(self.plain.backward)

    def _learner(self) -> Learner:
        with seeded(0):
            return self.make()


class _PlainStep:
    """Task by task, a backward pass each."""

    def __init__(self, learner: Learner, loss: Loss, batches: list[Batch]) -> None:
        device = batches[0].device
        learner, self.backbone = learner.to(device), pictures.network(None).to(device)
        self.loss, self.batches = loss, batches
        shared = dict(learner.backbone.named_parameters(prefix="backbone"))  # type: ignore[union-attr]
        with torch.no_grad():
            for own, given in zip(self.backbone.parameters(), shared.values(), strict=True):
                own.copy_(given)
        others = [nn.Parameter(p.detach().clone()) for n, p in learner.named_parameters() if n not in shared]
        # In the learner's own order, so that gradients can be compared.
        first = next(iter(dict(learner.named_parameters()))) in shared
        own_parameters = list(self.backbone.parameters())
        self.others, self.parameters = others, own_parameters + others if first else others + own_parameters
        self.optimizer = torch.optim.Adam(self.parameters, 1e-3)
        self.cycle = itertools.cycle(batches)

    def backward(self, batch: Batch | None = None) -> Tensor:
        batch = batch or self.batches[0]
        self.optimizer.zero_grad()
        losses = []
        for t in range(batch.tasks):
            loss = self.loss(self.backbone, self.others, batch.task(t))
            (loss / batch.tasks).backward()
            losses.append(loss.detach())
        return torch.stack(losses)

    def contender(self, name: str) -> Contender:
        def step() -> None:
            self.backward(next(self.cycle))
            self.optimizer.step()

        def answers() -> Answers:
            losses = self.backward()
            return {"losses": losses, "meta-gradient": flat(p.grad for p in self.parameters)}

        return Contender(name, step, answers, peak=lambda: peak_memory(self.backward, self.batches[0].device))


def _features(backbone: nn.Module, task: Batch) -> tuple[Tensor, Tensor]:
    support = task.support_x[0]
    both = backbone(torch.cat([support, task.query_x[0]]))
    return both[: len(support)], both[len(support) :]


def anil_loss(backbone: nn.Module, others: Sequence[Tensor], task: Batch) -> Tensor:
    """Five steps on the head (learn2learn's `examples/vision/anil_fc100.py`: features first, then a clone of the
    head)."""
    weight, bias = others
    z, q = _features(backbone, task)
    return head_loss(weight, bias, z, task.support_y[0], q, task.query_y[0])


def protonet_loss(backbone: nn.Module, others: Sequence[Tensor], task: Batch) -> Tensor:
    """Prototypes and squared distances."""
    z, q = _features(backbone, task)
    y = task.support_y[0]
    prototypes = torch.stack([z[y == k].mean(0) for k in range(int(y.max()) + 1)])
    return F.cross_entropy(-(q[:, None] - prototypes).square().sum(-1), task.query_y[0])


def wholes() -> list[tuple[str, Callable[[], Workload]]]:
    """The workloads, by name."""

    def tasks(number: int, way: int, shot: int, query: int) -> Callable[[int], Episodes]:
        return lambda seed: random_episodes(number, way, shot, query, pictures.SHAPE, seed)

    return [
        ("anil", lambda: Whole(
            "anil", "ANIL, Conv-4, 5-way 1-shot, 15 queries, 5 steps on the head", lambda: ANIL(Conv4(), way=5),
            anil_loss, tasks(8, 5, 1, 15), 1.3,
        )),
        ("protonet-5w5s", lambda: Whole(
            "protonet-5w5s", "ProtoNet, Conv-4, 5-way 5-shot, 15 queries", lambda: ProtoNet(Conv4()), protonet_loss,
            tasks(8, 5, 5, 15),
        )),
        ("protonet-60w1s", lambda: Whole(
            "protonet-60w1s", "ProtoNet, Conv-4, 60-way 1-shot, 5 queries, as its authors train it",
            lambda: ProtoNet(Conv4()), protonet_loss, tasks(1, 60, 1, 5),
        )),
    ]  # fmt: skip
