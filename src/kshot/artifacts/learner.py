"""A learner as a folder: `config.json`, `model.safetensors` and a `README.md` card."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import kshot
from kshot import capture
from kshot.artifacts.atomic import atomic_folder
from kshot.artifacts.card import card
from kshot.artifacts.tensors import hash_tensors, load_tensors, save_tensors
from kshot.datasets.transform import transform_from_dict
from kshot.errors import ArtifactError, KshotError, RunError, few, suggest
from kshot.learners.base import Learner
from kshot.randomness import seeded

FORMAT = 1
CONFIG, MODEL, CARD = "config.json", "model.safetensors", "README.md"


def save_pretrained(learner: Learner, path: str | Path) -> Path:
    """Saves a learner as a folder, atomically: class and arguments, tensors, transform, where it comes from.

    Afterwards the learner knows where it was saved, so that tasks adapted from it find it.

    Args:
        learner: any learner whose constructor arguments can be written as JSON.
        path: the folder. One that holds a saved learner is replaced.

    Raises:
        ArtifactError: a constructor argument or a state that cannot be saved.
        RunError: the folder holds something else, the disk is full, or there is no permission.
    """
    path = Path(path)
    _check_place(path)
    provenance = {key: value for key, value in learner.provenance.items() if key != "path"}
    config = {
        "kshot": kshot.__version__,
        "format": FORMAT,
        **_identity(learner),
        "provenance": provenance,
        "digest": digest(learner),
    }
    try:
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ArtifactError(
            f"the learner's provenance cannot be written as JSON ({error}): keep plain values in it"
        ) from error
    with atomic_folder(path) as folder:
        (folder / CONFIG).write_text(text, encoding="utf-8")
        save_tensors(folder / MODEL, _state(learner), {"format": "pt"})
        (folder / CARD).write_text(card(learner, config), encoding="utf-8")
    learner.provenance["path"] = str(path.absolute())
    return path


def from_pretrained(path: str | Path) -> Any:
    """Loads a learner, in eval mode, on the CPU.

    Args:
        path: a folder that `save_pretrained` wrote, a run folder, or the name of a learner that ships with kshot.

    Raises:
        ArtifactError: no learner there; one of a newer format; of a class that is not imported; whose tensors don't fit
            its class (they are named), or are not those that were saved.
    """
    learner, _ = load_learner(path)
    return learner


def digest(learner: Learner) -> str:
    """sha256 of what decides a learner's predictions: class and arguments, transform, parameters and buffers."""
    return _digest(_identity(learner), _state(learner))


def load_learner(path: str | Path) -> tuple[Learner, str]:
    """A learner and its digest, which was verified."""
    folder = find_learner(path)
    config = _read_config(folder)
    tensors, _ = load_tensors(folder / MODEL)
    identity = {"config": config["config"], "transform": config.get("transform")}
    found = _digest(identity, tensors)
    try:
        with seeded(0):  # the initial weights, drawn in vain, come from nobody's random numbers
            learner = capture.build(identity["config"])
        if not isinstance(learner, Learner):
            raise ArtifactError(f"expected a learner, got a {type(learner).__name__}")
        if identity["transform"] is not None:
            learner.transform = transform_from_dict(identity["transform"])
    except (KshotError, KeyError, TypeError, ValueError) as error:
        message = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(f"the learner in {folder} cannot be built: {message}") from error
    load_state(learner, tensors, folder / MODEL)
    if config.get("digest") not in (None, found):
        raise ArtifactError(
            f"{folder} is damaged or was edited: its content has the digest {found[:12]}..., its {CONFIG} says "
            f"{str(config['digest'])[:12]}... Save or copy it again (or, if you edited {CONFIG} on purpose, set its "
            "digest to null)"
        )
    shipped = folder.parent == _shipped()
    learner.provenance = {**config.get("provenance", {}), "path": folder.name if shipped else str(folder.absolute())}
    return learner.eval(), found


def load_state(learner: torch.nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Copies tensors into a module's parameters and buffers, which take over their dtypes.

    Args:
        source: what to call the tensors' file in an error.

    Raises:
        ArtifactError: keys are missing or unexpected, or shapes differ.
    """
    state = learner.state_dict(keep_vars=True)
    name = type(learner).__name__
    missing, unexpected = sorted(state.keys() - tensors.keys()), sorted(tensors.keys() - state.keys())
    if missing or unexpected:
        parts = [f"{what}: {few(keys)}" for what, keys in (("missing", missing), ("unexpected", unexpected)) if keys]
        raise ArtifactError(
            f"{source} does not fit {name}: expected its {len(state)} tensors, got {len(tensors)} ({'; '.join(parts)}"
            "). It was saved from another class or another version of it"
        )
    wrong = [
        f"{key} {list(tensors[key].shape)} instead of {list(state[key].shape)}"
        for key in state
        if tensors[key].shape != state[key].shape
    ]
    if wrong:
        raise ArtifactError(
            f"{source} does not fit {name}: {few(wrong)}. It was saved from a learner with other arguments"
        )
    with torch.no_grad():
        for key, value in state.items():
            if value.dtype != tensors[key].dtype:
                value.data = value.data.to(tensors[key].dtype)
            value.copy_(tensors[key])


def find_learner(path: str | Path) -> Path:
    """The folder with a learner's `config.json` that `path` stands for.

    Raises:
        ArtifactError: there is none.
    """
    given = Path(path).expanduser()
    for folder in (given, given / "learner"):
        if (folder / CONFIG).is_file():
            return folder
    if is_shipped(path):
        return _shipped() / str(path)
    if given.is_file():
        raise ArtifactError(
            f"{path} is a file, expected the folder of a learner. A task file (from kshot adapt) is read by "
            "kshot.artifacts.load_adapted or kshot predict"
        )
    if (given / "checkpoints").is_dir():
        raise ArtifactError(
            f"the run {path} has no learner yet: it was stopped before it saved one. Go on with it: kshot train "
            "--resume, or Trainer(..., resume=True)"
        )
    if given.is_dir():
        raise ArtifactError(
            f"{path} holds no learner: expected a folder with {CONFIG}, as save_pretrained writes it, or a run folder"
        )
    names = [found.parent.name for found in _shipped().glob(f"*/{CONFIG}")]
    known = f" Or a learner that ships with kshot: {suggest(str(path), names)}" if names else ""
    raise ArtifactError(
        f"there is no folder {path}: expected a saved learner or a run, relative to {Path.cwd()}.{known}"
    )


def is_shipped(path: str | Path) -> bool:
    """Whether `path` is the bare name of a learner that ships with kshot."""
    return Path(path).name == str(path) and (_shipped() / str(path) / CONFIG).is_file()


def _identity(learner: Learner) -> dict[str, Any]:
    return {"config": learner.config, "transform": None if learner.transform is None else learner.transform.to_dict()}


def _state(learner: Learner) -> dict[str, Tensor]:
    return dict(learner.state_dict())


def _digest(identity: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    return hash_tensors(json.dumps(identity, sort_keys=True), tensors)


def _shipped() -> Path:
    return Path(__file__).parent.parent / "shipped"


def _check_place(path: Path) -> None:
    """A folder is replaced as a whole: none that holds anything but a learner."""
    if path.is_file():
        raise RunError(f"{path} is a file, expected a folder to save the learner in. Choose another place")
    try:
        others = sorted(set(os.listdir(path)) - {CONFIG, MODEL, CARD}) if path.is_dir() else []
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}. Choose another place") from error
    if others:
        raise RunError(
            f"{path} holds other files ({few(others)}), and saving a learner replaces a folder as a whole. Choose a "
            f"new or empty folder, {path / 'learner'} say"
        )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged: expected JSON, but {error}. Save or copy the learner again") from error
    if not isinstance(config, dict) or not isinstance(config.get("config"), dict) or "format" not in config:
        raise ArtifactError(
            f"{path} does not describe a kshot learner: expected the keys format and config, as save_pretrained writes "
            "them"
        )
    check_format(path, config["format"], config.get("kshot"))
    return config


def check_format(path: Path, found: Any, version: Any) -> None:
    """Refuses a file of another format than this version of kshot reads.

    Raises:
        ArtifactError: another format.
    """
    if found != FORMAT:
        newer = isinstance(found, int) and found > FORMAT
        what = "Upgrade: pip install -U kshot" if newer else "Save it again with this version"
        raise ArtifactError(
            f"{path} has format {found}, expected {FORMAT}, which is what kshot {kshot.__version__} reads; kshot "
            f"{version or 'of an unknown version'} wrote it. {what}"
        )
