"""What decides the course of a run, checked; and whether a resumed run is still the same one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from kshot.engine import MODES
from kshot.errors import ConfigError, suggest
from kshot.tasks.options import whole_number
from kshot.training.optimizers import check_schedule, depends_on_steps, describe
from kshot.training.step import AMP

VALIDATIONS = 20
"""How many there are in a run, about, where nothing else is said."""

ROWS = 200
"""How many rows of metrics a run has, about."""

_DERIVED = ("val_every", "save_every", "log_every")


@dataclass(frozen=True)
class Settings:
    """The arguments of a `Trainer` that decide what it computes, JSON-able; see there.

    Attributes:
        log_every: steps between rows of metrics.
        derived: those that were not given, and follow from the others.
    """

    steps: int
    meta_batch: int
    optimizer: Any
    lr: float
    schedule: Any
    warmup: int
    seed: int
    mode: str
    chunk: int | None
    amp: str | None
    clip: float | None
    accumulate: int
    recompute: bool
    val_every: int
    val_tasks: int
    patience: int | None
    save_every: int
    log_every: int
    derived: tuple[str, ...] = ()

    @classmethod
    def of(cls, **given: Any) -> Settings:
        """Raises ConfigError for an argument that makes no sense."""
        for name in ("steps", "meta_batch", "accumulate"):
            given[name] = whole_number(name, given[name])
        for name in ("chunk", "val_every", "save_every", "patience"):
            given[name] = None if given[name] is None else whole_number(name, given[name])
        given["val_tasks"] = whole_number("val_tasks", given["val_tasks"], at_least=2)
        given["warmup"] = whole_number("warmup", given["warmup"], at_least=0)
        given["lr"] = _positive("lr", given["lr"])
        given["clip"] = None if given["clip"] is None else _positive("clip", given["clip"])
        if isinstance(given["seed"], bool) or not isinstance(given["seed"], int):
            raise ConfigError(f"expected seed to be a whole number, got {given['seed']!r}")
        for name, known in (("mode", ("auto", *MODES)), ("amp", tuple(AMP))):
            if given[name] not in known and not (name == "amp" and given[name] is None):
                near = suggest(str(given[name]), known)
                hint = near if near.startswith("Did") else "Choose one of these."
                raise ConfigError(f"expected {name} to be one of {', '.join(known)}, got {given[name]!r}. {hint}")
        if not isinstance(given["recompute"], bool):
            raise ConfigError(f"expected recompute to be true or false, got {given['recompute']!r}")
        if given["recompute"] and given["mode"] == "compile":
            raise ConfigError(
                "recompute=True forgets inner steps, of which a compiled graph keeps what it likes: use mode='loop', "
                "'vmap' or 'auto'"
            )
        check_schedule(given["schedule"], given["steps"], given["warmup"])
        given["optimizer"], given["schedule"] = describe(given["optimizer"]), describe(given["schedule"])
        derived = tuple(name for name in _DERIVED if given.get(name) is None)
        # In a short run more validations would cost more than the training: no more val tasks than training tasks.
        seldom = math.ceil(given["val_tasks"] / (given["meta_batch"] * given["accumulate"]))
        given["val_every"] = given["val_every"] or max(1, given["steps"] // VALIDATIONS, min(seldom, given["steps"]))
        given["save_every"] = given["save_every"] or given["val_every"]
        given["log_every"] = max(1, given["steps"] // ROWS)
        return cls(**given, derived=derived)

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "derived"}

    def resumed(self, recorded: dict[str, Any], now: dict[str, Any], step: int, mode: str | None) -> Settings:
        """These settings as those of a run that is taken up: what was not given is as it was recorded.

        Args:
            recorded: what the checkpoint says of the run: `training` (the settings), `learner` and `source`.
            now: the same of this trainer.
            step: outer steps that the run has done.
            mode: the engine mode that it has chosen.

        Raises:
            ConfigError: what decides the course of the run is another than it was; it is named.
        """
        before = {name: recorded["training"].get(name) for name in self.to_dict()}
        before["recompute"] = bool(before["recompute"])  # a run from before there was such a thing did not
        before["mode"] = mode or before["mode"]
        kept = {name: before[name] for name in self.derived if before[name] is not None}
        if self.mode == "auto":
            kept["mode"] = before["mode"]
        settings = replace(self, **kept)
        free = ("steps", "save_every", "log_every", "recompute")
        if settings.recompute and settings.mode == "compile":
            raise ConfigError(
                "the run computes in mode compile, which recompute=True is not for: start another run with mode='auto'"
            )
        differ = [
            *_differences(_without(before, free), _without(settings.to_dict(), free)),
            *_differences(recorded.get("learner"), now["learner"], "learner"),
            *_differences(recorded.get("source"), now["source"], "source"),
        ]
        if differ:
            raise ConfigError(
                f"a resumed run must be the one that was begun, but this one has {', '.join(differ[:6])}. Give the "
                "same as before, or start another run in another folder (--out, out=)"
            )
        if settings.steps != before["steps"] and (depends_on_steps(before["schedule"]) or settings.steps < step):
            raise ConfigError(_why_not(before["steps"], settings.steps, before["schedule"], step))
        return settings


def _why_not(before: int, now: int, schedule: Any, step: int) -> str:
    if now < step:
        return (
            f"the run has done {step} steps already, it cannot end at steps={now}: start another run in another folder "
            "(--out, out=)"
        )
    name = schedule["name"] if isinstance(schedule, dict) else schedule
    end = ": its learning rate has come down to nothing by then" if name == "cosine" else ""
    return (
        f"the run was begun with steps={before}, over which its {name} schedule is laid{end}; with steps={now} it "
        f"would be another run from the first step on. Resume it with steps={before}; or start another run "
        "elsewhere (--out, out=), from its learner (kshot.Learner.from_pretrained); schedule='constant' can be extended"
    )


def _without(settings: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in names}


def _differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """What differs between two JSON-able values, each as 'name=now (was before)'."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            # A learner's config nests its arguments: learner.backbone.channels is what was written.
            inner = path if key == "arguments" else f"{path}.{key}".removeprefix(".")
            yield from _differences(before.get(key), now.get(key), inner)
    elif before != now:
        yield f"{path}={_short(now)} (was {_short(before)})"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigError(f"expected {name} to be a number above 0, got {value!r}")
    return float(value)
