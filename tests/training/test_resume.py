"""A run that was killed and resumed is the run that never died."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training_toys import fit, gaussians, maml, protonet, same, sinusoids

import kshot
from kshot.artifacts import load_tensors
from kshot.errors import ConfigError, RunError
from kshot.training import Callback
from kshot.training.interrupts import Interrupts

CLOCK = ("seconds", "tasks_per_second")


def rows(run: Path) -> tuple[list[Any], list[Any]]:
    """The rows of both metrics files without what the clock has a say in."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    with open(run / "metrics.csv", newline="") as file:
        table = list(csv.DictReader(file))
    return tuple([{k: v for k, v in row.items() if k not in CLOCK} for row in part] for part in (lines, table))


def assert_same_run(run: Path, straight: Path) -> None:
    """Weights, the optimizer's state, the best weights and the metrics: bit for bit."""
    for name in ("learner/model.safetensors", "checkpoints/step-00000012/learner.safetensors",
                 "checkpoints/step-00000012/optimizer.safetensors"):  # fmt: skip
        one, other = load_tensors(run / name)[0], load_tensors(straight / name)[0]
        assert one.keys() == other.keys()
        for key in one:
            assert torch.equal(one[key], other[key]), (run.name, name, key)
    assert rows(run) == rows(straight)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_moment(tmp_path: Path) -> None:
    server = Path(__file__).with_name("resume_server.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(server), str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(runs) == 18
    for run in runs:
        assert_same_run(Path(run["run"]), Path(run["straight"]))
    died = [number for run in runs for number in run["signals"]]
    assert died.count(signal.SIGKILL) == 15
    leftovers = [str(path) for path in tmp_path.rglob("*.tmp")]
    assert leftovers == []


class StopAt(Callback):
    """Sends a signal to this process in the middle of a step's end."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGINT) -> None:
        self.step, self.number = step, number

    def on_step(self, trainer: Any, step: int, metrics: Any) -> None:
        if step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_says_how_to_resume(tmp_path: Path, number: signal.Signals, capsys: Any) -> None:
    out = tmp_path / "run"
    options = {"steps": 12, "save_every": 5, "val_every": 4, "lr": 0.01}
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(protonet(noisy=True), gaussians(), out=out, callbacks=[StopAt(7, number)], progress=True, **options)
    assert signal.getsignal(number) is before
    hint = f"stopped after step 7 of 12 and saved. Go on with: kshot train --resume {out}, or Trainer(..., resume=True)"
    assert str(caught.value) == hint
    said = capsys.readouterr().err
    assert f"{number.name}: finishing this step, then saving. Once more to stop at once." in said
    assert hint in said
    assert {p.name for p in (out / "checkpoints").glob("step-*")} == {"step-00000005", "step-00000007"}
    straight = protonet(noisy=True)
    fit(straight, gaussians(), out=tmp_path / "straight", **options)
    resumed = protonet(seed=99, noisy=True)
    result = fit(resumed, gaussians(), out=out, resume=True, **options)
    assert same(resumed, straight)
    assert_same_run(out, tmp_path / "straight")
    assert [row["step"] for row in result.history] == list(range(1, 13))


def test_ctrl_c_in_the_middle_of_a_line(capfd: Any) -> None:
    """The stream that the message would go to is being written when the signal comes."""

    class Interrupting(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            signal.raise_signal(signal.SIGINT)
            return len(data)

    stream = io.BufferedWriter(Interrupting())

    def say(message: str) -> None:
        stream.write(message.encode())
        stream.flush()

    with Interrupts(say) as interrupts:
        say("step 1")
    assert interrupts.asked
    assert capfd.readouterr().err == "SIGINT: finishing this step, then saving. Once more to stop at once.\n"


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    class Twice(StopAt):
        def on_step(self, trainer: Any, step: int, metrics: Any) -> None:
            if step == 3:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
                pytest.fail("still running")

    with pytest.raises(KeyboardInterrupt, match="stopped at once; the last checkpoint is intact"):
        fit(protonet(), gaussians(), out=tmp_path / "run", save_every=2, callbacks=[Twice(3)])
    assert {p.name for p in (tmp_path / "run" / "checkpoints").glob("step-*")} == {"step-00000000", "step-00000002"}


def test_ctrl_c_without_a_run_folder() -> None:
    with pytest.raises(
        KeyboardInterrupt, match="stopped after step 2 of 6; nothing is saved, since the Trainer has no out="
    ):
        fit(protonet(), gaussians(), callbacks=[StopAt(2)])


def test_ctrl_c_in_the_last_step_ends_the_run() -> None:
    assert fit(protonet(), gaussians(), callbacks=[StopAt(6)]).steps == 6


def interrupted(out: Path, step: int = 4, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(protonet(), gaussians(), out=out, callbacks=[StopAt(step)], **options)


def test_a_run_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    first = fit(protonet(), gaussians(), out=tmp_path / "run")
    steps: list[int] = []

    class Count(Callback):
        def on_step(self, trainer: Any, step: int, metrics: Any) -> None:
            steps.append(step)

    learner = protonet(seed=3)
    second = fit(learner, gaussians(), out=tmp_path / "run", resume=True, callbacks=[Count()])
    assert steps == []
    assert same(learner, first.learner)
    assert second.val == first.val
    assert second.best_step == first.best_step
    assert second.history == first.history
    assert second.examples == first.examples


def test_a_run_that_ended_early_stays_so(tmp_path: Path) -> None:
    class Enough(Callback):
        def on_step(self, trainer: Any, step: int, metrics: Any) -> None:
            if step == 2:
                trainer.stop()

    first = fit(protonet(), gaussians(), out=tmp_path / "run", callbacks=[Enough()])
    assert (first.steps, first.stopped) == (2, True)
    assert "val" in first.history[-1]
    assert fit(protonet(), gaussians(), out=tmp_path / "run", resume=True).steps == 2


def test_resume_where_nothing_is_begins(tmp_path: Path) -> None:
    assert fit(protonet(), gaussians(), out=tmp_path / "new", resume=True).steps == 6


def test_a_run_that_cannot_be_written_over(tmp_path: Path) -> None:
    out = tmp_path / "run"
    interrupted(out)
    with pytest.raises(RunError) as caught:
        fit(protonet(), gaussians(), out=out)
    assert str(caught.value) == (
        f"{out} holds a run already, at step 4. Go on with it: Trainer(..., resume=True) or kshot train --resume "
        f"{out}. Or choose another name, or remove it first (--overwrite, overwrite=True)"
    )
    (out / "notes.txt").write_text("mine")
    assert fit(protonet(), gaussians(), out=out, overwrite=True).steps == 6
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "checkpoints" / "step-00000004").exists()


def test_a_folder_of_other_things(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    for options in ({}, {"overwrite": True}):
        with pytest.raises(RunError, match="is not empty and holds no run .thesis.tex, ....: choose another name"):
            fit(protonet(), gaussians(), out=tmp_path, **options)
    with pytest.raises(RunError, match="there is no run to resume in"):
        fit(protonet(), gaussians(), out=tmp_path, resume=True)
    with pytest.raises(RunError, match=r"is a file, expected a folder for the run: choose another name"):
        fit(protonet(), gaussians(), out=tmp_path / "thesis.tex")
    with pytest.raises(ConfigError, match="resume=True or overwrite=True, not both"):
        fit(protonet(), gaussians(), out=tmp_path, resume=True, overwrite=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"lr": 0.5},
            "this one has lr=0.5 (was 0.001). Give the same as before, or start another run in another folder "
            "(--out, out=)",
        ),
        ({"seed": 4, "meta_batch": 8}, "this one has meta_batch=8 (was 4), seed=4 (was 0)."),
        ({"mode": "loop"}, 'this one has mode="loop" (was "native").'),
        ({"optimizer": {"name": "adam", "amsgrad": True}}, "this one has optimizer="),
        (
            {"steps": 12},
            "begun with steps=6, over which its cosine schedule is laid: its learning rate has come down to nothing by",
        ),
        ({"steps": 3, "schedule": "constant"}, 'this one has schedule="constant" (was "cosine").'),
        ({"val_every": 2}, "val_every=2 (was 3)"),
    ],
)
def test_another_run_is_not_resumed(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    interrupted(tmp_path / "run")
    with pytest.raises(ConfigError) as caught:
        fit(protonet(), gaussians(), out=tmp_path / "run", resume=True, **options)
    assert message in str(caught.value)


def test_another_learner_or_source_is_not_resumed(tmp_path: Path) -> None:
    interrupted(tmp_path / "run")
    wider = kshot.ProtoNet(kshot.models.MLP(6, hidden=(16,), out_features=4))
    with pytest.raises(ConfigError, match=r"learner.backbone.hidden=\[16\] \(was \[8\]\)"):
        fit(wider, gaussians(), out=tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match=r"source.train.way=2 \(was 3\)"):
        fit(protonet(), gaussians(way=2), out=tmp_path / "run", resume=True)


def test_a_constant_schedule_can_be_extended(tmp_path: Path) -> None:
    options = {"schedule": "constant", "val_every": 2, "lr": 0.01}
    fit(protonet(), gaussians(), out=tmp_path / "run", steps=6, **options)
    longer, straight = protonet(), protonet()
    result = fit(longer, gaussians(), out=tmp_path / "run", steps=10, resume=True, **options)
    fit(straight, gaussians(), steps=10, **options)
    assert result.steps == 10
    assert same(longer, straight)
    assert "steps: 10" in (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(ConfigError, match="the run has done 10 steps already, it cannot end at steps=8"):
        fit(protonet(), gaussians(), out=tmp_path / "run", steps=8, resume=True, **options)


def test_the_recorded_mode_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"mode": "auto", "steps": 5}
    with monkeypatch.context() as patch:
        patch.setattr(kshot.engine, "choose", lambda *_, **__: "loop")
        with pytest.raises(KeyboardInterrupt):
            fit(maml(), sinusoids(), out=tmp_path / "run", callbacks=[StopAt(2)], **options)
    monkeypatch.setattr(kshot.engine, "choose", lambda *_, **__: pytest.fail("measured again"))
    assert fit(maml(), sinusoids(), out=tmp_path / "run", resume=True, **options).mode == "loop"
    # A run taken up with its resolved configuration names the mode.
    assert fit(maml(), sinusoids(), out=tmp_path / "run", resume=True, **{**options, "mode": "loop"}).mode == "loop"
    with pytest.raises(ConfigError, match='mode="vmap"'):
        fit(maml(), sinusoids(), out=tmp_path / "run", resume=True, **{**options, "mode": "vmap"})


def test_a_resumed_run_says_what_differs(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "run"
    interrupted(out)
    env = json.loads((out / "env.json").read_text())
    (out / "env.json").write_text(json.dumps({**env, "threads": 77}))
    fit(protonet(), gaussians(), out=out, resume=True, progress=True)
    now = torch.get_num_threads()
    assert (
        f"resumed with threads {now} instead of 77: the last bits of the result may differ" in capsys.readouterr().err
    )
    assert json.loads((out / "env.json").read_text())["resumed"][0]["step"] == 4


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    class Second(Callback):
        def on_step(self, trainer: Any, step: int, metrics: Any) -> None:
            with pytest.raises(
                RunError, match=r"another process is training in .*: wait for it, or stop it, or choose"
            ):
                fit(protonet(), gaussians(), out=tmp_path / "run", resume=True)

    fit(protonet(), gaussians(), out=tmp_path / "run", callbacks=[Second()], steps=2)
    assert fit(protonet(), gaussians(), out=tmp_path / "run", resume=True, steps=2).steps == 2


def test_a_run_in_progress_is_not_overwritten(tmp_path: Path) -> None:
    class Second(Callback):
        def on_step(self, trainer: Any, step: int, metrics: Any) -> None:
            with pytest.raises(RunError, match="another process is training in"):
                fit(protonet(), gaussians(), out=tmp_path / "run", overwrite=True)

    fit(protonet(), gaussians(), out=tmp_path / "run", callbacks=[Second()], steps=2)
    assert (tmp_path / "run" / "learner" / "model.safetensors").is_file()
    assert fit(protonet(), gaussians(), out=tmp_path / "run", overwrite=True, steps=3).steps == 3


def test_a_config_of_something_else_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("theme: dark")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "model.pt").write_text("mine")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        fit(protonet(), gaussians(), out=tmp_path, overwrite=True)
    assert (tmp_path / "checkpoints" / "model.pt").read_text() == "mine"
