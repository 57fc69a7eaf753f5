"""What may watch a training, or stop it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kshot.metrics import Interval
    from kshot.training.trainer import Trainer, TrainResult


class Callback:
    """Base class; override what you need. In one outer step the order is step, validation, checkpoint.

    A callback may call `trainer.stop()`. It must not change the learner: a resumed run would not know of it.
    """

    def on_start(self, trainer: Trainer) -> None:
        """Before the first outer step, after a checkpoint was loaded; `trainer.step` steps are done."""

    def on_step(self, trainer: Trainer, step: int, metrics: Mapping[str, Any]) -> None:
        """After an outer step; `step` counts from 1. `metrics`: `loss`, `grad_norm` and `lr` of this step."""

    def on_validation(self, trainer: Trainer, step: int, score: Interval) -> None:
        """After a validation: accuracy or mean squared error over the val tasks."""

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        """After a checkpoint was written."""

    def on_end(self, trainer: Trainer, result: TrainResult) -> None:
        """After the last step, the best weights being back in the learner. Not after an error or an interruption."""
