"""Checkpoints: safetensors and JSON, there as a whole or not at all.

`checkpoints/step-00000100/` holds `learner.safetensors`, `optimizer.safetensors`, `best.safetensors` (the best weights
on val so far, where they are not the current ones) and `state.json`. Each stands on its own, so one damaged or deleted
checkpoint takes no other with it.

No state of random generators is among it: tasks are a hash of (seed, step, task), and torch's generator, which dropout
draws from, is seeded by a hash of (seed, step) at every step.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import kshot
from kshot.artifacts.atomic import atomic_folder, remove_leftovers
from kshot.artifacts.tensors import load_tensors, save_tensors
from kshot.artifacts.tree import flatten, unflatten
from kshot.errors import ArtifactError
from kshot.training.state import State

FORMAT = 1
KEEP = 2
"""How many checkpoints stay."""

_NAME = re.compile(r"step-(\d{8,})")
_KEYS = {"format", "kshot", "settings", "state", "trees", "best"}


@dataclass
class Checkpoint:
    """All that a run needs to go on.

    Attributes:
        state: counters and scores.
        settings: what decides the course of the run; a resumed run must have the same.
        learner: its parameters and buffers.
        best: those of the best validation so far; None before the first one.
        trees: states of the optimizer, the schedule and the gradient scaler: nested dicts and lists of tensors and
            numbers.
    """

    state: State
    settings: dict[str, Any]
    learner: Mapping[str, Tensor]
    best: Mapping[str, Tensor] | None
    trees: dict[str, Any]


def path_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def steps_in(folder: Path) -> list[int]:
    """The steps that have a checkpoint, in rising order."""
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)))


def kept_sentence(folder: Path) -> str:
    """What is safe if the next write fails."""
    steps = steps_in(folder)
    return f"The checkpoint of step {steps[-1]} is intact ({path_of(folder, steps[-1])})." if steps else ""


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes a checkpoint, then removes all but the last ones.

    Raises:
        RunError: the disk is full, or there is no permission; the previous checkpoint is intact, the message says so.
        ArtifactError: the state of an optimizer or a schedule that cannot be written.
    """
    kept = kept_sentence(folder)
    shapes, tensors = {}, {}
    for name, tree in checkpoint.trees.items():
        try:
            shapes[name], own = flatten(tree, name)
        except ArtifactError as error:
            raise ArtifactError(
                f"the state of the {name} cannot be written to a checkpoint ({error}): use one whose state_dict() "
                "holds tensors and numbers only, or train without out="
            ) from error
        tensors.update(own)
    is_best = checkpoint.best is not None and checkpoint.state.best_step == checkpoint.state.step
    document = {
        "format": FORMAT,
        "kshot": kshot.__version__,
        "settings": checkpoint.settings,
        "state": checkpoint.state.to_dict(),
        "trees": shapes,
        "best": None if checkpoint.best is None else "learner.safetensors" if is_best else "best.safetensors",
    }
    path = path_of(folder, checkpoint.state.step)
    with atomic_folder(path, kept=kept) as temporary:
        save_tensors(temporary / "learner.safetensors", checkpoint.learner, kept=kept)
        save_tensors(temporary / "optimizer.safetensors", tensors, kept=kept)
        if checkpoint.best is not None and not is_best:
            save_tensors(temporary / "best.safetensors", checkpoint.best, kept=kept)
        (temporary / "state.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    prune(folder)
    return path


def prune(folder: Path, keep: int = KEEP) -> None:
    """Removes all but the last `keep` checkpoints."""
    for step in steps_in(folder)[:-keep]:
        shutil.rmtree(path_of(folder, step), ignore_errors=True)


def clean(folder: Path) -> None:
    """Removes what a killed process left half-written, or half-removed: a checkpoint without its state."""
    with contextlib.suppress(OSError):
        remove_leftovers(folder)
    for step in steps_in(folder)[:-KEEP]:
        shutil.rmtree(path_of(folder, step), ignore_errors=True)


def load_last(folder: Path) -> Checkpoint | None:
    """The newest checkpoint; None where there is none.

    Raises:
        ArtifactError: it is of another version, damaged, or lacks something.
    """
    steps = steps_in(folder)
    return load(path_of(folder, steps[-1])) if steps else None


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint; see `load_last`."""
    document = _read(path / "state.json")
    try:
        learner, _ = load_tensors(path / "learner.safetensors")
        tensors, _ = load_tensors(path / "optimizer.safetensors")
        best = None
        if document["best"] is not None:
            best = learner if document["best"] == "learner.safetensors" else load_tensors(path / "best.safetensors")[0]
        trees = {name: unflatten(shape, tensors) for name, shape in document["trees"].items()}
    except ArtifactError as error:
        raise ArtifactError(f"the checkpoint {path} is damaged: {error}. {_fall_back(path)}") from error
    return Checkpoint(
        state=State.from_dict(document["state"], path / "state.json"),
        settings=document["settings"],
        learner=learner,
        best=best,
        trees=trees,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} is no JSON that kshot wrote ({error}). {_fall_back(path.parent)}") from error
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        version = document.get("kshot", "an unknown version") if isinstance(document, dict) else "an unknown version"
        same = version == kshot.__version__
        advice = (
            f"it says that kshot {version}, this version, wrote it, so it is damaged. {_fall_back(path.parent)}"
            if same
            else f"kshot {version} wrote it, this is {kshot.__version__}. Go on with the version that wrote it, or "
            "start a new run"
        )
        raise ArtifactError(f"{path} has format {found}, expected {FORMAT}: {advice}")
    missing = sorted(_KEYS - set(document))
    if missing:
        raise ArtifactError(f"{path} lacks {', '.join(missing)}. {_fall_back(path.parent)}")
    return dict(document)


def _fall_back(path: Path) -> str:
    earlier = [step for step in steps_in(path.parent) if path_of(path.parent, step) < path]
    if earlier:
        return f"Remove the folder {path}, and the run goes on from step {earlier[-1]}"
    return "There is no earlier one: start a new run"
