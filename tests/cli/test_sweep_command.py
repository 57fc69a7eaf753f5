"""`kshot sweep` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

SWEEP = """
base: base.yaml
space:
  learner.inner_lr: [0.01, 0.02]
  training.lr: {low: 1e-4, high: 1e-2, log: true}
trials: 2
confirm_tasks: 10
"""
BASE = """
learner: {name: maml, inner_lr: 0.01}
backbone: {name: mlp, hidden: [8], out_features: 1}
data: {name: sinusoids, shot: 5, query: 5}
training: {steps: 2, meta_batch: 2, val_tasks: 4, mode: vmap}
"""


def test_a_sweep_and_going_on_with_it(kshot):
    Path("base.yaml").write_text(BASE)
    Path("tune.yaml").write_text(SWEEP)
    done = kshot("sweep", "tune.yaml", "--device", "cpu").stdout
    assert "tune: 2 trials of learner.inner_lr, training.lr, kept in sweeps/tune" in done
    assert "trial 1 " in done and "(base)" in done and "MSE, held out" in done
    assert "Train it anew: kshot train sweeps/tune/best.yaml." in done
    assert {path.name for path in Path("sweeps/tune").iterdir()} == {
        *("sweep.db", "sweep.md", "sweep.png", "sweep.json", "best.yaml", "trials"),
    }
    more = json.loads(kshot("sweep", "tune.yaml", "--trials", 3, "--device", "cpu", "--json").stdout)
    assert [trial["number"] for trial in more["trials"]] == [0, 1, 2]
    assert more == json.loads(Path("sweeps/tune/sweep.json").read_text())
    kshot("train", "sweeps/tune/best.yaml")
    assert Path("runs/tune-best/learner").is_dir()


def test_a_base_that_ships_with_kshot(kshot):
    Path("tune.yaml").write_text("base: sinusoid-mamml\nspace: {training.lr: [0.1, 0.2]}\n")
    assert "Did you mean 'sinusoid-maml'?" in kshot("sweep", "tune.yaml", code=2).stderr
    Path("tune.yaml").write_text("base: sinusoid-maml\nspace: {training.lrr: [0.1, 0.2]}\n")
    assert "unknown key training.lrr. Did you mean 'lr'?" in kshot("sweep", "tune.yaml", code=2).stderr


def test_what_makes_no_sense(kshot):
    assert "there is no file nothing.yaml" in kshot("sweep", "nothing.yaml", code=2).stderr
    Path("base.yaml").write_text(BASE)
    Path("tune.yaml").write_text(SWEEP)
    error = kshot("sweep", "tune.yaml", "--storage", "mysql://a/b", code=2).stderr
    assert "expected a database of SQLite or PostgreSQL, got 'mysql://a/b'" in error
    error = kshot("sweep", "tune.yaml", "--storage", "mysql://me:secret@a/b", code=2).stderr
    assert "got 'mysql://me:***@a/b'" in error and "secret" not in error


def test_ctrl_c_tells_no_password(kshot, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("kshot.sweep.sweep", interrupted)
    Path("base.yaml").write_text(BASE)
    Path("tune.yaml").write_text(SWEEP)
    error = kshot("sweep", "tune.yaml", "--storage", "postgresql://me:secret@host/sweeps", code=130).stderr
    assert "what is done is kept in postgresql://me:***@host/sweeps" in error and "secret" not in error
    assert "what is done is kept in sweeps/tune" in kshot("sweep", "tune.yaml", code=130).stderr


def test_torchrun_is_not_for_sweeps(kshot):
    Path("base.yaml").write_text(BASE)
    Path("tune.yaml").write_text(SWEEP)
    error = kshot("sweep", "tune.yaml", code=2, env={"WORLD_SIZE": "2", "RANK": "1"}).stderr
    assert "start it as often as there are trials to run at a time" in error
