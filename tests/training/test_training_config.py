"""Configurations: read, checked, built, taken up again."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from training_toys import gaussians, same

import kshot
from kshot.errors import ConfigError, DataError, RunError
from kshot.tasks import TaskSource
from kshot.training import Callback
from kshot.training.config import (
    backbones,
    build_learner,
    build_source,
    build_trainer,
    load_config,
    parse_config,
    resolve,
    resume_run,
)

SINUSOIDS = """
learner: {name: maml, inner_lr: 1e-2}
backbone: {name: mlp, hidden: [8]}
data: {name: sinusoids, shot: 5, query: 5}
training: {steps: 6, meta_batch: 3, lr: 1e-3, val_tasks: 10, val_every: 2, mode: vmap, device: cpu}
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A CSV of nine classes with ten examples each."""
    rows = ["label,a,b,c"]
    noise = torch.randn(90, 3, generator=torch.Generator().manual_seed(0))
    for i in range(90):
        rows.append(",".join([f"c{i // 10}", *(f"{i // 10 + float(v):.4f}" for v in noise[i])]))
    path = tmp_path / "table.csv"
    path.write_text("\n".join(rows))
    return path


def write(tmp_path: Path, text: str = SINUSOIDS) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    return path


def test_a_number_without_a_dot_is_a_number(tmp_path: Path) -> None:
    config = load_config(write(tmp_path))
    assert config.training.lr == 0.001
    assert config.learner.options["inner_lr"] == 0.01
    assert build_learner(config, build_source(config)).inner_lr == 0.01


def test_overrides(tmp_path: Path) -> None:
    overrides = ["training.lr=5e-4", "learner=protonet", "data.train={query: 3}", "training.clip=null", "out=runs/x"]
    config = load_config(write(tmp_path), overrides)
    assert config.training.lr == 0.0005
    assert config.learner.name == "protonet"
    assert config.data.train == {"query": 3}
    assert config.out == "runs/x"
    with pytest.raises(ConfigError, match="expected key.of.it=value, got 'training.lr'. For example: training.lr=0.01"):
        load_config(write(tmp_path), ["training.lr"])
    with pytest.raises(ConfigError, match="out.name: 'out' holds the value 'x', not keys of its own"):
        load_config(write(tmp_path, SINUSOIDS + "out: x"), ["out.name=3"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": {"stepz": 3}}, "unknown key training.stepz. Did you mean 'steps'?"),
        ({"trainig": {}}, "unknown key trainig. Did you mean 'training'?"),
        ({"data": {"name": "omniglot", "shots": 5}}, "unknown key data.shots. Did you mean 'shot'?"),
        ({"data": {"way": 5}}, "the key data.name is missing. For example: name: omniglot"),
        ({"backbone": {"channels": 8}}, "backbone: expected a name ({name: conv4}), or the weights of a run"),
        ({"learner": "protnet"}, "unknown learner 'protnet'. Did you mean 'protonet'?"),
        (
            {"learner": {"name": "maml", "inner_lrr": 0.1}},
            "unknown key learner.inner_lrr for MAML. Did you mean 'inner_lr'?",
        ),
        (
            {"learner": {"name": "maml", "inner_steps": "many"}},
            "learner.inner_steps: expected a whole number, got 'many'",
        ),
        (
            {"learner": {"name": "maml", "norm": "bach"}},
            "learner.norm: expected one of 'support' or 'batch', got 'bach'",
        ),
        ({"backbone": "conv5"}, "unknown backbone 'conv5'. Did you mean 'conv4'?"),
        ({"backbone": {"name": "mlp", "hiden": [3]}}, "unknown key backbone.hiden for MLP. Did you mean 'hidden'?"),
        ({"backbone": {"name": "mlp", "hidden": "40"}}, "backbone.hidden: expected a list, got '40'"),
        ({"training": {"steps": "many"}}, "training.steps: expected a whole number, got 'many'"),
        ({"training": {"steps": True}}, "training.steps: expected a number, got True"),
        ({"training": {"lr": [1]}}, "training.lr: expected a number, got [1]"),
        ({"training": {"optimizer": 3}}, "training.optimizer: expected a name, or a name with options"),
        ({"training": {"loggers": "wandb"}}, "training.loggers: expected a list, got 'wandb'"),
        ({"training": 3}, "training: expected keys with values ({name: ...}), got 3"),
        ({"out": 3}, "out: expected a text, got 3"),
    ],
)
def test_what_is_wrong_in_plain_words(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"learner": "maml", "data": "omniglot", **change}, "my.yaml")
    assert str(caught.value).startswith("my.yaml: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is no YAML"),
        ("- a", "to hold keys and values .learner: ...., got a list"),
        ("", "the key learner is missing"),
        ("learner: !!python/object/apply:os.system [ls]", "is no YAML"),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no file .*nothing\.yaml: check the path"):
        load_config(tmp_path / "nothing.yaml")


def test_what_follows_from_the_tasks(table: Path) -> None:
    text = {"learner": "maml", "data": {"name": str(table), "way": 2, "shot": 2, "query": 3, "train": {"way": 3}}}
    config = parse_config(text)
    source = build_source(config)
    full = resolve(config, source)
    assert full.learner.options == {"way": 3}, "the largest way"
    assert full.backbone is not None
    assert (full.backbone.name, full.backbone.options) == ("mlp", {"in_features": 3})
    assert build_learner(config, source).way == 3
    assert build_learner(parse_config({**text, "learner": "protonet"}), source).way is None


def test_initialisation_comes_from_the_seed(tmp_path: Path) -> None:
    config = load_config(write(tmp_path))
    source = build_source(config)
    torch.manual_seed(3)
    one = build_learner(config, source)
    state = torch.get_rng_state()
    assert same(one, build_learner(config, source))
    assert torch.equal(torch.get_rng_state(), state)
    assert not same(one, build_learner(load_config(write(tmp_path), ["training.seed=1"]), source))


def test_regression_learners_get_the_outputs_that_they_need() -> None:
    config = parse_config({"learner": "anil", "data": "sinusoids"})
    source = build_source(config)
    assert build_learner(config, source).backbone.out_features == 40
    assert (
        build_learner(parse_config({"learner": "maml", "data": "sinusoids"}), source).network.backbone.out_features == 1
    )


def test_a_backbone_that_cannot_take_the_examples() -> None:
    config = parse_config({"learner": "protonet", "backbone": "conv4", "data": "sinusoids"})
    with pytest.raises(ConfigError, match=r"the backbone conv4 cannot take .* vectors of shape \[1\]: use mlp"):
        build_learner(config, build_source(config))


def test_options_of_the_data(table: Path) -> None:
    with pytest.raises(ConfigError, match="data.options.way is there twice: say it in data.way alone"):
        build_source(parse_config({"learner": "maml", "data": {"name": str(table), "way": 2, "options": {"way": 3}}}))
    with pytest.raises((ConfigError, DataError)):
        build_source(parse_config({"learner": "maml", "data": {"name": str(table), "options": {"colour": "red"}}}))


def test_every_backbone_is_known() -> None:
    assert {"mlp", "conv4", "resnet12"} <= set(backbones())
    assert "backbone" not in backbones()


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, trainer: Any, step: int, metrics: Any) -> None:
        if step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_run_is_taken_up_from_its_folder(tmp_path: Path, table: Path) -> None:
    text = f"""
learner: protonet
data: {{name: {table}, way: 2, shot: 2, query: 3}}
training:
  {{steps: 6, meta_batch: 3, val_tasks: 10, val_every: 2, mode: native, optimizer: {{name: sgd, momentum: 0.9}}}}
"""
    config = load_config(write(tmp_path, text), [f"out={tmp_path / 'run'}"])
    with pytest.raises(KeyboardInterrupt):
        build_trainer(config, callbacks=[StopAt(3)], progress=False).fit()
    resolved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert resolved["backbone"] == {"name": "mlp", "in_features": 3}
    assert resolved["training"]["save_every"] == 2
    assert resolved["training"]["optimizer"] == {"name": "sgd", "momentum": 0.9}
    resumed = resume_run(tmp_path / "run", progress=False).fit()
    straight = build_trainer(config, out=tmp_path / "straight", progress=False).fit()
    assert same(resumed.learner, straight.learner)
    again = load_config(tmp_path / "run" / "config.yaml")
    assert again.training.steps == 6, "the resolved configuration is a configuration"
    with pytest.raises(ConfigError, match=r"lr=0\.5 \(was 0\.001\)"):
        resume_run(tmp_path / "run", ["training.lr=0.5"], progress=False).fit()


def test_a_run_begun_in_python_is_taken_up_from_its_folder(tmp_path: Path) -> None:
    def trainer(out: Path, **options: Any) -> Any:
        with kshot.randomness.seeded(0):
            learner = kshot.MAML(kshot.models.MLP(1, hidden=(8,), out_features=1), inner_lr=0.01)
        source = kshot.tasks.load("sinusoids", shot=5, query=5)
        return kshot.Trainer(learner, source, steps=6, meta_batch=3, val_tasks=10, mode="vmap", device="cpu",
                             progress=False, out=out, **options)  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "run", callbacks=[StopAt(3)]).fit()
    resumed = resume_run(tmp_path / "run", progress=False).fit()
    assert same(resumed.learner, trainer(tmp_path / "straight").fit().learner)


def test_a_run_that_only_its_script_can_take_up(tmp_path: Path) -> None:
    learner = kshot.ProtoNet(kshot.models.MLP(6, hidden=(8,)))
    options = {"steps": 2, "meta_batch": 2, "val_tasks": 5, "progress": False, "mode": "native"}
    kshot.Trainer(learner, gaussians(), out=tmp_path / "a", **options).fit()
    with pytest.raises(ConfigError, match="begun in Python, and its learner or its task source has no description"):
        resume_run(tmp_path / "a")
    in_memory = TaskSource("clouds", gaussians().splits, example_shape=(6,), spec={"way": 3})
    kshot.Trainer(learner, in_memory, out=tmp_path / "memory", **options).fit()
    with pytest.raises(ConfigError, match="its learner or its task source has no description"):
        resume_run(tmp_path / "memory")
    source = kshot.tasks.load("sinusoids")
    learner = kshot.MAML(kshot.models.MLP(1, out_features=1))

    def optimizer(parameters: Any) -> Any:
        return torch.optim.SGD(parameters, lr=0.1)

    kshot.Trainer(learner, source, out=tmp_path / "b", optimizer=optimizer, **{**options, "mode": "vmap"}).fit()
    with pytest.raises(
        ConfigError, match="begun in Python, and its optimizer was made there. Go on with it in the script"
    ):
        resume_run(tmp_path / "b")
    own = torch.optim.SGD(learner.parameters(), lr=0.1)
    kshot.Trainer(learner, source, out=tmp_path / "c", optimizer=own, **{**options, "mode": "vmap"}).fit()
    with pytest.raises(ConfigError, match="begun in Python, and its optimizer was made there"):
        resume_run(tmp_path / "c")


def test_options_of_optimizer_and_schedule_are_no_functions(tmp_path: Path) -> None:
    learner = kshot.MAML(kshot.models.MLP(1, hidden=(8,), out_features=1))
    optimizer, schedule = {"name": "sgd", "momentum": 0.9}, {"name": "step", "every": 2, "factor": 0.5}
    kshot.Trainer(learner, kshot.tasks.load("sinusoids"), out=tmp_path / "run", optimizer=optimizer, schedule=schedule,
                  steps=2, meta_batch=2, val_tasks=5, progress=False, mode="vmap").fit()  # fmt: skip
    assert resume_run(tmp_path / "run", progress=False).fit().steps == 2


def test_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run to resume in .*: expected a folder with a config.yaml"):
        resume_run(tmp_path)


def test_loggers_by_name(tmp_path: Path) -> None:
    config = load_config(write(tmp_path), ["training.loggers=[tensorboard]", f"out={tmp_path / 'run'}"])
    build_trainer(config, progress=False).fit()
    assert (tmp_path / "run" / "tensorboard").is_dir()


def test_every_shipped_configuration_is_sound() -> None:
    files = sorted((Path(kshot.__file__).parent / "configs").glob("*.yaml"))
    for file in files:
        config = load_config(file)
        assert json.dumps(config.to_dict())
    assert files


def test_importing_the_trainer_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys, torch; before = set(sys.modules); import kshot; kshot.Trainer; "
        "print(*{'pydantic', 'rich', 'yaml', 'PIL', 'typer'} & (set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
