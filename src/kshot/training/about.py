"""What a run says about itself: its resolved configuration, the provenance of its learner, why it diverged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kshot.errors import ArtifactError
from kshot.tasks.source import TaskSource
from kshot.training import checkpoint as checkpoints
from kshot.training.state import State

if TYPE_CHECKING:
    from kshot.engine.distributed import Group
    from kshot.training.loop import Loop
    from kshot.training.run_folder import RunFolder
    from kshot.training.trainer import Trainer

_NAMES = 2000
"""The most class names that a learner carries along; the run's splits.json has them all."""


def description(trainer: Trainer) -> dict[str, Any]:
    """What decides the course of a run, as its checkpoints record it."""
    splits = {name: trainer.source.splits.get(name) for name in ("train", "val")}
    described: dict[str, Any] = {
        "training": trainer.settings.to_dict(),
        "learner": trainer.learner.config,
        "source": {
            # Where the files lie is of no consequence.
            **{key: value for key, value in trainer.source.spec.items() if key != "data_dir"},
            **{name: None if split is None else split.options for name, split in splits.items()},
        },
    }
    return _jsonable(described)


def resolved_config(trainer: Trainer, mode: str | None = None) -> dict[str, Any]:
    """The configuration that makes the same run again: `kshot train`'s, or what is known of a trainer made in Python.

    Args:
        mode: the engine mode, once it is chosen.
    """
    training = {key: value for key, value in trainer.settings.to_dict().items() if key != "log_every"}
    training["mode"] = mode or training["mode"]
    training["device"] = str(trainer.asked_device)  # "auto" stays: a run may be taken up on another machine
    out = None if trainer.out is None else str(trainer.out)
    if trainer.config is not None:
        before = trainer.config.get("training") or {}
        return _jsonable({**trainer.config, "training": {**before, **training}, "out": out})
    return _jsonable(
        {"learner": _learner(trainer), "source": trainer.source.spec or None, "training": training, "out": out}
    )


def communication(group: Group, loop: Loop) -> str:
    """What the processes told each other in the steps of this session, in a line."""
    steps = max(1, loop.told.calls)
    share = loop.told.seconds / max(1e-9, loop.spent_in_steps)
    return (
        f"{group.size} processes: one sum of {loop.told.bytes / steps / 1000:,.1f} kB a step, "
        f"{1000 * loop.told.seconds / steps:.1f} ms of each step, {100 * share:.0f} % of the time, waiting included"
    )


def provenance(trainer: Trainer, state: State) -> dict[str, Any]:
    """Where a trained learner comes from; it is saved with it."""
    s = trainer.settings
    return _jsonable(
        {
            "run": None if trainer.out is None else str(Path(trainer.out).absolute()),
            "source": trainer.source.spec,
            "steps": state.step,
            "best_step": state.step if state.best_step is None else state.best_step,
            "meta_batch": s.meta_batch * s.accumulate,
            "lr": s.lr,
            "optimizer": s.optimizer,
            "schedule": s.schedule,
            "examples": state.examples,
            "seconds": round(state.seconds, 3),
            "val": state.best_score,
            "val_half_width": state.best_half_width,
            "val_tasks": s.val_tasks if state.best_score is not None else None,
            "mode": state.mode,
            "seed": s.seed,
            "weights": trainer.learner.provenance.get("weights"),
            **_classes(trainer.source),
        }
    )


def diverged(trainer: Trainer, what: str, step: int, folder: RunFolder | None) -> str:
    """The message of a `DivergedError`: what is safe, what to try."""
    s = trainer.settings
    kept = "" if folder is None else " " + checkpoints.kept_sentence(folder.checkpoints)
    tries = [f"a lower lr (it is {s.lr:g})"]
    if s.clip is None:
        tries.append("clip=1.0")
    elif s.clip:
        tries.append(f"a smaller clip (it is {s.clip:g})")
    if hasattr(trainer.learner, "inner_lr"):
        tries.append(f"a lower inner_lr (it is {trainer.learner.inner_lr:g}) or fewer inner steps")
    if s.amp is not None:
        tries.append("amp=None")
    return (
        f"{what} of step {step + 1} is not finite: the training diverged, and was stopped.{kept} Begin again, in "
        f"another run folder, with {' or '.join(tries)}; and check that the inputs are normalised"
    )


def _learner(trainer: Trainer) -> Any:
    try:
        return trainer.learner.config
    except ArtifactError:  # not saved either, or the trainer had refused it
        return type(trainer.learner).__name__


def _classes(source: TaskSource) -> dict[str, Any]:
    names = {key: list(split.pool.names) for key, split in source.splits.items() if split.pool is not None}
    if not names:
        return {}
    known: dict[str, Any] = {"train_classes": len(names.get("train", []))}
    if sum(map(len, names.values())) <= _NAMES:
        known["splits"] = names
    return known


def _jsonable(values: dict[str, Any]) -> dict[str, Any]:
    """As JSON would give it back: tuples as lists, paths as text."""
    return dict(json.loads(json.dumps(values, default=str)))
