"""Sweeps from their first trial to their report, stopped, taken up, and shared by processes."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import yaml
from sweep_toys import BASE, SPACE, run, spec

from kshot import tasks
from kshot.errors import ConfigError, RunError, UnsupportedError
from kshot.learners import MAML
from kshot.sweep import SweepResult, sweep
from kshot.sweep.study import open_study
from kshot.training.config import parse_config
from postgres import new_database

HERE = Path(__file__).parent


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: Any, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shared.db"
    return new_database(request.getfixturevalue("postgres"))


def values(result: SweepResult) -> list[tuple[dict[str, Any], float | None]]:
    return [(trial.values, trial.value) for trial in result.trials]


def test_what_comes_of_a_sweep(tmp_path: Path) -> None:
    said: list[str] = []
    result = run(tmp_path, said, trials=12, pruner="none")
    assert [trial.number for trial in result.trials] == list(range(12)) and len(said) == 12
    assert result.trials[0].values == {"learner.inner_lr": 0.01, "training.meta_batch": 4}  # what the base has is first
    best, base = result.best, result.base
    assert best is not None and base is result.trials[0]
    assert best.value == min(trial.value for trial in result.trials if trial.value is not None)
    # Chosen and confirmed on other tasks, as many as were asked for.
    assert best.val is not None and best.val.n == 10 and len(best.confirm) == 20
    assert best.confirmed is not None and best.confirmed.mean != best.val.mean
    if best is not base:
        assert result.gain is not None and result.gain.n == 20
    assert set(result.importance) == set(SPACE) and sum(result.importance.values()) == pytest.approx(1)
    kept = json.loads((tmp_path / "sweep.json").read_text())
    assert kept["best"]["number"] == best.number and len(kept["trials"]) == 12
    assert str(result).splitlines()[0] in (tmp_path / "sweep.md").read_text()
    assert "fANOVA" in (tmp_path / "sweep.md").read_text()
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    config = parse_config(yaml.safe_load((tmp_path / "best.yaml").read_text()))
    assert config.learner.options["inner_lr"] == best.values["learner.inner_lr"] and config.out == "runs/toy-best"
    # A learner of each is there, its checkpoints are not.
    assert MAML.from_pretrained(tmp_path / "trials/0003/learner").inner_lr is not None
    assert not (tmp_path / "trials/0003/checkpoints").exists()


def test_the_same_sweep_again_and_in_parts(tmp_path: Path) -> None:
    whole = run(tmp_path / "a", trials=6)
    assert values(run(tmp_path / "b", trials=6)) == values(whole)
    run(tmp_path / "c", trials=2)
    said: list[str] = []
    assert values(run(tmp_path / "c", said, trials=6)) == values(whole)
    assert len(said) == 4  # two were there
    assert values(run(tmp_path / "d", trials=6, seed=1)) != values(whole)


def test_classes_are_chosen_on_halves(tmp_path: Path) -> None:
    base = {
        "learner": "protonet",
        "backbone": {"name": "conv4", "channels": 4},
        "data": {"name": "digits", "way": 2, "shot": 1, "query": 2},
        "training": {"steps": 2, "meta_batch": 2, "val_tasks": 10, "mode": "vmap", "device": "cpu"},
    }
    with pytest.raises(ConfigError, match="digits has no val classes to choose on"):
        run(tmp_path, base=base, space={"backbone.channels": [4, 8]})
    base["data"] = {"name": "glyphs", "way": 5, "shot": 1, "query": 2}
    space = {"backbone.channels": [4, 8], "data.train.way": [5, 7]}
    result = run(tmp_path, base=base, space=space, trials=3)
    assert result.metric == "accuracy"
    assert all(trial.confirmed is not None for trial in result.trials if trial.state == "complete")
    whole = tasks.load("glyphs", way=5, shot=1, query=2)
    seen = json.loads((tmp_path / "trials/0000/splits.json").read_text())
    assert len(seen["val"]) == (len(whole.val.pool) + 1) // 2 and set(seen["val"]) < set(whole.val.pool.names)


def test_without_confirmation(tmp_path: Path) -> None:
    result = run(tmp_path, trials=2, confirm=False)
    assert all(not trial.confirm for trial in result.trials)
    assert "Nothing is held out (confirm: false)" in str(result)


def test_what_is_worse_is_ended_early(tmp_path: Path) -> None:
    said: list[str] = []
    base = {**BASE, "training": {**BASE["training"], "steps": 40, "val_every": 4, "optimizer": "sgd", "val_tasks": 40}}
    space = {"training.lr": {"low": 1e-6, "high": 0.05, "log": True}}
    result = run(tmp_path, said, base=base, space=space, trials=14, sampler="random")
    pruned = [trial for trial in result.trials if trial.state == "pruned"]
    assert pruned and all(trial.value is None and not trial.confirm for trial in pruned)
    assert all(max(trial.curve) < 40 for trial in pruned)
    assert any("pruned at step" in line for line in said)
    assert f"{len(pruned)} pruned" in str(result)


def test_a_trial_that_diverges_on_some_held_out_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kshot.sweep import trial

    scored = trial.Objective._confirm
    monkeypatch.setattr(trial.Objective, "_confirm", lambda self, result: [*scored(self, result)[1:], math.inf])
    result = run(tmp_path, trials=3)
    assert result.gain is None
    assert all(t.confirmed is not None and t.confirmed.mean == math.inf for t in result.trials)
    assert "inf ± ?" in str(result)
    json.loads((tmp_path / "sweep.json").read_text(), parse_constant=pytest.fail)


def test_a_trial_that_diverges_is_one_to_stay_away_from(tmp_path: Path) -> None:
    said: list[str] = []
    result = run(tmp_path, said, space={"learner.inner_lr": [0.01, 1e30]}, trials=4, sampler="random", seed=3)
    diverged = [trial for trial in result.trials if trial.values["learner.inner_lr"] == 1e30]
    assert diverged and all((trial.state, trial.reason) == ("pruned", "diverged") for trial in diverged)
    assert any("diverged (learner.inner_lr=1e+30)" in line for line in said)
    assert "importance" not in (result.best_config()["learner"])
    assert f"{len(diverged)} diverged" in str(result)


def test_a_trial_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reasons are kept, the sweep goes on; where none can be, it says why."""
    from kshot.sweep import trial

    built = trial.build_learner

    def build(config: Any, source: Any) -> Any:
        if config.training.meta_batch > 4:
            raise UnsupportedError("too wide for this machine")
        return built(config, source)

    monkeypatch.setattr(trial, "build_learner", build)
    space = {"training.meta_batch": [4, 8]}
    result = run(tmp_path / "some", space=space, trials=5, sampler="random")
    failed = [t for t in result.trials if t.state == "fail"]
    assert failed and all(t.reason == "too wide for this machine" for t in failed)
    assert "too wide for this machine" in str(result)
    with pytest.raises(RunError, match="none of 5 trials could be trained: too wide for this machine"):
        run(tmp_path / "none", space={"training.meta_batch": [8, 16]}, trials=9)


def test_an_interrupted_trial_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kshot.sweep import trial

    whole = run(tmp_path / "whole", trials=3)
    report, seen = trial.Pruning.on_validation, []

    def interrupted(self: Any, trainer: Any, step: int, score: Any) -> None:
        report(self, trainer, step, score)
        seen.append(step)
        if len(seen) == 3:  # the first validation of the second trial
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(trial.Pruning, "on_validation", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 2 of 4 and saved"):
        run(tmp_path / "parts", trials=3)
    again = run(tmp_path / "parts", trials=3)
    assert [t.number for t in again.trials] == [0, 2, 3]
    assert values(again)[:2] == values(whole)[:2]
    assert again.trials[1].folder == str(tmp_path / "parts/trials/0001")  # its run went on: steps 1 and 2 were there
    assert seen == [2, 4, 2, 4, 2, 4]


def test_the_base_is_the_trial_of_what_the_base_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the first one; and it is still that when another process goes on with it."""
    said: list[str] = []
    away = run(tmp_path / "away", said, space={"learner.inner_lr": {"low": 0.02, "high": 0.1}}, trials=3)
    assert said[0] == "what the base has is not in the space: it is no trial"
    assert away.base is None and away.gain is None
    assert "base" not in str(away)
    from kshot.sweep import trial

    report = trial.Pruning.on_validation

    def interrupted(self: Any, trainer: Any, step: int, score: Any) -> None:
        report(self, trainer, step, score)
        monkeypatch.setattr(trial.Pruning, "on_validation", report)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(trial.Pruning, "on_validation", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", trials=2)
    again = run(tmp_path / "parts", trials=2)
    assert [t.number for t in again.trials] == [1, 2]
    assert again.base is again.trials[0] and again.base.values == {"learner.inner_lr": 0.01, "training.meta_batch": 4}
    assert "trial 1 (base)" in str(again)


def test_scores_that_are_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that make no difference have no importance, and the report is written."""
    from kshot.metrics import Interval
    from kshot.sweep import trial

    monkeypatch.setattr(
        trial.Objective, "_run", lambda self, *a, **k: (SimpleNamespace(seconds=1.0), Interval(1, 0, 9))
    )
    result = run(tmp_path, trials=10, confirm=False, pruner="none")
    assert len(result.ranked) == 10 and result.importance == {}
    assert "Importance is not told: all scores are the same." in (tmp_path / "sweep.md").read_text()


def studied(space: dict[str, Any], fixed: dict[str, Any], trials: int = 12) -> SweepResult:
    """A sweep whose scores are the numbers of its trials."""
    made = spec(space=space)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(trials):
        study.enqueue_trial(fixed)

    def score(trial: Any) -> float:
        for path, values in made.space.items():
            values.suggest(trial, path)
        return float(trial.number)

    study.optimize(score, n_trials=trials)
    return SweepResult.of(study, made, "regression")


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_importance_is_told_where_it_can_be() -> None:
    space = {"learner.inner_lr": [0.01, 0.02], "learner.inner_steps": [1, 2]}
    one = studied(space, {"learner.inner_steps": 1})  # a key that has one value in all trials explains nothing
    assert one.importance == {"learner.inner_lr": 1.0, "learner.inner_steps": 0.0}
    assert "(share of the variance of ranks that a key explains, fANOVA): learner.inner_lr 1.00" in str(one)
    for given, fixed, trials, why in [
        (space, {"learner.inner_lr": 0.01, "learner.inner_steps": 1}, 12, "all trials to their end have the same"),
        (space, {}, 9, "fewer than 10 trials came to their end"),
        ({"learner.inner_steps": [1, 2]}, {}, 12, "the space has one key alone"),
    ]:
        none = studied(given, fixed, trials)
        assert none.importance == {}
        assert f"Importance is not told: {why}" in none.files()["sweep.md"]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql://me:secret@a/b", "got 'mysql://me:***@a/b'"),
        ("me:secret@host/db", "got 'me:***@host/db'"),
        ("postgresql:/me:secret@host/db", "got 'postgresql:/me:***@host/db'"),
        ("mysql://me@group:a/secret@with@host/db", "got 'mysql://me@group:***@host/db'"),
        ("postgresql://me:secret@host:port/db", "got 'postgresql://me:***@host:port/db'"),
        ("mysql://host/db?user=me&password=se@cret&x=1", "got 'mysql://host/db?user=me&password=***&x=1'"),
        ("mysql:///a:b@c", "got 'mysql:///a:b@c'"),  # a path
        ("postgresql://me:secret@/none?host=/nowhere", "the database postgresql+psycopg://me:***@/none?host="),
        ("postgresql:///none?host=/nowhere&user=me&password=secret", "&password=***&user=me cannot be used"),
    ],
)
def test_passwords_are_not_shown(url: str, told: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, RunError)) as caught:
        run(tmp_path, storage=url)
    assert told in str(caught.value)
    assert "secret" not in str(caught.value) and "cret'" not in str(caught.value)


def test_a_name_stands_for_one_sweep(tmp_path: Path) -> None:
    run(tmp_path, trials=1)
    with pytest.raises(ConfigError, match="has a sweep 'toy' already, which differs in space: give this one another"):
        run(tmp_path, trials=1, space={"learner.inner_lr": [0.1, 0.2]})
    with pytest.raises(ConfigError, match="expected a database of SQLite or PostgreSQL, got 'mysql://a/b'"):
        run(tmp_path, storage="mysql://a/b")
    with pytest.raises(RunError, match="the database postgresql.*cannot be used"):
        run(tmp_path, storage=f"postgresql://kshot@/none?host={tmp_path}")


def worker(out: Path, storage: str, trials: int, **more: Any) -> subprocess.Popen[str]:
    """A process that works on the toy sweep."""
    script = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import sweep_toys
from pathlib import Path
{more.get("before", "")}
said = []
sweep_toys.run(Path({str(out)!r}), said, storage={storage!r}, trials={trials})
print(len(said))
"""
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_share_a_sweep(tmp_path: Path, storage: str) -> None:
    """They begin at once, on a database that is empty; each in a folder of its own, as on two machines."""
    both = [worker(tmp_path / name, storage, 8) for name in "ab"]
    done = []
    for process in both:
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
        done.append(int(stdout))
    result = run(tmp_path / "a", storage=storage, trials=8)
    assert sum(done) == len(result.trials)
    assert 8 <= len(result.trials) <= 9  # the last one of each may have begun when there were seven
    drawn = [json.dumps(trial.values) for trial in result.trials]
    assert len(set(drawn)) > len(drawn) - 2  # the base may have been tried twice
    assert result.best is not None


def test_the_trial_of_a_killed_process_is_taken_over(tmp_path: Path, storage: str) -> None:
    kill = """
import os, signal
from kshot.sweep import trial
def on_validation(self, trainer, step, score):
    if self.trial.number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
trial.Pruning.on_validation = on_validation
"""
    killed = worker(tmp_path, storage, 3, before=kill)
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    with open_study(spec(trials=3), storage, tmp_path, maximize=False, heartbeat=1) as study:
        assert [trial.state.name for trial in study.trials] == ["COMPLETE", "RUNNING"]
        lost = study.trials[1].params
    deadline = 60
    for trials in range(2, deadline):  # trials go on meanwhile: three seconds without a sign of life, and it is theirs
        result = sweep(spec(trials=trials), tmp_path, storage=storage, heartbeat=1)
        found = [trial for trial in result.trials if trial.folder == str(tmp_path / "trials/0001")]
        if found:
            break
    assert found, "nobody took it over"
    assert found[0].number > 1 and found[0].values == {path: lost[path] for path in lost}
