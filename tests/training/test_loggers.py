"""TensorBoard, W&B and MLflow against stores on this machine, read back."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
from training_toys import fit, gaussians, protonet

from kshot.errors import ConfigError, MissingExtraError
from kshot.training import Callback, MlflowLogger, TensorBoardLogger, WandbLogger
from kshot.training.loggers import RunInfo, make_loggers


class Die(Callback):
    def on_step(self, trainer: Any, step: int, metrics: Any) -> None:
        if step == 5:
            raise RuntimeError("died")


def killed_and_resumed(out: Path, loggers: Any) -> list[dict[str, Any]]:
    """A run whose steps 3 and 4 were logged, lost with the process, and done again."""
    options = {"out": out, "save_every": 2, "val_every": 2, "schedule": "constant"}
    with pytest.raises(RuntimeError, match="died"):
        fit(protonet(), gaussians(), loggers=loggers(), callbacks=[Die()], **options)
    (out / "checkpoints" / "step-00000004" / "state.json").unlink()
    for path in (out / "checkpoints" / "step-00000004").iterdir():
        path.unlink()
    (out / "checkpoints" / "step-00000004").rmdir()
    return list(fit(protonet(), gaussians(), loggers=loggers(), resume=True, **options).history)


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = killed_and_resumed(tmp_path / "run", lambda: ["tensorboard"])
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert {"loss", "val", "lr", "grad_norm", "tasks_per_second"} <= set(events.Tags()["scalars"])
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5, 6]
    assert [value for _, value in losses] == pytest.approx([row["loss"] for row in history])
    assert [event.step for event in events.Scalars("val")] == [2, 4, 6]


def test_mlflow_in_a_local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    history = killed_and_resumed(tmp_path / "run", lambda: [MlflowLogger()])
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("kshot")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert run.data.params["training.schedule"] == "constant"
    assert run.data.metrics["loss"] == pytest.approx(history[-1]["loss"])
    assert {metric.step for metric in client.get_metric_history(run.info.run_id, "val")} == {2, 4, 6}


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    fit(protonet(), gaussians(), loggers=[WandbLogger(project="tests")], out=tmp_path / "run", val_every=3)
    (folder,) = [path for path in (tmp_path / "wandb").iterdir() if path.name.startswith("offline-run")]
    (record,) = folder.glob("*.wandb")
    content = record.read_bytes()
    assert b"grad_norm" in content
    assert b"val_half_width" in content
    known = json.loads((tmp_path / "run" / "trackers.json").read_text())
    assert known["wandb"] in record.name


def test_the_name_of_a_run_is_remembered(tmp_path: Path) -> None:
    run = RunInfo("run", tmp_path)
    assert run.remembered("wandb", lambda: "abc") == "abc"
    assert run.remembered("wandb", lambda: "other") == "abc"
    assert RunInfo("run", None).remembered("wandb", lambda: "other") == "other"


def test_a_logger_of_ones_own(tmp_path: Path) -> None:
    class Mine:
        def __init__(self) -> None:
            self.rows: list[Any] = []
            self.closed = 0

        def start(self, run: RunInfo) -> None:
            self.run = run

        def log(self, step: int, metrics: Any) -> None:
            self.rows.append((step, dict(metrics)))

        def close(self) -> None:
            self.closed += 1

    mine = Mine()
    result = fit(protonet(), gaussians(), loggers=[mine])
    assert [{"step": step, **row} for step, row in mine.rows] == result.history
    assert mine.closed == 1
    assert mine.run.folder is None
    assert mine.run.config["training"]["lr"] == 0.001
    broken = Mine()
    with pytest.raises(RuntimeError, match="died"):
        fit(protonet(), gaussians(), loggers=[broken], callbacks=[Die()])
    assert broken.closed == 1


@pytest.mark.parametrize("logger", [TensorBoardLogger, MlflowLogger])
def test_a_run_without_a_folder_needs_a_place(logger: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="expected a run folder to log to: train with out=, or say where: "):
        fit(protonet(), gaussians(), loggers=[logger()])


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(module: str, *arguments: Any, **options: Any) -> Any:
        if module.partition(".")[0] == name:
            raise ImportError(module)
        return original(module, *arguments, **options)

    def not_found(module: str, *arguments: Any) -> Any:
        if module.partition(".")[0] == name:
            raise ModuleNotFoundError(module)
        return import_module(module, *arguments)

    import importlib

    import_module = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", not_found)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        MissingExtraError, match=rf"{name} is not installed. Install it with: pip install 'kshot\[track\]'"
    ):
        make_loggers([name])


def test_what_is_no_logger() -> None:
    with pytest.raises(
        ConfigError, match="expected a logger with the methods start, log and close, or one of tensorboard"
    ):
        make_loggers([3])  # type: ignore[list-item]
