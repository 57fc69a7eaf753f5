"""Checkpoints: whole or not there; errors that say what is safe and what to do."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_toys import fit, gaussians, protonet, same

from kshot.artifacts import atomic
from kshot.errors import ArtifactError, RunError
from kshot.training import Callback, Trainer, checkpoint
from kshot.training.checkpoint import Checkpoint
from kshot.training.state import State


def trained(out: Path, **options: Any) -> Path:
    """A run of 6 steps that was stopped after the fourth, its checkpoints at 2 and 4."""

    class Stop(Callback):
        def on_step(self, trainer: Any, step: int, metrics: Any) -> None:
            if step == 4:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(protonet(), gaussians(), out=out, save_every=2, val_every=2, callbacks=[Stop()], **options)
    return out / "checkpoints" / "step-00000004"


def resume(out: Path, **options: Any) -> Any:
    return fit(protonet(seed=9), gaussians(), out=out, save_every=2, val_every=2, resume=True, **options)


def edit(path: Path, **changes: Any) -> None:
    document = json.loads((path / "state.json").read_text())
    for key, value in changes.items():
        if value is None:
            del document[key]
        else:
            document[key] = value
    (path / "state.json").write_text(json.dumps(document))


def test_every_kind_of_optimizer_state_comes_back(tmp_path: Path) -> None:
    """Tensors of several types, tuples, None, integers as keys, infinities."""
    trees = {
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2, 3), "flag": None}, 1: {"n": 4}},
            "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "fused": None, "params": [0, 1], "maximize": False}],
        },
        "schedule": {"best": float("inf"), "last_epoch": 3, "_last_lr": [0.1], "lr_lambdas": [None]},
    }
    weights = {"weight": torch.randn(3), "half": torch.randn(2).bfloat16(), "count": torch.tensor(4)}
    state = State(step=3, best_step=3, best_score=0.5, offsets={"metrics.jsonl": 7})
    checkpoint.save(tmp_path, Checkpoint(state, {"lr": 0.1}, weights, weights, trees))
    loaded = checkpoint.load_last(tmp_path)
    assert loaded is not None
    assert loaded.state == state
    assert loaded.settings == {"lr": 0.1}
    assert loaded.trees["schedule"] == trees["schedule"]
    assert loaded.trees["optimizer"]["param_groups"] == trees["optimizer"]["param_groups"]
    first = loaded.trees["optimizer"]["state"][0]
    assert torch.equal(first["exp_avg"], trees["optimizer"]["state"][0]["exp_avg"])
    assert first["step"].shape == ()
    assert loaded.trees["optimizer"]["state"][1] == {"n": 4}
    assert loaded.best is loaded.learner  # written once
    assert all(torch.equal(loaded.learner[key], weights[key]) for key in weights)
    assert {p.name for p in (tmp_path / "step-00000003").iterdir()} == {
        "learner.safetensors", "optimizer.safetensors", "state.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "adam",
        "adamw",
        "sgd",
        "rmsprop",
        "adagrad",
        "adadelta",
        "adamax",
        "nadam",
        "radam",
        "asgd",
        "rprop",
        "adafactor",
    ],
)
def test_torch_optimizers_resume(tmp_path: Path, name: str) -> None:
    options = {"optimizer": name, "lr": 0.01}
    trained(tmp_path / "run", **options)
    straight = fit(protonet(), gaussians(), val_every=2, **options)
    assert same(resume(tmp_path / "run", **options).learner, straight.learner)


def test_a_scaler_and_a_plateau_schedule_resume(tmp_path: Path) -> None:
    def plateau(optimizer: Any, steps: int) -> Any:
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", factor=0.5, patience=0)

    options = {"schedule": plateau, "amp": "fp16", "lr": 0.01}
    trained(tmp_path / "run", **options)
    straight = fit(protonet(), gaussians(), val_every=2, **options)
    resumed = resume(tmp_path / "run", **options)
    assert same(resumed.learner, straight.learner)
    assert [row["lr"] for row in resumed.history] == [row["lr"] for row in straight.history]


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    fit(protonet(), gaussians(), out=tmp_path, steps=9, save_every=2, val_every=9)
    assert checkpoint.steps_in(tmp_path / "checkpoints") == [8, 9]


def test_a_checkpoint_of_another_version(tmp_path: Path) -> None:
    path = trained(tmp_path)
    edit(path, format=7, kshot="9.9")
    with pytest.raises(ArtifactError) as caught:
        resume(tmp_path)
    assert str(caught.value) == (
        f"{path}/state.json has format 7, expected 1: kshot 9.9 wrote it, this is 0.1.0. Go on with the version that "
        "wrote it, or start a new run"
    )


def test_a_checkpoint_with_missing_keys(tmp_path: Path) -> None:
    path = trained(tmp_path)
    edit(path, trees=None)
    message = f"state.json lacks trees. Remove the folder {path}, and the run goes on from step 2"
    with pytest.raises(ArtifactError, match=message.replace(".", r"\.")):
        resume(tmp_path)


def test_a_state_with_other_keys(tmp_path: Path) -> None:
    path = trained(tmp_path)
    state = json.loads((path / "state.json").read_text())["state"]
    edit(path, state={**{k: v for k, v in state.items() if k != "waited"}, "epoch": 3})
    with pytest.raises(ArtifactError, match=r"does not hold what .* holds \(missing waited; unexpected epoch\)"):
        resume(tmp_path)


@pytest.mark.parametrize("name", ["learner.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("what", ["cut", "gone"])
def test_a_damaged_checkpoint_and_the_way_back(tmp_path: Path, name: str, what: str) -> None:
    path = trained(tmp_path)
    if what == "cut":
        (path / name).write_bytes((path / name).read_bytes()[:40])
    else:
        (path / name).unlink()
    with pytest.raises(ArtifactError, match=f"Remove the folder {path}, and the run goes on from step 2"):
        resume(tmp_path)
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    assert same(resume(tmp_path).learner, fit(protonet(), gaussians(), val_every=2).learner)


def test_tensors_that_do_not_fit_the_learner(tmp_path: Path) -> None:
    path = trained(tmp_path)
    tensors, _ = checkpoint.load_tensors(path / "learner.safetensors")
    first = next(iter(tensors))
    checkpoint.save_tensors(path / "learner.safetensors", {k: v for k, v in tensors.items() if k != first})
    with pytest.raises(ArtifactError, match=f"does not fit ProtoNet: expected its 4 tensors, got 3 .missing: {first}"):
        resume(tmp_path)


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = atomic._flush

    def full(path: Path) -> None:
        if "step-00000004" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(path)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_flush", full)
        with pytest.raises(RunError) as caught:
            fit(protonet(), gaussians(), out=tmp_path, save_every=2, val_every=2)
    message = str(caught.value)
    assert "cannot be written, the disk is full" in message
    assert f"The checkpoint of step 2 is intact ({tmp_path / 'checkpoints' / 'step-00000002'})." in message
    assert checkpoint.steps_in(tmp_path / "checkpoints") == [0, 2]
    assert list(tmp_path.rglob("*.tmp")) == []
    assert same(resume(tmp_path).learner, fit(protonet(), gaussians(), val_every=2).learner)


def test_a_full_disk_while_metrics_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kshot.training import metrics_files

    write = metrics_files.MetricsFiles._write

    def full(self: Any, name: str, line: str) -> None:
        if line.startswith("5,"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, name, line)

    with monkeypatch.context() as patch:
        patch.setattr(metrics_files.MetricsFiles, "_write", full)
        with pytest.raises(
            RunError, match="the metrics in .* cannot be written .No space left.*The checkpoint of step 4 is"
        ):
            fit(protonet(), gaussians(), out=tmp_path, save_every=2, val_every=2)
    result = resume(tmp_path)
    assert [row["step"] for row in result.history] == [1, 2, 3, 4, 5, 6]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 7


def test_no_permission_is_said_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(
        RunError, match=r"cannot be made \(Permission denied\): change the permissions, or choose another"
    ):
        fit(protonet(), gaussians(), out=tmp_path / "run")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="Permission denied"):
        fit(protonet(), gaussians(), out=tmp_path / "run")


def test_a_state_that_json_cannot_say(tmp_path: Path) -> None:
    class Odd(torch.optim.SGD):
        def state_dict(self) -> Any:
            return {**super().state_dict(), "odd": nn.ReLU()}

    with pytest.raises(ArtifactError, match="the state of the optimizer cannot be written to a checkpoint"):
        fit(protonet(), gaussians(), out=tmp_path, optimizer=lambda parameters: Odd(parameters, lr=0.1))


def test_another_optimizer_behind_the_same_name(tmp_path: Path) -> None:
    kinds = iter([torch.optim.SGD, torch.optim.Adam])

    def optimizer(parameters: Any) -> Any:
        cls = next(kinds)
        return cls(list(parameters)[:2] if cls is torch.optim.Adam else parameters, lr=0.1)

    trained(tmp_path, optimizer=optimizer)
    with pytest.raises(ArtifactError, match="the checkpoint's optimizer state does not fit the Adam of this run"):
        resume(tmp_path, optimizer=optimizer)


def test_half_removed_and_half_written_folders_are_cleared_away(tmp_path: Path) -> None:
    trained(tmp_path)
    folder = tmp_path / "checkpoints"
    (folder / "step-00000001").mkdir()
    (folder / ".step-00000006.0badcafe.tmp").mkdir()
    (folder / ".step-00000006.0badcafe.tmp" / "learner.safetensors").write_bytes(b"half")
    resume(tmp_path)
    assert {p.name for p in folder.iterdir()} == {".lock", "step-00000004", "step-00000006"}


@pytest.mark.parametrize("known", [True, False])
def test_bf16_without_instructions_for_it_is_said(known, monkeypatch, capsys):
    from kshot.training import environment

    monkeypatch.setattr(environment, "has_bf16", lambda: known)
    Trainer(protonet(), gaussians(), steps=1, meta_batch=2, val_tasks=2, mode="loop", amp="bf16").fit()
    said = capsys.readouterr()
    assert ("amp='bf16' on a CPU without instructions for it (" in said.err + said.out) is not known
