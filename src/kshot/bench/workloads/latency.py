"""From a new task's examples to predictions: one task, and a thousand that belong to a thousand users."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from kshot import engine
from kshot.bench.counting import count
from kshot.bench.workload import Contender, Count, Missing, Workload
from kshot.bench.workloads import pictures
from kshot.bench.workloads.episodes import Scaling, random_episodes
from kshot.episodes import Episodes, stack_inputs
from kshot.learners import ANIL, Learner, ProtoNet, adapt
from kshot.models import Conv4
from kshot.randomness import seeded


class OneTask(Workload):
    """A 5-way 5-shot task of pictures, adapted to by a ProtoNet, and one prediction."""

    name = "latency-1"
    title = "Adaptation and a prediction of one 5-way 5-shot task, ProtoNet, Conv-4"
    reference = "plain PyTorch"

    def contenders(self) -> Iterator[Contender | Missing]:
        task = random_episodes(1, 5, 5, 1, pictures.SHAPE)[0]
        with seeded(0):
            learner = ProtoNet(Conv4()).eval()
        x, y, query = task.support.x, task.support.y, task.query.x

        @torch.no_grad()
        def plain() -> Tensor:
            assert isinstance(x, Tensor)
            z = learner.backbone(x)
            prototypes = torch.stack([z[y == k].mean(0) for k in range(5)])
            return F.softmax(-torch.cdist(learner.backbone(query), prototypes).square(), -1)

        def ours() -> Tensor:
            probabilities: Tensor = adapt(learner, task.support).probabilities(query)
            return probabilities

        self.counted = plain
        yield Contender("plain PyTorch", plain, lambda: {"probabilities": plain()})
        yield Contender("kshot", ours, lambda: {"probabilities": ours()}, ours=True)

    def count(self) -> Count:
        return count(self.counted)


class ManyTasks(Workload):
    """5-way 5-shot tasks of 64 features, each of another user: a head is made for every one, and asked five
    queries. Operations and bytes are counted over ten of them, one by one, and are a hundred times as many."""

    reference = "one by one"
    amount = 1000

    def __init__(self, name: str, title: str, learner: type[Learner]) -> None:
        self.name, self.learner = name, learner
        self.title = f"1,000 tasks of 1,000 users, adapted and asked: {title}"

    def contenders(self) -> Iterator[Contender | Missing]:
        with seeded(0):
            learner = (ANIL(Scaling(64), way=5) if self.learner is ANIL else self.learner(Scaling(64))).eval()  # type: ignore[call-arg]
        tasks: list[Episodes] = list(random_episodes(1000, 5, 5, 1, (64,)))

        @torch.no_grad()
        def alone(number: int = len(tasks)) -> Tensor:
            return torch.stack([learner.predict(learner.adapt(t.support), t.query.x) for t in tasks[:number]])

        def stacked() -> Tensor:
            states = engine.adapt_tasks(learner, [task.support for task in tasks])
            outputs: Tensor = engine.predict_tasks(learner, states, stack_inputs([task.query.x for task in tasks]))
            return outputs

        self.counted = lambda: alone(10)
        yield Contender("one by one", alone, lambda: {"outputs": alone()}, ours=True)
        yield Contender("kshot, stacked", stacked, lambda: {"outputs": stacked()}, ours=True)

    def count(self) -> Count:
        return count(self.counted).times(100)


def latencies() -> list[tuple[str, Callable[[], Workload]]]:
    """The workloads, by name."""
    return [
        ("latency-1", OneTask),
        ("latency-1000-prototypes", lambda: ManyTasks("latency-1000-prototypes", "prototypes", ProtoNet)),
        ("latency-1000-anil", lambda: ManyTasks("latency-1000-anil", "ANIL's head, 5 steps", ANIL)),
    ]
