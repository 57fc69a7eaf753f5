"""Where the metrics of a run go beside its own files: TensorBoard, Weights & Biases, MLflow, or a logger of your own.

kshot sends nothing anywhere by itself: TensorBoard and MLflow write below the run folder, W&B is offline, unless you
say otherwise here or in their own environment variables.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from kshot.artifacts.atomic import atomic_file
from kshot.errors import ConfigError, MissingExtraError, suggest


@dataclass(frozen=True)
class RunInfo:
    """What a logger is told when a run begins.

    Attributes:
        name: of the run.
        folder: of the run; None where nothing is saved.
        config: the resolved configuration, JSON-able.
        step: outer steps done already; above 0 for a resumed run.
    """

    name: str
    folder: Path | None
    config: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0

    def remembered(self, tracker: str, make: Callable[[], str]) -> str:
        """What a tracker calls this run: made once, and kept in `trackers.json`, so that a resumed run is the same."""
        path = None if self.folder is None else self.folder / "trackers.json"
        known: dict[str, str] = {}
        if path is not None and path.is_file():
            try:
                known = dict(json.loads(path.read_text(encoding="utf-8")))
            except ValueError:  # edited by hand: the trackers begin a new run
                known = {}
        if tracker not in known:
            known[tracker] = make()
            if path is not None:
                atomic_file(path, json.dumps(known, indent=1) + "\n")
        return known[tracker]


@runtime_checkable
class Logger(Protocol):
    """What a logger has to have."""

    def start(self, run: RunInfo) -> None:
        """Before the first step. Rows after `run.step` that a killed run had logged will come again."""

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """A row: `loss`, `grad_norm`, `lr`, `tasks`, `seconds`, `tasks_per_second`; after validations `val`."""

    def close(self) -> None:
        """After the last step, and after an error."""


class TensorBoardLogger:
    """Writes TensorBoard's event files.

    Args:
        folder: where to; by default `tensorboard/` in the run folder.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        _require("tensorboard")
        self.folder = folder
        self._writer: Any = None

    def start(self, run: RunInfo) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = self.folder or _below(run, "tensorboard", "TensorBoardLogger(folder=...)")
        # purge_step hides what a killed run had logged after its checkpoint.
        self._writer = SummaryWriter(str(folder), purge_step=run.step + 1 if run.step else None)
        if not run.step:
            self._writer.add_text("config", f"```json\n{json.dumps(run.config, indent=2, default=str)}\n```")

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        for name, value in _numbers(metrics).items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WandbLogger:
    """Logs to Weights & Biases, offline unless `mode` or $WANDB_MODE says otherwise.

    Args:
        project: of W&B.
        mode: "online", "offline", ...
        options: handed on to `wandb.init`.

    Raises:
        MissingExtraError: wandb is not installed.
    """

    def __init__(self, project: str = "kshot", mode: str | None = None, **options: Any) -> None:
        _require("wandb")
        self.project, self.mode, self.options = project, mode, options
        self._run: Any = None

    def start(self, run: RunInfo) -> None:
        import secrets

        import wandb

        folder = None if run.folder is None else str(run.folder)
        self._run = wandb.init(
            **{
                "project": self.project,
                "name": run.name,
                "id": run.remembered("wandb", lambda: secrets.token_hex(4)),
                "resume": "allow",
                "dir": os.environ.get("WANDB_DIR") or folder,
                "mode": self.mode or os.environ.get("WANDB_MODE", "offline"),
                "config": dict(run.config),
                **self.options,
            }
        )

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._run.log(_numbers(metrics), step=step)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


class MlflowLogger:
    """Logs to MLflow.

    Args:
        uri: of the tracking store; by default $MLFLOW_TRACKING_URI, else a SQLite file `mlflow.db` in the run folder.
        experiment: of MLflow.

    Raises:
        MissingExtraError: mlflow is not installed.
    """

    def __init__(self, uri: str | None = None, experiment: str = "kshot") -> None:
        _require("mlflow")
        self.uri, self.experiment = uri, experiment
        self._client: Any = None
        self._id = ""

    def start(self, run: RunInfo) -> None:
        from mlflow.tracking import MlflowClient

        uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI")
        files = None
        if not uri:
            folder = _below(run, "", "MlflowLogger(uri=...)").absolute()
            uri, files = f"sqlite:///{folder / 'mlflow.db'}", (folder / "mlflow").as_uri()
        self._client = client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(self.experiment)
        experiment = (
            found.experiment_id if found else client.create_experiment(self.experiment, artifact_location=files)
        )
        self._id = run.remembered("mlflow", lambda: str(client.create_run(experiment, run_name=run.name).info.run_id))
        if run.step:
            client.update_run(self._id, status="RUNNING")
        else:
            for key, value in _flat(run.config).items():
                client.log_param(self._id, key, str(value)[:500])

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        for name, value in _numbers(metrics).items():
            self._client.log_metric(self._id, name, value, step=step)

    def close(self) -> None:
        if self._client is not None and self._id:
            self._client.set_terminated(self._id)


_BY_NAME: dict[str, Callable[[], Logger]] = {
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
    "mlflow": MlflowLogger,
}

LOGGERS = tuple(_BY_NAME)


def make_loggers(loggers: Iterable[str | Logger]) -> list[Logger]:
    """Loggers, those given by name made.

    Raises:
        ConfigError: an unknown name, or something that is no logger.
        MissingExtraError: its package is not installed.
    """
    made: list[Logger] = []
    for logger in [loggers] if isinstance(loggers, str) else loggers:
        if isinstance(logger, str):
            if logger not in _BY_NAME:
                raise ConfigError(f"unknown logger {logger!r}. {suggest(logger, _BY_NAME)}")
            made.append(_BY_NAME[logger]())
        elif isinstance(logger, Logger) and not isinstance(logger, type):
            made.append(logger)
        else:
            raise ConfigError(
                f"expected a logger with the methods start, log and close, or one of {', '.join(LOGGERS)}, got "
                f"{logger!r}"
            )
    return made


def _require(package: str) -> None:
    import importlib

    try:
        importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(package, "track") from error


def _below(run: RunInfo, name: str, instead: str) -> Path:
    if run.folder is None:
        raise ConfigError(f"expected a run folder to log to: train with out=, or say where: {instead}")
    return run.folder / name


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if isinstance(value, (int, float))}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        elif value is not None and not (isinstance(value, Sequence) and not value):
            flat[f"{prefix}{key}"] = value
    return flat
