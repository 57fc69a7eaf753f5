"""MAML on sinusoids (Finn et al. 2017, sec. 5.1): a small network, where calls cost more than numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kshot.bench.counting import count_work
from kshot.bench.peers import kshot_maml
from kshot.bench.peers.maml import peers
from kshot.bench.peers.problem import Batch, MamlProblem
from kshot.bench.workload import Contender, Count, Goal, Missing, Workload
from kshot.learners import MAML
from kshot.models import MLP
from kshot.randomness import seeded
from kshot.tasks import load

META_BATCH, SHOT, WIDTH, INNER_LR = 25, 10, 40, 0.01


class Sinusoid(Workload):
    """An MLP of two hidden layers of 40 units, meta-batch 25, 10 shots, the outer step of Adam included."""

    on_gpu = True

    def __init__(self, steps: int) -> None:
        self.name, self.steps, self.amount = f"sinusoid-{steps}", steps, META_BATCH
        self.title = f"MAML on sinusoids, MLP 1-40-40-1, {steps} inner step{'s' if steps > 1 else ''}"
        loops = ("plain loop", "higher", "torchopt", "learn2learn")
        self.goals = (Goal(("kshot vmap", "kshot compile"), loops, {1: 20, 5: 30}.get(steps, 20)),)
        if steps == 5:
            self.goals += (Goal(("kshot compile",), ("jax",), 1.0),)

    def contenders(self) -> Iterator[Contender | Missing]:
        source = load("sinusoids", shot=SHOT, query=SHOT)
        batches = [source.train.sample(META_BATCH, seed=0, step=step, device=self.device) for step in range(8)]
        weights = [p.detach().clone().to(self.device) for p in self._learner().parameters()]
        plain = [Batch.of(episodes) for episodes in batches]
        self.problem = MamlProblem(_network, _forward, _jax_forward, weights, False, INNER_LR, self.steps, plain)
        yield from peers(self.problem)
        for mode in ("loop", "vmap", "compile"):
            yield kshot_maml.contender(self._learner, batches, mode)

    def count(self) -> Count:
        return count_work(self.problem)

    def _learner(self) -> MAML:
        with seeded(0):
            return MAML(MLP(1, hidden=(WIDTH, WIDTH), out_features=1), inner_lr=INNER_LR, inner_steps=self.steps)


def _network() -> nn.Module:
    return nn.Sequential(nn.Linear(1, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))


def _forward(weights: Sequence[Tensor], x: Tensor) -> Tensor:
    for i in (0, 2):
        x = torch.relu(F.linear(x, weights[i], weights[i + 1]))
    return F.linear(x, weights[4], weights[5])


def _jax_forward(weights: Any, x: Any) -> Any:
    import jax

    for i in (0, 2):
        x = jax.nn.relu(x @ weights[i].T + weights[i + 1])
    return x @ weights[4].T + weights[5]
