"""How far a training is: all that the rest of it depends on, beside the weights and the optimizer."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from kshot.errors import ArtifactError
from kshot.metrics import Interval


@dataclass
class Window:
    """What has gone by since the last row of metrics."""

    loss: float = 0.0
    grad_norm: float = 0.0
    lr: float = 0.0
    steps: int = 0
    tasks: int = 0
    seconds: float = 0.0


@dataclass
class State:
    """The part of a checkpoint that is JSON.

    Attributes:
        step: outer steps done.
        examples: examples that passed through, support and query.
        seconds: time spent, over all sessions of the run.
        mode: of the engine, resolved.
        best_step, best_score, best_half_width: the validation that selects the learner so far.
        waited: validations since then.
        stopped: whether patience, or a callback, has ended the run.
        offsets: length in bytes of each metrics file.
    """

    step: int = 0
    examples: int = 0
    seconds: float = 0.0
    mode: str | None = None
    best_step: int | None = None
    best_score: float | None = None
    best_half_width: float | None = None
    waited: int = 0
    stopped: bool = False
    window: Window = field(default_factory=Window)
    offsets: dict[str, int] = field(default_factory=dict)

    def select(self, score: Interval) -> None:
        """Notes that the weights of this step are the best so far."""
        half = score.half_width
        self.best_step, self.best_score, self.waited = self.step, score.mean, 0
        self.best_half_width = half if math.isfinite(half) else None

    def row(self, tasks_a_step: int, validation: Interval | None) -> dict[str, Any]:
        """The row of metrics of what has gone by since the last one; only the last two entries depend on the clock."""
        window = self.window
        values: dict[str, Any] = {}
        if window.steps:
            values = {"loss": window.loss / window.steps, "grad_norm": window.grad_norm / window.steps, "lr": window.lr}
        if validation is not None:
            values |= {"val": validation.mean, "val_half_width": validation.half_width}
        values |= {"tasks": self.step * tasks_a_step, "seconds": round(self.seconds, 3)}
        if window.seconds:
            values["tasks_per_second"] = round(window.tasks / window.seconds, 2)
        # JSON has no infinity; a row leaves out what it has no value for.
        return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Any, where: object) -> State:
        """Raises ArtifactError for missing or unexpected keys."""
        _check_keys(cls, saved, where)
        _check_keys(Window, saved["window"], where)
        return cls(**{**saved, "window": Window(**saved["window"])})


def _check_keys(cls: type, saved: Any, where: object) -> None:
    known = {f.name for f in fields(cls)}
    found = set(saved) if isinstance(saved, dict) else set()
    missing, unexpected = sorted(known - found), sorted(found - known)
    if missing or unexpected:
        parts = [
            f"{what} {', '.join(keys)}" for what, keys in (("missing", missing), ("unexpected", unexpected)) if keys
        ]
        raise ArtifactError(
            f"{where} does not hold what a checkpoint of this version holds ({'; '.join(parts)}): it is damaged, or of "
            "another version of kshot. Go on with the version that wrote it, or start a new run"
        )
