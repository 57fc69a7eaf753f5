"""Many tasks of unseen classes, evaluated with an inductive metric learner."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kshot import engine, metrics
from kshot.bench.counting import count
from kshot.bench.workload import Answers, Contender, Count, Goal, Missing, Workload
from kshot.engine import FeatureCache
from kshot.learners import Learner, ProtoNet
from kshot.models import Conv4
from kshot.randomness import seeded
from kshot.tasks import load

FEW, AT_ONCE = 20, 50


class Evaluation(Workload):
    """ProtoNet, Conv-4, 5-way 5-shot with 15 queries, tasks of the test classes of glyphs. The loop's tasks are there
    before it is timed; kshot samples its own.

    Operations and bytes are those of one task of the loop, times the tasks: each embeds its own examples. kshot embeds
    the pool once, so that its shares of the ceilings, credited with all of that, are beyond 100 %.

    Args:
        tasks: that kshot evaluates, from the first on; the loop does some of them, since it takes the same time for
            each.
    """

    unit = "tasks"
    reference = "easyfsl's style"

    def __init__(self, tasks: int) -> None:
        self.name, self.tasks, self.amount = f"evaluation-{tasks}", tasks, tasks
        self.title = f"Evaluation of {tasks:,} tasks, ProtoNet, Conv-4, 5-way 5-shot, 15 queries"
        self.goals = (Goal(("kshot",), ("easyfsl's style",), 10),)

    def contenders(self) -> Iterator[Contender | Missing]:
        split = load("glyphs", way=5, shot=5, query=15).test
        with seeded(0):
            learner: Learner = ProtoNet(Conv4()).eval()
            backbone: nn.Module = learner.backbone  # type: ignore[assignment]
        few = [split.sample(1, seed=0, first=t)[0] for t in range(FEW)]

        @torch.no_grad()
        def loop(number: int = FEW) -> Tensor:
            """What easyfsl's `evaluate` does: a model that keeps prototypes, then scores, task by task."""
            scores = []
            for task in few[:number]:
                z, y = backbone(task.support.x), task.support.y
                prototypes = torch.stack([z[y == k].mean(0) for k in range(5)])
                logits = -torch.cdist(backbone(task.query.x), prototypes)
                scores.append((logits.argmax(1) == task.query.y).float().mean())
            return torch.stack(scores)

        def ours(number: int) -> Tensor:
            cache, scores = FeatureCache(learner), []
            for first in range(0, number, AT_ONCE):
                episodes = split.sample(min(AT_ONCE, number - first), seed=0, first=first)
                outputs = engine.predict_queries(learner, episodes, "native", cache=cache)
                scores.append(metrics.score(outputs, episodes.query, learner.outputs))
            return torch.cat(scores)

        def answers(scores: Tensor) -> Answers:
            return {"accuracies": scores}

        self.counted = lambda: loop(1)
        yield Contender(self.reference, loop, lambda: answers(loop()), amount=FEW)
        yield Contender("kshot", lambda: ours(self.tasks), lambda: answers(ours(FEW)), ours=True)

    def count(self) -> Count:
        return count(self.counted).times(self.tasks)
