"""Callbacks and what the user sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from training_toys import fit, gaussians, maml, protonet, sinusoids

import kshot
from kshot.training import Callback
from kshot.training.progress import Bar, Lines, Progress, make_progress


class Diary(Callback):
    def __init__(self) -> None:
        self.entries: list[str] = []

    def on_start(self, trainer: Any) -> None:
        self.entries.append(f"start {trainer.step}")

    def on_step(self, trainer: Any, step: int, metrics: Any) -> None:
        assert set(metrics) == {"loss", "grad_norm", "lr"}
        assert trainer.step == step
        self.entries.append(f"step {step}")

    def on_validation(self, trainer: Any, step: int, score: Any) -> None:
        assert score.n == 10
        self.entries.append(f"validation {step}")

    def on_checkpoint(self, trainer: Any, path: Path) -> None:
        assert (path / "state.json").is_file()
        self.entries.append(f"checkpoint {path.name}")

    def on_end(self, trainer: Any, result: Any) -> None:
        assert not result.learner.training
        self.entries.append(f"end {result.steps}")


def test_the_order_of_callbacks(tmp_path: Path) -> None:
    diary = Diary()
    fit(
        protonet(), gaussians(), steps=4, val_every=2, save_every=4, callbacks=[diary, Callback()], out=tmp_path / "run"
    )
    assert diary.entries == [
        "start 0", "checkpoint step-00000000", "step 1", "step 2", "validation 2", "step 3", "step 4", "validation 4",
        "checkpoint step-00000004", "end 4",
    ]  # fmt: skip


def test_a_callback_may_stop_the_training() -> None:
    class Enough(Diary):
        def on_validation(self, trainer: Any, step: int, score: Any) -> None:
            super().on_validation(trainer, step, score)
            trainer.stop()

    diary = Enough()
    result = fit(protonet(), gaussians(), steps=9, val_every=3, callbacks=[diary])
    assert diary.entries[-2:] == ["validation 3", "end 3"]
    assert result.stopped


def test_an_error_in_a_callback_gives_everything_back(tmp_path: Path) -> None:
    import signal

    class Wrong(Callback):
        def on_step(self, trainer: Any, step: int, metrics: Any) -> None:
            raise RuntimeError("mine")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError, match="mine"):
        fit(protonet(), gaussians(), callbacks=[Wrong()], out=tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is before
    assert fit(protonet(), gaussians(), out=tmp_path / "run", resume=True).steps == 6


def test_lines_where_there_is_no_terminal(capsys: Any) -> None:
    fit(protonet(), gaussians(), val_every=3, progress=None)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 6
    assert lines[2].startswith("step 3/6, loss ")
    assert ", val " in lines[2]
    assert " %, " in lines[2]
    fit(maml(), sinusoids(), val_every=3, progress=None)
    assert ", val mse " in capsys.readouterr().err
    fit(protonet(), gaussians(), progress=False)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert type(make_progress(False, 3, "classification")) is Progress
    assert type(make_progress(None, 3, "classification")) is Lines
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert type(make_progress(None, 3, "classification")) is Bar
    result = fit(protonet(), gaussians(), steps=4, val_every=2, progress=None)
    said = capsys.readouterr().err
    assert "step 2/4, loss " in said
    assert "step 4/4, loss " in said
    assert result.steps == 4


def test_training_outside_the_main_thread() -> None:
    from threading import Thread

    results: list[kshot.training.TrainResult] = []
    thread = Thread(target=lambda: results.append(fit(protonet(), gaussians())))
    thread.start()
    thread.join()
    assert results[0].steps == 6
