"""Training for a given time.

What counts is the time of outer steps, the sampling of their tasks included. Choosing the engine mode, measuring the
pace, compiling and validating do not. The learning rate's schedule is laid over the steps that the pace promises, and
walks over them with the time that has gone by: it ends where the budget does, also on a machine that becomes slower or
faster meanwhile.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from kshot import engine
from kshot.engine.auto import compile_seconds
from kshot.episodes import Episodes
from kshot.evaluation.contestants import Built
from kshot.evaluation.scores import Progress
from kshot.learners.base import Learner
from kshot.metrics import Interval
from kshot.tasks.source import TaskSource
from kshot.training.callbacks import Callback
from kshot.training.optimizers import schedule_factor
from kshot.training.step import autocast, resolve_device
from kshot.training.validation import validate

if TYPE_CHECKING:
    from kshot.training.trainer import Trainer

WARM_UP, MEASURED = 2, 7
"""Outer steps before the pace is measured, and those that are."""

POINTS = 6
"""Validations of a training, about, besides the one before it."""

FASTER = 20
"""A training makes at most so many times the steps that its pace promises."""


@dataclass(frozen=True)
class Point:
    """A validation: seconds of training and steps so far, and the score on the val tasks."""

    seconds: float
    step: int
    score: Interval


@dataclass(frozen=True)
class Timed:
    """What came of a training for a given time.

    Attributes:
        seconds: of outer steps.
        steps: that were made.
        best_step: the one whose weights were selected.
        mode: of the engine.
        peak_bytes: the most that torch allocated in one outer step, losses and their gradient; None where that cannot
            be measured.
        curve: validations in their order, the first one before the training.
    """

    seconds: float
    steps: int
    best_step: int
    mode: str
    peak_bytes: int | None
    curve: tuple[Point, ...]


def train_for(
    seconds: float, built: Built, *, val_tasks: int, device: str = "auto", progress: Progress | None = None
) -> Timed:
    """Trains a contestant's learner for that long; it ends with the weights that are best on val tasks.

    Raises:
        KshotError: the learner cannot be trained on these tasks, or diverged.
    """
    from kshot.training.config import build_trainer

    learner, source, training = built.learner, built.source, built.config.training
    learner.to(resolve_device(device)).train()
    learner.begin_step(0)
    episodes = source.train.sample(training.meta_batch, seed=training.seed, device=resolve_device(device))
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    mode, pace = _mode_and_pace(seconds, built, episodes, device)
    with autocast(training.amp, episodes.device):
        peak = _peak(learner, episodes, mode)
    _restore(learner, before)
    first = validate(learner, source.val, val_tasks, mode=mode)
    steps = max(1, round(seconds / pace))
    clock = Clock(seconds, progress)
    result = build_trainer(
        built.config,
        learner,
        source,
        steps=FASTER * steps,
        mode=mode,
        device=device,
        schedule=over_time(training.schedule, clock, steps, training.warmup),
        warmup=0,
        val_every=math.ceil(steps / POINTS),
        val_tasks=val_tasks,
        callbacks=[clock],
        progress=False,
        out=None,
    ).fit()
    return Timed(
        seconds=clock.spent,
        steps=result.steps,
        best_step=result.best_step,
        mode=mode,
        peak_bytes=peak,
        curve=(Point(0.0, 0, first), *clock.curve),
    )


@dataclass
class Clock(Callback):
    """The time of outer steps, and the validations between them.

    Attributes:
        limit: seconds after which the training is stopped: after the step that ends nearest to it.
        progress: called with how much of that time has gone by, in percent.
        least: steps before it may be stopped.
        seconds: of each step.
        spent: of all steps so far.
        curve: the validations.
    """

    limit: float
    progress: Progress | None = None
    least: int = 1
    seconds: list[float] = field(default_factory=list)
    spent: float = 0.0
    curve: list[Point] = field(default_factory=list)
    _last: float = 0.0

    def on_start(self, trainer: Trainer) -> None:
        self._last = perf_counter()

    def on_step(self, trainer: Trainer, step: int, metrics: Mapping[str, Any]) -> None:
        now = perf_counter()
        self.seconds.append(now - self._last)
        self.spent += now - self._last
        self._last = now
        if self.progress is not None:
            self.progress("% of training", min(100, int(100 * self.spent / self.limit)), 100)
        if step >= self.least and self.spent + self.seconds[-1] / 2 >= self.limit:
            trainer.stop()

    def on_validation(self, trainer: Trainer, step: int, score: Interval) -> None:
        self.curve.append(Point(self.spent, step, score))
        self._last = perf_counter()  # what the validation took does not count


def over_time(choice: Any, clock: Clock, steps: int, warmup: int) -> Callable[[Optimizer, int], LambdaLR]:
    """A named schedule of so many steps that goes on with the clock in place of the steps."""
    factor = schedule_factor(choice, steps, warmup)

    def schedule(optimizer: Optimizer, _: int) -> LambdaLR:
        return LambdaLR(optimizer, lambda _: factor(int(steps * clock.spent / clock.limit)))

    return schedule


def _mode_and_pace(seconds: float, built: Built, episodes: Episodes, device: str) -> tuple[str, float]:
    """The engine mode, and the seconds of an outer step in it."""
    training = built.config.training
    if training.mode != "auto":
        return training.mode, _pace(seconds, built, training.mode, device)
    with autocast(training.amp, episodes.device):
        mode = engine.choose(built.learner, episodes)
    pace = _pace(seconds, built, mode, device)
    if seconds / 2 > compile_seconds(built.learner, episodes):
        with autocast(training.amp, episodes.device):
            compiled = engine.choose(built.learner, episodes, steps=round(seconds / pace))
        if compiled != mode:
            mode, pace = compiled, _pace(seconds, built, compiled, device)
    return mode, pace


def _pace(seconds: float, built: Built, mode: str, device: str) -> float:
    """Seconds of an outer step: the median of a few, of which slow ones are fewer."""
    from kshot.training.config import build_trainer

    source = built.source
    only = TaskSource(
        source.name,
        {"train": source.train},
        example_shape=source.example_shape,
        transform=source.transform,
        spec=source.spec,
    )
    clock = Clock(seconds / 10, least=WARM_UP + 1)
    build_trainer(
        built.config,
        built.learner,
        only,
        steps=WARM_UP + MEASURED,
        mode=mode,
        device=device,
        callbacks=[clock],
        progress=False,
        out=None,
    ).fit()
    return statistics.median(clock.seconds[WARM_UP:]) if clock.seconds else seconds


def _peak(learner: Learner, episodes: Episodes, mode: str) -> int | None:
    if episodes.device.type not in ("cpu", "cuda"):
        return None
    learner.train()
    return engine.peak_memory(lambda: engine.losses_and_gradient(learner, episodes, mode), episodes.device)


def _restore(learner: Learner, state: Mapping[str, torch.Tensor]) -> None:
    """The learner as it was before its pace was measured."""
    learner.load_state_dict(dict(state))
    learner.provenance = {}
    learner.begin_step(0)
    learner.train()
