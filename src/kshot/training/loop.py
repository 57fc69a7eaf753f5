"""The outer loop of a `Trainer`: begin or take up a run, step, validate, save, end."""

from __future__ import annotations

import contextlib
import itertools
import math
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from kshot import engine, randomness
from kshot.artifacts import load_state, save_pretrained
from kshot.engine.distributed import Group, Traffic
from kshot.engine.tasks import check_mode
from kshot.episodes import Episodes
from kshot.errors import DivergedError, RunError
from kshot.learners.base import Learner
from kshot.metrics import Interval
from kshot.tasks.prefetch import prefetched
from kshot.tasks.split import TaskSplit
from kshot.training import about, environment
from kshot.training import checkpoint as checkpoints
from kshot.training.checkpoint import Checkpoint
from kshot.training.interrupts import Interrupts
from kshot.training.optimizers import make_optimizer, make_schedule
from kshot.training.progress import Progress
from kshot.training.recorder import Recorder
from kshot.training.run_folder import RunFolder
from kshot.training.state import State, Window
from kshot.training.step import OuterStep, StepResult, autocast
from kshot.training.validation import better, validate
from kshot.training.weights import seen_before

if TYPE_CHECKING:
    from kshot.training.trainer import Trainer

OUTER_STEP = randomness.stream("training/outer step")


class Loop:
    """One `Trainer.fit`.

    Args:
        trainer: what to train, and how.
        folder: of the run; None saves nothing.
        progress: shows the user how far it is.
        interrupts: whether the user wants it to stop.
        group: the processes that train together; the leading one alone has a folder.
    """

    def __init__(
        self,
        trainer: Trainer,
        folder: RunFolder | None,
        progress: Progress,
        interrupts: Interrupts,
        group: Group | None = None,
    ) -> None:
        self.trainer, self.folder, self.progress, self.interrupts = trainer, folder, progress, interrupts
        self.group, self.told, self.asked = group or Group(), Traffic(), False
        self._interrupted, self.spent_in_steps = False, 0.0
        self.learner, self.source, self.settings, self.device = (
            trainer.learner, trainer.source, trainer.settings, trainer.device
        )  # fmt: skip
        self.state = State()
        self.outer: OuterStep | None = None
        self.best: dict[str, Tensor] | None = None
        self.offsets: dict[str, int] | None = None
        self._saved = -1
        self._spent = 0.0
        self._began = time.perf_counter()

    def begin(self) -> None:
        """Takes up the run where it was, or begins it."""
        folder, learner = self.folder, self.learner
        loaded = self._load() if self.trainer.resume and self.trainer.out is not None else None
        if loaded is not None:
            self.settings = self.trainer.settings = self.settings.resumed(
                loaded.settings, about.description(self.trainer), loaded.state.step, loaded.state.mode
            )
            load_state(learner, loaded.learner, f"the checkpoint of step {loaded.state.step}")
            self.state, self._saved, self.offsets = loaded.state, loaded.state.step, loaded.state.offsets
            self.best = None if loaded.best is None else dict(loaded.best)
            self._spent = self.state.seconds
        learner.to(self.device).train()
        self.group.tell_tensors(learner.state_dict())  # where they differ by chance, all begin as the first does
        if folder is not None:
            if loaded is None:
                folder.write_config(about.resolved_config(self.trainer))
                folder.write_source(self.source, seen_before(learner))
            for what in folder.write_environment(self.device, self.state.step):
                self.progress.say(f"resumed with {what}: the last bits of the result may differ")
        if self.settings.amp == "bf16" and self.device.type == "cpu" and not environment.has_bf16():
            self.progress.say(
                f"amp='bf16' on a CPU without instructions for it ({environment.instructions()}): it will be slower"
            )
        if self.state.mode is None:  # measured as most steps are, before the first of them begins
            self.state.mode = self.group.first(self._choose_mode)
        if folder is not None:
            folder.write_config(about.resolved_config(self.trainer, self.state.mode))
        self.outer = self._make_outer(loaded)

    def run(self, recorder: Recorder) -> None:
        """The outer steps that are left."""
        state = self.state
        self.recorder = recorder
        for callback in self.trainer.callbacks:
            callback.on_start(self.trainer)
        if self._saved < 0:
            self._save()  # the initial weights: a run that dies before its next checkpoint begins from the same ones
        if self.outer is None:
            self.progress.say(f"{type(self.learner).__name__} has no parameters to train: no steps are made")
            if state.best_step is None:
                self._after(last=True)
            return
        self._stop_if_interrupted()
        if state.stopped:
            self.progress.say(f"the run was ended early, at step {state.step}: there is nothing left to do")
            return
        with contextlib.closing(self._batches(state.step)) as batches:
            self._steps(batches)

    def _steps(self, batches: Iterator[Iterable[Episodes]]) -> None:
        settings, state, callbacks = self.settings, self.state, self.trainer.callbacks
        assert self.outer is not None
        for parts in batches:
            began = time.perf_counter()
            # Processes draw dropout apart; the first as one alone does.
            apart = () if self.group.leads else (self.group.rank,)
            torch.manual_seed(int(randomness.bits(settings.seed, OUTER_STEP, state.step, *apart) >> np.uint64(1)))
            self.learner.begin_step(state.step)
            try:
                done = self._step(self.outer, parts)
            except DivergedError as error:
                raise DivergedError(about.diverged(self.trainer, str(error), state.step, self.folder)) from None
            self.spent_in_steps += time.perf_counter() - began
            self._count(done, time.perf_counter() - began)
            self.progress.step(state.step, done.loss)
            metrics = {"loss": done.loss, "grad_norm": done.grad_norm, "lr": done.lr}
            for callback in callbacks:
                callback.on_step(self.trainer, state.step, metrics)
            self._after(last=state.step == settings.steps)
            if state.stopped or state.step == settings.steps:
                return
            self._stop_if_interrupted()

    def _step(self, outer: OuterStep, parts: Iterable[Episodes]) -> StepResult:
        """An outer step, after which all processes know what any of them asks for."""
        traffic, settings = self.group.traffic, self.settings
        calls, told, waited = traffic.calls, traffic.bytes, traffic.seconds
        done = outer(parts, settings.meta_batch * settings.accumulate, self.asked, self.interrupts.asked)
        self.told.calls += traffic.calls - calls
        self.told.bytes += traffic.bytes - told
        self.told.seconds += traffic.seconds - waited
        if self.group.size > 1:
            self.state.stopped = self.state.stopped or done.stop
            self._interrupted = done.interrupt
        return done

    def end(self) -> Interval | None:
        """Puts the selected weights into the learner and saves it; returns their score on val tasks."""
        state, score = self.state, None
        if self.best is not None and state.best_score is not None:
            half = math.inf if state.best_half_width is None else state.best_half_width
            score = Interval(state.best_score, half, self.settings.val_tasks)
            load_state(self.learner, self.best, "the best weights")
        self._clock()
        self.learner.begin_step(None)
        self.learner.eval()
        self._export()
        return score

    def _load(self) -> Checkpoint | None:
        """The newest checkpoint. The leading process has it; the others get its files."""

        def newest() -> list[str] | None:
            assert self.folder is not None
            loaded.append(checkpoints.load_last(self.folder.checkpoints))
            return None if loaded[0] is None else sorted(f.name for f in place().iterdir())

        def place() -> Path:
            assert self.folder is not None
            return checkpoints.path_of(self.folder.checkpoints, checkpoints.steps_in(self.folder.checkpoints)[-1])

        loaded: list[Checkpoint | None] = []
        names = self.group.first(newest)
        if names is None or self.group.size == 1:
            return loaded[0] if loaded else None
        with tempfile.TemporaryDirectory() as temporary:
            for name in names:
                content = self.group.tell((place() / name).read_bytes() if self.group.leads else None)
                (Path(temporary) / name).write_bytes(content)
            return loaded[0] if loaded else checkpoints.load(Path(temporary))

    def _choose_mode(self) -> str:
        s = self.settings
        if s.mode != "auto":
            check_mode(self.learner, s.mode)
        if s.mode not in ("auto", "compile"):
            return s.mode
        own = len(self.group.share(s.meta_batch))  # what this process, and each of the others, will have at once
        size = min(own, s.chunk or own)
        episodes = self.source.train.sample(size, seed=s.seed, device=self._sample_on)
        steps = s.steps * s.accumulate * math.ceil(own / size)
        with autocast(s.amp, self.device), engine.recomputing(s.recompute):
            if s.mode == "auto":
                mode = engine.choose(self.learner, episodes, steps=steps, say=self.progress.say)
            else:
                mode = s.mode
            try:
                if s.mode == "compile":
                    engine.check_compiled(self.learner, episodes)
                if mode == "compile" and type(self.learner).begin_step is not Learner.begin_step:
                    # MAML++ begins with another graph than that of most steps: it is compared, too.
                    self.learner.begin_step(self.state.step)
                    engine.check_compiled(self.learner, episodes)
            except engine.CompileWarning as warning:
                mode = "vmap" if "vmap" in self.learner.modes else "loop"
                self.progress.say(f"mode compile is not used, {mode} is: {warning.reason}")
        return mode

    def _make_outer(self, loaded: Checkpoint | None) -> OuterStep | None:
        """The outer step, its optimizer as the checkpoint has it; None where nothing can be trained."""
        s = self.settings
        parameters = [p for p in self.learner.parameters() if p.requires_grad]
        if not parameters:
            return None
        optimizer = make_optimizer(self.trainer.optimizer, parameters, s.lr)
        schedule = make_schedule(self.trainer.schedule, optimizer, s.steps, s.warmup)
        outer = OuterStep(
            self.learner,
            optimizer,
            schedule,
            mode=str(self.state.mode),
            chunk=s.chunk,
            amp=s.amp,
            clip=s.clip,
            device=self.device,
            recompute=s.recompute,
            group=self.group,
        )
        if loaded is not None:
            outer.load_state_dict(loaded.trees)
        return outer

    def _batches(self, start: int) -> Generator[Iterable[Episodes]]:
        """For each step its meta-batches, one after another; each has task numbers of its own."""
        s = self.settings
        own = self.group.share(s.meta_batch)
        parts = [
            self.source.train.batches(
                len(own),
                steps=s.steps - start,
                seed=s.seed,
                start=start,
                first=i * s.meta_batch + own.start,
                device=self._sample_on,
            )
            for i in range(s.accumulate)
        ]
        every = (next(part) for _ in range(s.steps - start) for part in parts)
        with contextlib.closing(prefetched(every, device_type=self.device.type)) as ready:
            for _ in range(s.steps - start):
                yield itertools.islice(ready, s.accumulate)

    def _count(self, done: StepResult, seconds: float) -> None:
        state, window = self.state, self.state.window
        state.step += 1
        state.examples += done.examples
        window.loss += done.loss
        window.grad_norm += done.grad_norm
        window.steps += 1
        window.lr = done.lr
        window.tasks += done.tasks
        window.seconds += seconds

    def _after(self, last: bool) -> None:
        """What is due after a step: validation, a row of metrics, a checkpoint, in this order."""
        s, state, val = self.settings, self.state, self.source.splits.get("val")
        last = last or state.stopped
        validation = self._validate(val) if val is not None and (last or state.step % s.val_every == 0) else None
        last = last or state.stopped
        if last or validation is not None or state.step % s.log_every == 0:
            self._clock()
            self.recorder.log(state.step, state.row(s.meta_batch * s.accumulate, validation))
            state.window = Window()
        if last or state.step % s.save_every == 0:
            if self.group.size > 1:
                norms = [p.detach().double().norm() for p in self.learner.parameters()]
                if not self.group.check_same(float(torch.stack(norms).norm()), "the weights"):
                    self.group.tell_tensors(self.learner.state_dict())  # machines that round otherwise, together again
            self._save()

    def _validate(self, val: TaskSplit) -> Interval:
        s, state = self.settings, self.state
        score = validate(self.learner, val, s.val_tasks, mode=str(state.mode), chunk=s.chunk, group=self.group)
        if better(self.source.kind, score.mean, state.best_score):
            state.select(score)
            self.best = {name: value.detach().cpu().clone() for name, value in self.learner.state_dict().items()}
            self._clock()
            self._export()  # usable while the run goes on
        else:
            state.waited += 1
            state.stopped = state.stopped or (s.patience is not None and state.waited >= s.patience)
        if self.outer is not None and isinstance(self.outer.schedule, ReduceLROnPlateau):
            self.outer.schedule.step(score.mean)
        for callback in self.trainer.callbacks:
            callback.on_validation(self.trainer, state.step, score)
        return score

    def _save(self) -> None:
        """Writes a checkpoint, unless this step has one."""
        state = self.state
        if self.folder is None or self._saved == state.step:
            return
        self._clock()
        state.offsets = self.recorder.offsets()
        path = checkpoints.save(
            self.folder.checkpoints,
            Checkpoint(
                state=state,
                settings=about.description(self.trainer),
                learner=self.learner.state_dict(),
                best=self.best,
                trees={} if self.outer is None else self.outer.state_dict(),
            ),
        )
        self._saved = state.step
        for callback in self.trainer.callbacks:
            callback.on_checkpoint(self.trainer, path)

    def _export(self) -> None:
        self.learner.provenance = about.provenance(self.trainer, self.state)
        if self.folder is None:
            return
        try:
            save_pretrained(self.learner, self.folder.learner)
        except RunError as error:
            raise RunError(f"{error} {checkpoints.kept_sentence(self.folder.checkpoints)}".strip()) from error

    def _stop_if_interrupted(self) -> None:
        if not (self.interrupts.asked if self.group.size == 1 else self._interrupted):
            return
        self._save()
        done = f"stopped after step {self.state.step} of {self.settings.steps}"
        if self.trainer.out is None:
            message = f"{done}; nothing is saved, since the Trainer has no out="
        else:
            message = (
                f"{done} and saved. Go on with: kshot train --resume {self.trainer.out}, or Trainer(..., resume=True)"
            )
        self.progress.say(message)
        raise KeyboardInterrupt(message)

    def _clock(self) -> None:
        self.state.seconds = self._spent + time.perf_counter() - self._began

    @property
    def _sample_on(self) -> torch.device | None:
        return None if self.device.type == "cpu" else self.device

    @property
    def lr(self) -> float | None:
        """The learning rate of the next step; of the first parameter group, if there are several."""
        return None if self.outer is None else float(self.outer.optimizer.param_groups[0]["lr"])
