"""defaults < file < environment < flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from kshot.cli import settings
from kshot.cli.train import resolve
from kshot.errors import ConfigError, RunError
from kshot.training.config import parse_config
from kshot.yaml_keys import assign


def test_layers_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("data: {name: glyphs}\ntraining: {steps: 1, lr: 1e-2, seed: 1, clip: 1}\nout: runs/file\n")
    monkeypatch.setenv("KSHOT_TRAINING__LR", "0.001")
    monkeypatch.setenv("KSHOT_TRAINING__SEED", "2")
    found = resolve(str(path), {"training": {"seed": 3}}, ["training.clip=2.5"])
    assert found["training"] == {"steps": 1, "lr": 0.001, "seed": 3, "clip": 2.5}
    assert found["out"] == "runs/file"
    assert found["learner"] == {"name": "protonet"}


def test_another_learner_does_not_inherit_the_arguments_of_the_first() -> None:
    base = {
        "learner": {"name": "maml", "inner_lr": 0.4},
        "data": {"name": "omniglot", "way": 5, "options": {"split": "x"}},
    }
    merged = settings.merge(base, {"learner": {"name": "protonet"}, "data": {"name": "glyphs"}})
    assert merged == {"learner": {"name": "protonet"}, "data": {"name": "glyphs", "way": 5}}
    assert settings.merge(base, {"learner": {"name": "maml"}}) == base
    assert settings.merge({"learner": "maml"}, {"learner": {"inner_lr": 0.1}}) == {
        "learner": {"name": "maml", "inner_lr": 0.1}
    }


def test_the_run_folder_is_named_after_data_and_learner() -> None:
    assert resolve(None, {"data": {"name": "my/images.zip"}})["out"] == "runs/images-protonet"


def test_a_run_folder_is_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("data: {name: glyphs}\nout: elsewhere\n")
    found = resolve(str(tmp_path / "run"), {}, resume=True)
    assert found["out"] == str(tmp_path / "run")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.lr", "expected --set key.of.it=value, got 'training.lr'"),
        ("=3", "expected --set key.of.it=value"),
        ("a.b={", "the value is no YAML"),
    ],
)
def test_bad_assignments(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        assign({}, [text], "--set ")


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("a: [1")
    with pytest.raises(ConfigError, match="is no YAML"):
        settings.read(path)
    path.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match=r"to hold keys and values .* got a list"):
        settings.read(path)
    with pytest.raises(ConfigError, match="Did you mean 'quickstart'"):
        settings.read("quickstrat")
    with pytest.raises(ConfigError, match=r"a folder without config\.yaml"):
        settings.read(tmp_path)
    with pytest.raises(RunError, match="there is no run runs/none to resume"):
        resolve("runs/none", {}, resume=True)
    with pytest.raises(ConfigError, match="expected a configuration, or --data"):
        resolve(None, {})


def test_a_value_has_no_keys() -> None:
    with pytest.raises(ConfigError, match=r"a\.b: 'a' holds the value 3"):
        assign({}, ["a=3", "a.b=4"], "--set ")


@pytest.mark.parametrize("name", settings.shipped())
def test_shipped_configurations_are_valid(name: str) -> None:
    config = parse_config(settings.read(name))
    assert config.out == f"runs/{name}"


def test_a_shipped_name_is_not_a_folder_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    assert settings.read("quickstart")["data"]["name"] == "glyphs"
