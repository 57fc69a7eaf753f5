"""One trial: a training with some values, watched by the pruner, scored at its end."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import torch

from kshot.artifacts.plain import finite
from kshot.errors import ArtifactError, DivergedError, KshotError, RunError
from kshot.evaluation.scores import iter_scores
from kshot.evaluation.text import duration, show
from kshot.metrics import METRICS, Interval
from kshot.sweep.held_out import CONFIRM_SEED
from kshot.sweep.spec import SweepSpec, short
from kshot.sweep.study import CONFIRM, DIVERGED, FOLDER, GOES_ON, REASON, SECONDS, VAL, take_over
from kshot.tasks.source import TaskSource
from kshot.tasks.split import TaskSplit
from kshot.training.callbacks import Callback
from kshot.training.config import build_learner, build_source, build_trainer
from kshot.training.trainer import Trainer, TrainResult

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import Trial


class Unusable(Exception):
    """A trial that failed for a reason of its own, which is recorded."""


class Pruning(Callback):
    """Tells the study every validation, and stops a trial that is not worth its time."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.pruned_at = trial, 0

    def on_validation(self, trainer: Trainer, step: int, score: Interval) -> None:
        # Optuna compares numbers: a score that is none is worse than any.
        worst = math.inf if trainer.source.kind != "classification" else -math.inf
        self.trial.report(score.mean if math.isfinite(score.mean) else worst, step)
        if step < trainer.settings.steps and self.trial.should_prune():
            self.pruned_at = step
            trainer.stop()


@dataclass
class Objective:
    """What Optuna calls with a trial: its score on val tasks.

    Attributes:
        spec: the sweep.
        study: that it belongs to.
        source: whose val classes trials are chosen on.
        confirming: tasks on which nothing is chosen; None for none.
        out: the folder of the sweep.
        device: that trains; None for what the base says.
        data_dir: where local copies of data lie.
        say: told how each trial ended.
    """

    spec: SweepSpec
    study: Study
    source: TaskSource
    confirming: TaskSplit | None
    out: Path
    device: str | None
    data_dir: str | None
    say: Callable[[str], None]

    def __call__(self, trial: Trial) -> float:
        values = {path: space.suggest(trial, path) for path, space in self.spec.space.items()}
        said = ", ".join(f"{path}={short(value)}" for path, value in values.items())
        name = f"trial {trial.number}"
        begun = trial.user_attrs.get(GOES_ON)
        folder = self.out / "trials" / f"{trial.number if begun is None else begun:04d}"
        trial.set_user_attr(FOLDER, str(folder))
        pruning = Pruning(trial)
        try:
            result, score = self._run(values, folder, pruning, resume=begun is not None)
        except KeyboardInterrupt:
            take_over(self.study, self.study.trials[trial.number])
            raise
        except (RunError, ArtifactError):
            raise
        except DivergedError:
            # Pruned rather than failed: the sampler learns to stay away from there.
            trial.set_user_attr(REASON, DIVERGED)
            self.say(f"{name}: diverged ({said})")
            raise optuna.TrialPruned from None
        except (KshotError, MemoryError, torch.OutOfMemoryError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            trial.set_user_attr(REASON, reason)
            self.say(f"{name}: failed: {reason} ({said})")
            raise Unusable(reason) from None
        metric = METRICS[self.source.kind]
        trial.set_user_attr(VAL, finite(score.to_dict()))
        trial.set_user_attr(SECONDS, result.seconds)
        if pruning.pruned_at:
            self.say(f"{name}: pruned at step {pruning.pruned_at}, {show(score, metric)} on val ({said})")
            raise optuna.TrialPruned
        if self.confirming is not None:
            trial.set_user_attr(CONFIRM, self._confirm(result))
        self.say(f"{name}: {show(score, metric)} on val after {duration(result.seconds)} ({said})")
        return score.mean

    def _run(
        self, values: Mapping[str, Any], folder: Path, pruning: Pruning, resume: bool
    ) -> tuple[TrainResult, Interval]:
        config = self.spec.config(values)
        source = self.source
        if any(path.startswith("data.") for path in values):  # other train tasks; val is that of all trials
            other = build_source(config, self.data_dir)
            source = TaskSource(
                source.name,
                {**source.splits, "train": other.train},
                example_shape=source.example_shape,
                transform=source.transform,
                spec=other.spec,
                info=source.info,
            )
        device = {} if self.device is None else {"device": self.device}
        trainer = build_trainer(
            config, build_learner(config, source), source,
            out=str(folder), resume=resume, overwrite=not resume, callbacks=[pruning], progress=False, **device,
        )  # fmt: skip
        result = trainer.fit()
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # a trial that is done is never resumed
        if result.val is None:
            raise DivergedError("no score on val was a finite number")
        return result, result.val

    def _confirm(self, result: TrainResult) -> list[float]:
        """Scores of the learner on the tasks that nothing is chosen on."""
        assert self.confirming is not None
        split, tasks = self.confirming, self.spec.confirm_tasks
        found = [scores.values for scores in iter_scores(result.learner, split, tasks, seed=CONFIRM_SEED)]
        return [round(float(value), 6) for value in torch.cat(found)]
