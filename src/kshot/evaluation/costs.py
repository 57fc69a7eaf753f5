"""What an adaptation costs: its time, and the memory of what it returns."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from kshot import engine
from kshot.evaluation.scores import device_of
from kshot.learners.base import Learner, evaluating
from kshot.tasks.split import TaskSplit

TASKS, WARM_UP, SECONDS = 30, 3, 10.0
"""Adaptations that are measured, those before them, and the time after which no further one is begun."""


@dataclass(frozen=True)
class Cost:
    """Of the adaptation to one task.

    Attributes:
        seconds: the median of one adaptation to a raw support set, its features included.
        bytes: of the tensors in what `adapt` returned.
    """

    seconds: float
    bytes: int


def adaptation_cost(learner: Learner, split: TaskSplit, *, seed: int = 1, tasks: int = TASKS) -> Cost:
    """Adapts to some tasks of a split, one at a time, in eval mode.

    Args:
        tasks: at most so many, after the warm-up; fewer where they take long.
    """
    device = device_of(learner)
    times: list[float] = []
    began = time.perf_counter()
    with evaluating(learner), torch.no_grad():
        for number in range(WARM_UP + tasks):
            if len(times) > WARM_UP and time.perf_counter() - began > SECONDS:
                break
            episodes = split.sample(1, seed=seed, first=number, device=None if device.type == "cpu" else device)
            support = episodes.widen(learner.way).support[0]
            _wait(device)
            start = time.perf_counter()
            adapted: Any = learner.adapt(engine.featured(learner, support))
            _wait(device)
            times.append(time.perf_counter() - start)
    return Cost(statistics.median(times[WARM_UP:]), engine.tensor_bytes(adapted))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
