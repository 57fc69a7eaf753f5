"""MAML of a Conv-4 on Omniglot's tasks: the case that `vmap` does not make faster on a CPU."""

from __future__ import annotations

from collections.abc import Iterator

from kshot.bench.counting import count_work
from kshot.bench.peers import kshot_maml
from kshot.bench.peers.loop import TaskwiseLoop
from kshot.bench.peers.maml import peers
from kshot.bench.peers.problem import Batch, MamlProblem, outer_loop
from kshot.bench.workload import Contender, Count, Goal, Missing, Workload
from kshot.bench.workloads import pictures
from kshot.bench.workloads.episodes import random_episodes
from kshot.learners import MAML
from kshot.models import Conv4
from kshot.randomness import seeded

QUERY, INNER_LR = 15, 0.4
KINKS = 2e-2
"""Relative difference of two gradients in float32, whose rounding moves maxima of the pooling: 3e-3 between JAX and the
plain loop at 20-way 5-shot, 9e-5 at 5-way 1-shot."""


LITTLE_LR = 0.01
"""Of many steps: with more, rounding grows from step to step, and answers could not be compared."""

COARSE = 0.5
"""The same for bf16, which has 8 bits: 0.15 at 5-way 1-shot, 0.35 at 20-way 5-shot. What it does to accuracy is told by
benchmarks/precision.py."""


class Conv4Maml(Workload):
    """One inner step, second order, 15 queries a class, normalised by the batch at hand, the outer step included."""

    on_gpu = True

    def __init__(self, way: int, shot: int, meta_batch: int) -> None:
        self.name, self.way, self.shot, self.amount = f"conv4-maml-{way}w{shot}s", way, shot, meta_batch
        self.title = f"MAML on pictures of Omniglot's size, Conv-4, {way}-way {shot}-shot, 1 inner step"
        self.tolerance = KINKS if way == 20 else 0.0
        self.goals = (
            Goal(("kshot loop", "kshot vmap", "kshot compile"), ("plain loop",), 1.2),
            Goal(("kshot loop bf16", "kshot vmap bf16"), ("plain loop",), 1.5),
            Goal(("kshot loop", "kshot vmap", "kshot compile"), ("jax", "jax, in turn"), 1.0),
        )

    def contenders(self) -> Iterator[Contender | Missing]:
        tasks = int(self.amount)
        batches = [
            random_episodes(tasks, self.way, self.shot, QUERY, pictures.SHAPE, seed).to(self.device)
            for seed in range(2)
        ]
        weights = [p.detach().clone().to(self.device) for p in self._learner().parameters()]
        self.problem = MamlProblem(
            lambda: pictures.network(self.way), pictures.forward, pictures.jax_forward, weights, True, INNER_LR, 1,
            [Batch.of(episodes) for episodes in batches],
        )  # fmt: skip
        yield from peers(self.problem, in_turn=self.way == 5)  # it would take minutes of a 20-way step
        yield outer_loop(TaskwiseLoop(self.problem), self.problem)
        for mode in ("loop", "vmap", "compile"):
            yield kshot_maml.contender(self._learner, batches, mode)
        yield kshot_maml.contender(self._learner, batches, "compile", chunk=1, name="kshot compile, a task at once")
        for mode in ("loop", "compile"):
            yield kshot_maml.contender(
                self._learner, batches, mode, chunk=1, amp="bf16", name=f"kshot {mode} bf16", tolerance=COARSE
            )

    def count(self) -> Count:
        return count_work(self.problem)

    def _learner(self) -> MAML:
        with seeded(0):
            return MAML(Conv4(), way=self.way, inner_lr=INNER_LR, inner_steps=1, norm="batch")


class ManySteps(Workload):
    """One task, 20 inner steps, second order: what the steps of an inner loop leave in memory."""

    name = "maml-20-steps"
    title = "MAML with 20 inner steps on one task of pictures, Conv-4, 5-way 1-shot: memory"
    goals = (
        Goal(("kshot loop, recomputing",), ("plain loop",), 0.4, what="memory"),
        Goal(("kshot loop, recomputing",), ("plain loop",), 1 / 1.5),
    )
    tolerance = KINKS

    def contenders(self) -> Iterator[Contender | Missing]:
        batches = [random_episodes(1, 5, 1, QUERY, pictures.SHAPE)]
        weights = [p.detach().clone() for p in self._learner().parameters()]
        problem = MamlProblem(
            lambda: pictures.network(5), pictures.forward, pictures.jax_forward, weights, True, LITTLE_LR, 20,
            [Batch.of(episodes) for episodes in batches],
        )  # fmt: skip
        for peer in peers(problem):
            if peer.name != "jax":  # minutes of compiling, and its memory is not torch's to be measured
                yield peer
        yield kshot_maml.contender(self._learner, batches, "loop")
        name = "kshot loop, recomputing"
        yield kshot_maml.contender(self._learner, batches, "loop", recompute=True, name=name)

    def _learner(self) -> MAML:
        with seeded(0):
            return MAML(Conv4(), way=5, inner_lr=LITTLE_LR, inner_steps=20, norm="batch")
