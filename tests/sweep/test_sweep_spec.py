"""What a sweep's file says, and what is wrong with one in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kshot import tasks
from kshot.errors import ConfigError
from kshot.sweep import Choices, Range, SweepSpec, read_spec
from kshot.sweep.spec import OUTSIDE

BASE = {
    "learner": {"name": "maml", "inner_lr": 0.01},
    "backbone": {"name": "mlp", "hidden": [8], "out_features": 1},
    "data": {"name": "sinusoids", "shot": 5, "query": 5},
    "training": {"steps": 4, "val_tasks": 10, "val_every": 2, "mode": "vmap"},
}
SPACE = {"learner.inner_lr": {"low": 0.001, "high": 0.1, "log": True}, "learner.inner_steps": [1, 3]}


def write(folder: Path, **changes: Any) -> Path:
    content = {"base": BASE, "space": SPACE, **changes}
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


def test_a_file(tmp_path: Path) -> None:
    spec = read_spec(write(tmp_path, trials=7))
    assert (spec.name, spec.trials, spec.sampler, spec.pruner) == ("search", 7, "tpe", "median")
    config = spec.config({"learner.inner_lr": 0.05, "training.steps": 9})
    assert (config.learner.options["inner_lr"], config.training.steps) == (0.05, 9)
    assert spec.base["learner"]["inner_lr"] == 0.01  # the base stays as it is


def test_the_base_is_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    assert read_spec(write(tmp_path, base="base.yaml")).base == BASE


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": None}, "the key space is missing. For example: space: {learner.inner_lr: {low: 0.01"),
        ({"base": None}, "the key base is missing. For example: base: omniglot-maml"),
        ({"space": {}}, "space"),
        ({"trails": 3}, "unknown key trails. Did you mean 'trials'?"),
        ({"trials": 0}, "trials: expected"),
        ({"trials": True}, "trials: expected a number, got True"),
        ({"pruner": "halving"}, "pruner: expected one of 'median', 'hyperband' or 'none', got 'halving'"),
        ({"space": {"learner.inner_lr": 0.1}}, "a list of values, or {low: 0.01, high: 1.0, log: true}, got 0.1"),
        ({"space": {"learner.inner_lr": {"low": 1, "high": 0.1}}}, "finite numbers low < high"),
        ({"space": {"learner.inner_lr": {"low": 0, "high": 0.1, "log": True}}}, "low above 0 and no step beside log"),
        ({"space": {"learner.inner_lr": {"low": 0.1, "high": 1.0, "step": -1}}}, "a step above 0"),
        (
            {"space": {"learner.inner_steps": {"low": 1, "high": 4, "step": 2}}},
            "high a whole number of steps above low",
        ),
        ({"space": {"learner.inner_steps": [1]}}, "at least two values, each once"),
        ({"space": {"learner.inner_steps": [1, 1]}}, "at least two values, each once"),
        ({"space": {"learner.iner_lr": [0.1, 0.2]}}, "unknown key learner.iner_lr for MAML. Did you mean 'inner_lr'?"),
        ({"space": {"training.lrr": [0.1, 0.2]}}, "unknown key training.lrr"),
        ({"space": {"learner.inner_lr": [0.1, "much"]}}, "learner.inner_lr: expected a number, got 'much'"),
        ({"space": {"data.shot": [1, 5]}}, "space.data.shot: trials have it in common, or they could not be compared"),
        ({"space": {"training.seed": [1, 5]}}, "space.training.seed: trials have it in common"),
        ({"base": 3}, "base: expected keys with values"),
        (
            {"space": {"training.lr": {"lo": 0.1, "high": 1.0}}},
            "search.yaml: space.training.lr: expected the keys of a range, and lo is none of them (Did you mean "
            "'low'?), got {'high': 1.0, 'lo': 0.1}",
        ),
        ({"space": {"training.lr": {"max": 1, "low": 0}}}, "max is none of them (Known: high, log, low, step.), got {"),
        ({"space": {"training.lr": {"low": "x", "high": 1.0}}}, "space.training.lr: expected a number for low, got {"),
        ({"space": {"training.lr": {"high": 1.0}}}, "expected a number for low, which is missing, got {"),
    ],
)
def test_bad_files(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_spec(write(tmp_path, **changes))
    assert words in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file .*missing.yaml"):
        read_spec(tmp_path / "missing.yaml")


def test_what_the_base_has(tmp_path: Path) -> None:
    source = tasks.load("sinusoids", shot=5, query=5)
    spec = read_spec(write(tmp_path))
    assert spec.own_values(source) == {"learner.inner_lr": 0.01, "learner.inner_steps": 1}  # a default of MAML's
    spec = read_spec(write(tmp_path, space={"training.lr": {"low": 0.01, "high": 0.1}}))
    assert spec.own_values(source) is None  # 0.001 is not in it
    hidden = {"backbone.hidden": [[8], [8, 8]]}
    spec = read_spec(write(tmp_path, space=hidden))
    assert spec.own_values(source) == {"backbone.hidden": "[8]"}
    nothing = {"training.clip": [None, 1.0], "training.recompute": [False, True]}  # which the base does not speak of
    assert read_spec(write(tmp_path, space=nothing)).own_values(source) == {
        "training.clip": None,
        "training.recompute": False,
    }
    unknown = {"training.optimizer.momentum": [None, 0.9]}  # no such key in the base is not null
    base = {**BASE, "training": {**BASE["training"], "optimizer": "sgd"}}
    assert read_spec(write(tmp_path, base=base, space=unknown)).own_values(source) is None
    base = {**BASE, "backbone": {"name": "mlp", "out_features": 1}, "learner": "fomaml"}
    space = {"backbone.hidden": [[40, 40], [64]], "learner.name": ["maml", "fomaml"], "data.train.shot": [5, 10]}
    assert read_spec(write(tmp_path, base=base, space=space)).own_values(source) == {
        "backbone.hidden": "[40, 40]",  # a default, which is a tuple
        "learner.name": "fomaml",  # not maml, whose option it is
        "data.train.shot": 5,  # that of all splits
    }


@given(low=st.integers(-5, 20), steps=st.integers(1, 9), step=st.integers(1, 7) | st.none(), drawn=st.integers(0, 9))
def test_a_range_calls_its_own_values_by_their_name(low: int, steps: int, step: int | None, drawn: int) -> None:
    high = low + steps * (step or 1)
    space = Range(low=low, high=high, step=step)
    trial = optuna.trial.FixedTrial({"k": low})
    assert space.suggest(trial, "k") == low
    value = low + (step or 1) * min(drawn, steps)
    assert space.parameter(value) == value
    assert space.parameter(low - 1) is OUTSIDE
    assert space.parameter(high + 1) is OUTSIDE
    if step not in (None, 1):
        assert space.parameter(low + 1) is OUTSIDE


def test_choices_of_any_kind() -> None:
    space = Choices(values=[[8], [8, 8], "conv", None, True, 0.5])
    for value in space.values:
        assert space.value(space.parameter(value)) == value
    assert space.parameter([9]) is OUTSIDE
    alike = Choices(values=[1, True, 1.0, None, "1", [1]])  # Python takes three of them for the same
    assert len({alike.parameter(value) for value in alike.values}) == 6
    for value in alike.values:
        found = alike.value(alike.parameter(value))
        assert found == value and type(found) is type(value)
    assert Choices(values=[1, 2]).parameter(1.0) == 1


def test_a_spec_in_python() -> None:
    spec = SweepSpec(
        name="mine", base=BASE, space={"learner.inner_steps": [1, 2], "training.lr": {"low": 1, "high": 2.0}}
    )
    assert isinstance(spec.space["learner.inner_steps"], Choices)
    assert isinstance(spec.space["training.lr"], Range)
    assert not spec.space["training.lr"].whole
