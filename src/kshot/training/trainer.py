"""`Trainer`: meta-trains a learner."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kshot.engine.distributed import Group, join
from kshot.errors import ConfigError, LostProcessError
from kshot.learners.base import Learner
from kshot.metrics import Interval
from kshot.tasks.source import TaskSource
from kshot.training import about
from kshot.training.callbacks import Callback
from kshot.training.checkpoint import kept_sentence
from kshot.training.interrupts import Interrupts
from kshot.training.loggers import Logger, make_loggers
from kshot.training.loop import Loop
from kshot.training.optimizers import OptimizerChoice, ScheduleChoice
from kshot.training.progress import make_progress
from kshot.training.recorder import Recorder
from kshot.training.run_folder import RunFolder
from kshot.training.settings import Settings
from kshot.training.step import resolve_device
from kshot.training.validation import check_fits


@dataclass(frozen=True)
class TrainResult:
    """What came of a training.

    Attributes:
        learner: with the selected weights, in eval mode.
        folder: of the run; None where nothing was saved.
        steps: outer steps done.
        best_step: the step whose weights were selected.
        val: their score on the val tasks; None without val tasks.
        seconds: time spent, over all sessions of the run.
        examples: training examples that passed through.
        mode: of the engine.
        stopped: whether it ended before its steps were done.
        history: the rows of metrics.
    """

    learner: Learner = field(repr=False)
    folder: Path | None
    steps: int
    best_step: int
    val: Interval | None
    seconds: float
    examples: int
    mode: str
    stopped: bool
    history: list[dict[str, Any]] = field(repr=False)


class Trainer:
    """Meta-trains a learner: steps over meta-batches of train tasks, selects on val tasks, saves as it goes.

    A run is a function of its arguments: tasks, dropout and order come from the seed and the step alone. A run that was
    killed and resumed gives the weights that it would have given, bit for bit (on the same machine, with as many
    threads).

    Args:
        learner: any `Learner`; trained in place.
        source: where the tasks come from; without val tasks the last weights are selected.
        steps: outer steps.
        meta_batch: tasks a step (times `accumulate`).
        out: the run folder; None saves nothing.
        optimizer: a name of `torch.optim` in lower case, a mapping `{"name": "sgd", "momentum": 0.9}`, a function of
            the parameters, or an optimizer.
        lr: its learning rate.
        schedule: `"cosine"`, `"linear"` (down to zero), `"constant"`, `"step"`, a mapping with options, or a function
            of optimizer and steps.
        warmup: steps over which the rate rises linearly.
        seed: of tasks and dropout. Initialisation is the learner's own.
        device: `"auto"`: the GPU where there is one.
        mode: of the engine; `"auto"` measures once, and the choice is recorded.
        chunk: tasks a backward pass, where memory asks for it.
        amp: `"bf16"` or `"fp16"` mixed precision.
        clip: largest norm of the gradient.
        accumulate: meta-batches a step.
        recompute: keeps the weights of a few inner steps alone and computes the others again in the backward pass: the
            memory of MAML and its kin grows with the square root of the inner steps, for about half more time.
        val_every: steps between validations; by default about 20 in a run, and fewer where they would see more
            tasks than the training does.
        val_tasks: val tasks; the same ones every time.
        patience: stop after that many validations without a better one.
        save_every: steps between checkpoints; `val_every` by default.
        callbacks: see `Callback`.
        loggers: "tensorboard", "wandb", "mlflow", or objects like those of `kshot.training.loggers`.
        resume: go on with the run in `out`, if there is one.
        overwrite: remove the run in `out` first.
        progress: False says nothing; by default a bar on a terminal, plain lines otherwise.
        config: what to record as the run's configuration in place of what is known here (`kshot train`'s).

    Raises:
        ConfigError: an argument that makes no sense.
    """

    def __init__(
        self,
        learner: Learner,
        source: TaskSource,
        *,
        steps: int,
        meta_batch: int = 16,
        out: str | Path | None = None,
        optimizer: OptimizerChoice = "adam",
        lr: float = 1e-3,
        schedule: ScheduleChoice = "cosine",
        warmup: int = 0,
        seed: int = 0,
        device: str | torch.device = "auto",
        mode: str = "auto",
        chunk: int | None = None,
        amp: str | None = None,
        clip: float | None = None,
        accumulate: int = 1,
        recompute: bool = False,
        val_every: int | None = None,
        val_tasks: int = 200,
        patience: int | None = None,
        save_every: int | None = None,
        callbacks: Iterable[Callback] = (),
        loggers: Iterable[str | Logger] = (),
        resume: bool = False,
        overwrite: bool = False,
        progress: bool | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.learner, self.source = learner, source
        self.settings = Settings.of(
            steps=steps, meta_batch=meta_batch, optimizer=optimizer, lr=lr, schedule=schedule, warmup=warmup, seed=seed,
            mode=mode, chunk=chunk, amp=amp, clip=clip, accumulate=accumulate,
            recompute=recompute, val_every=val_every, val_tasks=val_tasks,
            patience=patience, save_every=save_every,
        )  # fmt: skip
        if recompute and not learner.recomputes:
            raise ConfigError(
                f"recompute=True forgets inner steps on a whole network, of which {type(learner).__name__} keeps none "
                "that can be computed again: leave it out"
            )
        self.device, self.asked_device = resolve_device(device), device
        self.out = None if out is None else Path(out).expanduser()
        self.resume, self.overwrite, self.config = resume, overwrite, config
        self.callbacks, self.loggers = list(callbacks), make_loggers(loggers)
        self.optimizer, self.schedule, self.progress = optimizer, schedule, progress
        self._loop: Loop | None = None
        self.group = Group()

    @contextlib.contextmanager
    def _explained(self, group: Group) -> Iterator[None]:
        """Says how to go on where another process is lost."""
        try:
            yield
        except LostProcessError as error:
            kept = "" if self.out is None else kept_sentence(self.out / "checkpoints")
            how = f" Start them again, as many as you like, with --resume {self.out}" if kept else ""
            raise LostProcessError(f"process {group.rank} of {group.size}: {error}. {kept}{how}".strip()) from error

    @property
    def step(self) -> int:
        """Outer steps done so far."""
        return 0 if self._loop is None else self._loop.state.step

    @property
    def lr(self) -> float | None:
        """The learning rate of the next step; of the first parameter group, if there are several."""
        return None if self._loop is None else self._loop.lr

    def stop(self) -> None:
        """Ends the training after this step, as if it were the last; for callbacks.

        Of several processes that train together any may ask for it; all end after the step that follows.
        """
        if self._loop is not None and self.group.size > 1:
            self._loop.asked = True
        elif self._loop is not None:
            self._loop.state.stopped = True

    def fit(self) -> TrainResult:
        """Trains; afterwards the learner has the selected weights, and knows where it comes from.

        Raises:
            UnsupportedError: the learner cannot do the tasks of the source.
            RunError: the run folder is not empty, or cannot be written to. The last checkpoint is intact.
            ArtifactError: a checkpoint of another version, or a learner that cannot be saved.
            ConfigError: a resumed run with other settings.
            DivergedError: the loss or the gradient is not finite. The last checkpoint is intact.
            LostProcessError: one of several processes is gone. The last checkpoint is intact.
            KeyboardInterrupt: Ctrl-C or SIGTERM, after the step was finished and saved.
        """
        group = self.group = join(self.device)
        if group.size > self.settings.meta_batch:
            raise ConfigError(
                f"a meta-batch of {self.settings.meta_batch} tasks cannot be shared among {group.size} processes: give "
                "a larger meta_batch, or start fewer processes"
            )
        limit = self.learner.support_limit(self.source.train.support_size)
        for name in ("train", "val"):
            if name in self.source.splits:
                check_fits(self.learner, self.source.splits[name], self.source.example_shape, limit)
        if self.out is not None:
            _ = self.learner.config  # a learner that cannot be saved is told so now, not after an hour
        self.learner.transform = self.source.transform
        opened: list[RunFolder] = []

        def open_folder() -> None:
            if self.out is not None:
                opened.append(RunFolder(self.out, resume=self.resume, overwrite=self.overwrite))

        group.first(open_folder)
        folder = opened[0] if opened else None
        shown = make_progress(self.progress if group.leads else False, self.settings.steps, self.source.kind)
        with (
            folder or contextlib.nullcontext(),
            # Dropout draws from torch's generator, which is seeded at every step and given back as it was.
            torch.random.fork_rng([self.device] if self.device.type == "cuda" else []),
            shown,
            Interrupts(shown.say) as interrupts,
            self._explained(group),
        ):
            if limit != self.learner.max_support:
                self.learner.amend(max_support=limit)
            loop = self._loop = Loop(self, folder, shown, interrupts, group)
            loop.begin()
            config = about.resolved_config(self, loop.state.mode)
            loggers = self.loggers if group.leads else []
            with Recorder(folder, loop.offsets, loggers, shown, config, self.step) as recorder:
                loop.run(recorder)
            score = loop.end()
            if group.size > 1:
                shown.say(about.communication(group, loop))
        state = loop.state
        result = TrainResult(
            learner=self.learner,
            folder=self.out,
            steps=state.step,
            best_step=state.step if state.best_step is None else state.best_step,
            val=score,
            seconds=state.seconds,
            examples=state.examples,
            mode=str(state.mode),
            stopped=state.stopped and state.step < self.settings.steps,
            history=recorder.history,
        )
        for callback in self.callbacks:
            callback.on_end(self, result)
        return result
