"""One outer step: losses of the tasks, their mean gradient, clipping, the optimizer's step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from kshot import engine
from kshot.engine.distributed import Group
from kshot.episodes import Episodes, Examples, Unlabeled
from kshot.errors import ArtifactError, ConfigError, DivergedError, KshotError, UnsupportedError
from kshot.learners.base import Learner
from kshot.models import norms
from kshot.processes import place

_BLOCK = 2**20
"""Examples of the larger of two numbers that a count is told as: float32 is exact up to 2^24."""

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepResult:
    """What came of an outer step.

    Attributes:
        loss: mean over its tasks.
        grad_norm: of the mean gradient, before clipping.
        lr: the learning rate that was used, of the first parameter group.
        tasks: how many there were.
        examples: of all of them, support and query, and unlabelled ones that the learner makes use of.
        stop, interrupt: whether any process asks that the training end, as if this were its last step, or at once.
    """

    loss: float
    grad_norm: float
    lr: float
    tasks: int
    examples: int
    stop: bool = False
    interrupt: bool = False


class OuterStep:
    """The outer step of a training.

    The gradient is that of the mean loss over all tasks of the step, whatever pieces they are worked through in, and
    in how many processes.

    Args:
        learner: in train mode.
        optimizer: of its parameters.
        schedule: stepped with the optimizer.
        mode: of the engine, resolved.
        chunk: tasks a backward pass; None: all that come together.
        amp: `"bf16"`, `"fp16"` (with a gradient scaler) or None.
        clip: largest norm of the gradient.
        device: of the learner.
        recompute: whether inner steps are computed again in the backward pass.
        group: the processes that train together.
    """

    def __init__(
        self,
        learner: Learner,
        optimizer: Optimizer,
        schedule: LRScheduler,
        *,
        mode: str,
        chunk: int | None,
        amp: str | None,
        clip: float | None,
        device: torch.device,
        recompute: bool = False,
        group: Group | None = None,
    ) -> None:
        self.learner, self.optimizer, self.schedule = learner, optimizer, schedule
        self.mode, self.chunk, self.amp, self.clip, self.device = mode, chunk, amp, clip, device
        self.recompute, self.group = recompute, group or Group()
        self.parameters = list(learner.parameters())
        self.scaler = torch.amp.GradScaler(device.type) if amp == "fp16" else None

    def __call__(
        self, parts: Iterable[Episodes], tasks: int, stop: bool = False, interrupt: bool = False
    ) -> StepResult:
        """Moves the learner's parameters and running statistics.

        Args:
            parts: the meta-batches of the step, one at a time; in a process of several, its own tasks of them.
            tasks: in all of them together, and in all processes.
            stop, interrupt: whether this process asks that the training end.

        Raises:
            DivergedError: the loss or the gradient is not finite; the parameters are as before.
            LostProcessError: another process is gone; the parameters are as before.
        """
        for parameter in self.parameters:
            parameter.grad = None
        loss, examples = 0.0, 0
        try:
            for part in parts:
                episodes = part if self.learner.semi_supervised else part.without_unlabeled()
                examples += count_examples(episodes)
                for chunk in episodes.widen(self.learner.way).chunks(self.chunk):
                    loss += self._backward(chunk, tasks)
            if self.group.size > 1:
                loss, examples, stop, interrupt = self._add_up(loss, examples, stop, interrupt)
            if not math.isfinite(loss):
                raise DivergedError("the loss")
            if all(p.grad is None for p in self.parameters):
                raise UnsupportedError(
                    f"the loss of {type(self.learner).__name__} does not depend on any of its parameters, so there is "
                    "nothing to train: check that adapt and predict use them, without torch.no_grad() or .detach()"
                )
            lr = float(self.optimizer.param_groups[0]["lr"])
            norm = self._move()
        except KshotError:
            norms.forget(self.learner)
            raise
        norms.commit(self.learner)
        return StepResult(loss, norm, lr, tasks, examples, stop, interrupt)

    def state_dict(self) -> dict[str, Any]:
        """The states of the optimizer, the schedule and the scaler."""
        states = {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}
        return states if self.scaler is None else {**states, "scaler": self.scaler.state_dict()}

    def load_state_dict(self, states: dict[str, Any]) -> None:
        """Raises ArtifactError where they do not fit."""
        parts: dict[str, Any] = {"optimizer": self.optimizer, "schedule": self.schedule, "scaler": self.scaler}
        for name, part in parts.items():
            if part is None:
                continue
            try:
                part.load_state_dict(states[name])
            except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
                raise ArtifactError(
                    f"the checkpoint's {name} state does not fit the {type(part).__name__} of this run ({error}): go "
                    "on with the script that began the run, or start another run"
                ) from error

    def _backward(self, episodes: Episodes, tasks: int) -> float:
        """Adds the gradient of these tasks, of `tasks` in the step; returns their share of the mean loss."""
        scale = 1 / tasks if self.scaler is None else self.scaler.scale(torch.tensor(1 / tasks, device=self.device))
        with autocast(self.amp, self.device), engine.recomputing(self.recompute):
            losses, gradients = engine.meta_gradient(self.learner, episodes, self.mode, scale, self.parameters)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return float(losses.float().sum()) / tasks

    def _add_up(self, loss: float, examples: int, stop: bool, interrupt: bool) -> tuple[float, int, bool, bool]:
        """Adds up gradients, running statistics and the numbers over the processes: one sum of one vector."""
        trained = [p for p in self.parameters if p.requires_grad]
        pending = list(norms.pending(self.learner))
        reached = [0.0 if p.grad is None else 1.0 for p in trained]
        numbers = [loss, float(examples % _BLOCK), float(examples // _BLOCK), float(stop), float(interrupt)]
        numbers += reached
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        tensors = [*gradients, *pending, torch.tensor(numbers, device=self.device)]
        total = self.group.sum(torch.cat([t.detach().flatten().to(tensors[0].dtype) for t in tensors]))
        parts = iter(total.split([t.numel() for t in tensors]))
        found = [next(parts) for _ in trained]
        for buffer in pending:
            buffer.copy_(next(parts).view_as(buffer))
        numbers = next(parts).tolist()
        for parameter, gradient, there in zip(trained, found, numbers[5:], strict=True):
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype) if there else None
        return numbers[0], round(numbers[1] + numbers[2] * _BLOCK), numbers[3] > 0, numbers[4] > 0

    def _move(self) -> float:
        """Clips the gradient and takes the optimizer's step; returns the gradient's norm."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        total = _norm(gradients)
        norm = float(total)
        if not math.isfinite(norm) and self.scaler is None:
            raise DivergedError("the gradient")
        if self.clip is not None:
            clip_grads_with_norm_([p for p in self.parameters if p.grad is not None], self.clip, total)
        if self.scaler is None:
            self.optimizer.step()
        else:
            # A step whose half-precision gradient overflowed is left out, and the next ones are scaled less.
            before = self.scaler.get_scale()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.scaler.get_scale() < before:
                return 0.0
        if not isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step()
        return norm


def _norm(tensors: list[torch.Tensor]) -> torch.Tensor:
    """The norm of all of them together. Torch's own function sorts them by device and type, which takes longer than
    their norms where there is only one of each."""
    first = tensors[0]
    if any(t.dtype != first.dtype or t.device != first.device for t in tensors):
        return get_total_norm(tensors)
    total: torch.Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
    return total


def autocast(amp: str | None, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Mixed precision; weights are cast anew each time, since an adapted network's are others at every inner step."""
    if amp is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=AMP[amp], cache_enabled=False)


def count_examples(episodes: Episodes) -> int:
    """Real examples of all tasks, support, query and unlabelled."""
    parts: list[Examples | Unlabeled] = [episodes.support, episodes.query]
    parts += [] if episodes.support.unlabeled is None else [episodes.support.unlabeled]
    return sum(int(e.mask.sum()) if e.padded else e.mask.numel() for e in parts)


def resolve_device(device: str | torch.device) -> torch.device:
    """`"auto"`: the GPU where there is one; of several processes on a machine each takes its own.

    Raises:
        ConfigError: no such device here, or fewer of them than processes.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    here = place()
    if str(device) == "cuda" and here.size > 1 and torch.cuda.is_available():
        if here.local_size > torch.cuda.device_count():
            raise ConfigError(
                f"torchrun started {here.local_size} processes on this machine, which has {torch.cuda.device_count()} "
                "GPUs, and each takes one: start as many as there are (--nproc-per-node), or say device: cpu"
            )
        device = f"cuda:{here.local_rank}"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"expected a device such as 'auto', 'cpu' or 'cuda:0', got {device!r}") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"there is no GPU that torch can use here, and device={device!r} asks for one: use device='auto'"
        )
    return found
