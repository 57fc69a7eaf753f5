"""Training for a given time: the number of steps follows from the pace, so that schedules end where they should.

What counts is the time of outer steps, the sampling of their tasks included. Choosing the engine mode, measuring the
pace, compiling and validating do not.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from kshot import engine
from kshot.engine.auto import COMPILE_SECONDS
from kshot.episodes import Episodes
from kshot.evaluation.contestants import Built
from kshot.evaluation.scores import Progress
from kshot.learners.base import Learner
from kshot.metrics import Interval
from kshot.tasks.source import TaskSource
from kshot.training.callbacks import Callback
from kshot.training.step import autocast, resolve_device
from kshot.training.validation import validate

if TYPE_CHECKING:
    from kshot.training.trainer import Trainer

WARM_UP, MEASURED = 2, 7
"""Outer steps before the pace is measured, and those that are."""

POINTS = 6
"""Validations of a training, besides the one before it."""

OVER = 1.2
"""A training is ended that takes so much longer than its budget: the machine has become slower."""


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
        stopped: whether it was ended since it took too long.
        curve: validations in their order, the first one before the training.
    """

    seconds: float
    steps: int
    best_step: int
    mode: str
    peak_bytes: int | None
    stopped: bool
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
    clock = Clock(OVER * seconds, progress)
    result = build_trainer(
        built.config,
        learner,
        source,
        steps=steps,
        mode=mode,
        device=device,
        val_every=math.ceil(steps / POINTS),
        val_tasks=val_tasks,
        callbacks=[clock],
        progress=False,
        out=None,
    ).fit()
    return Timed(
        seconds=sum(clock.seconds),
        steps=result.steps,
        best_step=result.best_step,
        mode=mode,
        peak_bytes=peak,
        stopped=result.stopped,
        curve=(Point(0.0, 0, first), *clock.curve),
    )


@dataclass
class Clock(Callback):
    """The time of outer steps, and the validations between them.

    Attributes:
        limit: seconds after which the training is stopped.
        progress: called with the steps done.
        least: steps before it may be stopped.
        seconds: of each step.
        curve: the validations.
    """

    limit: float
    progress: Progress | None = None
    least: int = 1
    seconds: list[float] = field(default_factory=list)
    curve: list[Point] = field(default_factory=list)
    _last: float = 0.0

    def on_start(self, trainer: Trainer) -> None:
        self._last = time.perf_counter()

    def on_step(self, trainer: Trainer, step: int, metrics: Mapping[str, Any]) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now
        if self.progress is not None:
            self.progress("training", step, trainer.settings.steps)
        if step >= self.least and sum(self.seconds) > self.limit:
            trainer.stop()

    def on_validation(self, trainer: Trainer, step: int, score: Interval) -> None:
        self.curve.append(Point(sum(self.seconds), step, score))
        self._last = time.perf_counter()  # what the validation took does not count


def _mode_and_pace(seconds: float, built: Built, episodes: Episodes, device: str) -> tuple[str, float]:
    """The engine mode, and the seconds of an outer step in it."""
    training = built.config.training
    if training.mode != "auto":
        return training.mode, _pace(seconds, built, training.mode, device)
    with autocast(training.amp, episodes.device):
        mode = engine.choose(built.learner, episodes)
    pace = _pace(seconds, built, mode, device)
    if seconds / 2 > COMPILE_SECONDS:
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
