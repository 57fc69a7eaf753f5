"""The folder of a run: what stands in it beside the checkpoints, and whether it may be written to."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from kshot.artifacts.atomic import atomic_file, remove_leftovers
from kshot.artifacts.tensors import save_tensors
from kshot.errors import ConfigError, RunError
from kshot.tasks.source import TaskSource
from kshot.training import checkpoint, environment
from kshot.training.seen import train_and_val_hashes

OURS = (
    "config.yaml",
    "env.json",
    "metrics.jsonl",
    "metrics.csv",
    "splits.json",
    "seen.safetensors",
    "trackers.json",
    "checkpoints",
    "learner",
    "baselines",
    "tensorboard",
    "wandb",
    "mlflow",
    "mlflow.db",
    "report.html",
    "report.json",
)
"""What a run writes, and `overwrite` removes; also its `evaluation-*.json`."""


class RunFolder:
    """A run folder that was found fit to be written to.

    Args:
        path: the folder; made where it is missing.
        resume: go on with the run in it, if there is one.
        overwrite: remove the run in it first.

    Raises:
        RunError: it is not empty, neither `resume` nor `overwrite` being asked for; it holds something else than a run;
            there is no permission.
    """

    def __init__(self, path: str | Path, *, resume: bool = False, overwrite: bool = False) -> None:
        self.path = Path(path)
        if resume and overwrite:
            raise ConfigError("expected resume=True or overwrite=True, not both: go on with the run, or begin anew?")
        content = self._content()
        if content and not resume:
            if not self._is_run(content):
                raise RunError(
                    f"the folder {self.path} is not empty and holds no run ({', '.join(content[:3])}, ...): choose "
                    "another name"
                )
            if not overwrite:
                raise RunError(
                    f"{self.path} holds a run already{self._how_far()}. Go on with it: Trainer(..., resume=True) or "
                    f"kshot train --resume {self.path}. Or choose another name, or remove it first "
                    "(--overwrite, overwrite=True)"
                )
        elif content and not self._is_run(content):
            raise RunError(f"there is no run to resume in {self.path} ({', '.join(content[:3])}, ...): check the path")
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"the run folder {self.path} cannot be made ({error.strerror or error}): change the permissions, or "
                "choose another place (--out, out=)"
            ) from error
        self._lock = self._locked()
        if content and overwrite:
            self._remove()  # only now that nobody else can be training in it
        checkpoint.clean(self.checkpoints)
        with contextlib.suppress(OSError):
            remove_leftovers(self.path)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        """Lets other processes train here."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def name(self) -> str:
        return self.path.absolute().name

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def learner(self) -> Path:
        return self.path / "learner"

    def write_config(self, config: Mapping[str, Any]) -> None:
        """`config.yaml`, from JSON-able values."""
        import yaml

        text = yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False, allow_unicode=True, width=100)
        atomic_file(self.path / "config.yaml", text)

    def write_environment(self, device: torch.device, step: int) -> list[str]:
        """`env.json`; for a resumed run what differs is appended, and said (an empty list: nothing)."""
        path = self.path / "env.json"
        now = environment.environment(device)
        different: list[str] = []
        if step and path.is_file():
            try:
                first = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                first = {}
            earlier = first.get("resumed", [])
            different = environment.changed(earlier[-1] if earlier else first, now)
            now = {**first, "resumed": [*earlier, {"step": step, **now}]}
        atomic_file(path, json.dumps(now, indent=2) + "\n")
        return different

    def write_source(self, source: TaskSource, seen: torch.Tensor | None = None) -> None:
        """`splits.json`, the class names of each split, and `seen.safetensors`, hashes of train and val examples.

        Args:
            seen: hashes of what the weights that it begins with have seen.
        """
        pools = {name: split.pool for name, split in source.splits.items()}
        names = {name: None if pool is None else list(pool.names) for name, pool in pools.items()}
        text = json.dumps(
            {"source": source.spec, **{k: v for k, v in names.items() if v is not None}}, ensure_ascii=False
        )
        atomic_file(self.path / "splits.json", text + "\n")
        hashes = [part for part in (train_and_val_hashes(source), seen) if part is not None]
        if hashes:
            save_tensors(self.path / "seen.safetensors", {"hashes": torch.cat(hashes).unique()})

    def _locked(self) -> IO[bytes] | None:
        """Holds a lock on the folder, which the system gives back when the process ends, however it does."""
        try:
            import fcntl
        except ImportError:  # Windows has no such locks
            return None
        file = None
        try:
            file = open(self.checkpoints / ".lock", "ab")  # noqa: SIM115 (held for the length of the training)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            assert file is not None
            file.close()
            raise RunError(
                f"another process is training in {self.path}: wait for it, or stop it, or choose another name"
            ) from error
        except OSError as error:
            if file is None:
                raise RunError(
                    f"the run folder {self.path} cannot be written to ({error.strerror or error}): change the "
                    "permissions, or choose another place"
                ) from error
        return file  # where the file system has no locks, without one

    def _content(self) -> list[str]:
        if not self.path.exists():
            return []
        if not self.path.is_dir():
            raise RunError(f"{self.path} is a file, expected a folder for the run: choose another name")
        try:
            return sorted(p.name for p in self.path.iterdir() if not p.name.endswith(".tmp"))
        except OSError as error:
            raise RunError(
                f"the run folder {self.path} cannot be read ({error.strerror or error}): choose another place"
            ) from error

    def _is_run(self, content: list[str]) -> bool:
        """Whether it holds what only a run leaves: a `config.yaml` alone may be anyone's."""
        own = (self.checkpoints / ".lock").exists() or bool(checkpoint.steps_in(self.checkpoints))
        return own or {"config.yaml", "env.json"} <= set(content)

    def _how_far(self) -> str:
        steps = checkpoint.steps_in(self.checkpoints)
        return f", at step {steps[-1]}" if steps else ""

    def _remove(self) -> None:
        try:
            names = [name for name in OURS if name != "checkpoints"]
            paths = [self.path / name for name in names]
            paths += self.path.glob("evaluation-*.json")
            paths += [path for path in self.checkpoints.iterdir() if path.name != ".lock"]  # which is held
            for path in paths:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.exists() or path.is_symlink():
                    path.unlink()
        except OSError as error:
            raise RunError(
                f"the run in {self.path} cannot be removed ({error.strerror or error}): choose another name"
            ) from error
