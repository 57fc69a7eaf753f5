"""MAML of a Conv-4 on Omniglot's tasks: the case that `vmap` does not make faster on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

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
from kshot.training import environment

QUERY, INNER_LR = 15, 0.4
KINKS = 2e-2
"""Relative difference of two gradients in float32, whose rounding moves maxima of the pooling: 3e-3 between JAX and the
plain loop at 20-way 5-shot, 9e-5 at 5-way 1-shot."""


LITTLE_LR = 0.01
"""Of many steps: with more, rounding grows from step to step, and answers could not be compared."""

BF16_LOSSES, BF16_GRADIENT = 5e-2, {5: 0.25, 20: 0.5}
"""The same for bf16, which has 8 bits: losses, and the meta-gradient by way. Losses differ by 1.3e-2 at most. Of the
meta-gradient little more than its direction can be asserted, compiled or not, since uncompiled it differs by 0.15 at
5-way 1-shot and by 0.35 at 20-way 5-shot: a mistake of that size would not be seen here. A compiled graph is also held
against the traced one when it is made (`kshot.engine.compiled.check_same`); what bf16 does to accuracy is told by
benchmarks/precision.py."""

OURS = ("kshot loop", "kshot vmap", "kshot compile", "kshot compile, a task at once")
OURS_BF16 = ("kshot loop bf16", "kshot compile bf16")
LOOPS = ("plain loop", "plain loop, a backward pass a task", "higher", "torchopt", "learn2learn")


class Conv4Maml(Workload):
    """One inner step, second order, 15 queries a class, normalised by the batch at hand, the outer step included."""

    on_gpu = True

    def __init__(self, way: int, shot: int, meta_batch: int) -> None:
        self.name, self.way, self.shot, self.amount = f"conv4-maml-{way}w{shot}s", way, shot, meta_batch
        self.title = f"MAML on pictures of Omniglot's size, Conv-4, {way}-way {shot}-shot, 1 inner step"
        self.tolerance = KINKS if way == 20 else 0.0
        self.goals = (
            Goal(OURS, ("plain loop",), 1.2),
            Goal(OURS_BF16, ("plain loop",), 1.5),
            Goal(OURS, ("jax", "jax, in turn"), 1.0),
        )
        if meta_batch > 1:  # of a single task there is nothing to do at once
            self.gpu_goals = (Goal(OURS, LOOPS, 10),)

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
        bounds = {"losses": BF16_LOSSES, "meta-gradient": BF16_GRADIENT[self.way]}
        for mode, name in zip(("loop", "compile"), OURS_BF16, strict=True):
            if self.device.type == "cpu" and not environment.has_bf16():  # ten times as slow says nothing of anything
                yield Missing(name, f"this CPU has no instructions for bf16 ({environment.instructions()})")
                continue
            yield kshot_maml.contender(self._learner, batches, mode, chunk=1, amp="bf16", name=name, tolerances=bounds)

    def count(self) -> Count:
        return count_work(self.problem)

    def _learner(self) -> MAML:
        with seeded(0):
            return MAML(Conv4(), way=self.way, inner_lr=INNER_LR, inner_steps=1, norm="batch")


class ManySteps(Workload):
    """One task, 20 inner steps, second order: what the steps of an inner loop leave in memory. Operations and bytes are
    the plain loop's (what recomputing does once more is not among them), counted with one step and with two: each
    further one adds the same."""

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
        self.problem = MamlProblem(
            lambda: pictures.network(5), pictures.forward, pictures.jax_forward, weights, True, LITTLE_LR, 20,
            [Batch.of(episodes) for episodes in batches],
        )  # fmt: skip
        for peer in peers(self.problem):
            if peer.name != "jax":  # minutes of compiling, and its memory is not torch's to be measured
                yield peer
        yield kshot_maml.contender(self._learner, batches, "loop")
        name = "kshot loop, recomputing"
        yield kshot_maml.contender(self._learner, batches, "loop", recompute=True, name=name)

    def count(self) -> Count:
        one, two = (count_work(replace(self.problem, steps=steps)) for steps in (1, 2))
        further = self.problem.steps - 1
        return Count(one.flops + further * (two.flops - one.flops), one.bytes + further * (two.bytes - one.bytes))

    def _learner(self) -> MAML:
        with seeded(0):
            return MAML(Conv4(), way=5, inner_lr=LITTLE_LR, inner_steps=20, norm="batch")
