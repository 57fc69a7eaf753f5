"""An adapted task as one safetensors file, which names the learner that it belongs to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import kshot
from kshot.artifacts.learner import check_format, digest, find_learner, is_shipped, load_learner
from kshot.artifacts.tensors import hash_tensors, load_tensors, save_tensors
from kshot.artifacts.tree import flatten, unflatten
from kshot.errors import ArtifactError
from kshot.learners.adapted import AdaptedModel
from kshot.learners.base import Learner

FORMAT = 1
KIND = "kshot adapted task"


def save_adapted(model: AdaptedModel, path: str | Path) -> Path:
    """Saves a task: the adapted state, its classes and labels, the digest of its learner and a hint where that is.

    The learner itself is saved apart, once for all its tasks.

    Raises:
        ArtifactError: labels or metadata that JSON has no form for, or an adapted state that is no pytree of tensors.
        RunError: the disk is full, or there is no permission.
    """
    path = Path(path)
    shape, tensors = flatten(model.adapted)
    tensors["classes"] = model.classes
    metadata = {
        "kind": KIND,
        "format": str(FORMAT),
        "kshot": kshot.__version__,
        "learner": digest(model.learner),
        "learner_class": type(model.learner).__name__,
        "learner_places": json.dumps(_places(model.learner, path)),
        "labels": json.dumps([_plain_label(label) for label in model.labels], ensure_ascii=False),
        "tree": json.dumps(shape, ensure_ascii=False),
        "metadata": _dump(model.metadata),
    }
    metadata["digest"] = hash_tensors(metadata["tree"] + metadata["labels"], tensors)
    return save_tensors(path, tensors, metadata)


def load_adapted(path: str | Path, run: str | Path | Learner | None = None) -> AdaptedModel:
    """Loads a task, and the learner that it belongs to.

    Args:
        path: what `save_adapted` (or `kshot adapt`) wrote.
        run: the learner, or where it is (a folder, a run, a shipped name); by default where it was when the task was
            saved, or at the same place relative to the task's file.

    Raises:
        ArtifactError: no such file, truncated or no adapted task, of a newer format; the learner is not there, or is
            another one than the task was adapted from.
    """
    path = Path(path)
    tensors, metadata = load_tensors(path)
    if metadata.get("kind") != KIND:
        raise ArtifactError(
            f"{path} holds no adapted task: expected a file that kshot adapt or AdaptedModel.save wrote. A learner is "
            "loaded with kshot.artifacts.from_pretrained(folder)"
        )
    found = metadata.get("format", "")
    check_format(path, int(found) if found.isdigit() else found, metadata.get("kshot"))
    try:
        shape, labels = json.loads(metadata["tree"]), json.loads(metadata["labels"])
        places, expected = json.loads(metadata["learner_places"]), metadata["learner"]
        extra = json.loads(metadata["metadata"])
        whole = metadata["digest"] == hash_tensors(metadata["tree"] + metadata["labels"], tensors)
        classes = tensors["classes"]
    except (KeyError, ValueError) as error:
        raise ArtifactError(
            f"{path} is damaged: its header lacks or garbles {error}. Adapt and save the task again"
        ) from error
    if not whole:
        raise ArtifactError(
            f"{path} is damaged: its content is not what was saved. Copy it, or adapt and save the task, again"
        )
    learner = _load_learner(path, run, places, expected, metadata.get("learner_class", "learner"))
    device = _device(learner)
    adapted = unflatten(shape, {name: tensor.to(device) for name, tensor in tensors.items()})
    return AdaptedModel(learner, adapted, classes.to(device), labels, extra)


def _load_learner(path: Path, run: str | Path | Learner | None, places: list[str], expected: str, name: str) -> Learner:
    if isinstance(run, Learner):
        _check_digest(path, digest(run), expected, f"the given {type(run).__name__}", name)
        return run
    if run is not None:
        learner, found = load_learner(run)
        _check_digest(path, found, expected, str(run), name)
        return learner
    wrong: tuple[str, str] | None = None
    for place in [*places[:1], *(str(path.parent / p) for p in places[1:])]:
        try:
            find_learner(place)
        except ArtifactError:
            continue
        learner, found = load_learner(place)
        if found == expected:
            return learner
        wrong = wrong or (found, place)
    if wrong is not None:
        _check_digest(path, wrong[0], expected, wrong[1], name)
    where = f"it is no longer at {places[0]}" if places else "it had not been saved when the task was"
    advice = "Say where it is" if places else "Save it (learner.save_pretrained) and say where it is"
    raise ArtifactError(
        f"{path} belongs to a {name} which is not found: {where}. {advice}: --run FOLDER, or run=FOLDER in Python"
    )


def _check_digest(path: Path, found: str, expected: str, place: str, name: str) -> None:
    if found != expected:
        raise ArtifactError(
            f"{path} was adapted from another learner than {place}: expected the {name} with digest {expected[:12]}..."
            f", got {found[:12]}... Say where the right one is (--run FOLDER, or run=...), or adapt again with this one"
        )


def _places(learner: Learner, path: Path) -> list[str]:
    """Where the learner is: absolute (or a shipped name), and relative to the task's folder."""
    place = learner.provenance.get("path") or learner.provenance.get("run")
    if not place:
        return []
    if is_shipped(place):
        return [str(place)]
    try:
        return [os.path.abspath(place), os.path.relpath(place, path.absolute().parent)]
    except ValueError:  # on Windows, another drive
        return [os.path.abspath(place)]


def _plain_label(label: Any) -> Any:
    if isinstance(label, np.generic):
        label = label.item()
    if label is None or isinstance(label, (bool, int, float, str)):
        return label
    raise ArtifactError(
        f"expected labels that are strings or numbers to save a task, got {label!r} ({type(label).__name__}): use "
        "str(label)"
    )


def _dump(metadata: dict[str, Any]) -> str:
    try:
        return json.dumps(metadata, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ArtifactError(
            f"the task's metadata cannot be written as JSON ({error}): keep plain values in it"
        ) from error


def _device(learner: Learner) -> torch.device:
    tensor: Tensor | None = next(learner.parameters(), None)
    return torch.device("cpu") if tensor is None else tensor.device
