"""defaults < file < environment < flags: the layers of a training configuration, merged.

The environment names a key by its path: `KSHOT_TRAINING__LR=0.01` is `training.lr` (two underscores for each dot).
Values are YAML: `true`, `3`, `1e-3`, `[1, 2]`, `null`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kshot.errors import ConfigError, suggest
from kshot.yaml_keys import put, read_yaml, yaml_value

PREFIX = "KSHOT_"


def configs_folder() -> Path:
    """Where the configurations that ship with kshot are."""
    return Path(__file__).parent.parent / "configs"


def shipped() -> list[str]:
    """The names of the configurations that ship with kshot."""
    return sorted(path.stem for path in configs_folder().glob("*.yaml"))


def read(name_or_path: str | Path) -> dict[str, Any]:
    """A configuration file: a path, the folder of a run (its config.yaml), or the name of one that ships with kshot.

    Raises:
        ConfigError: no such file, no YAML, or no mapping at its top.
    """
    path = Path(name_or_path)
    if str(name_or_path) in shipped() and not path.is_file() and not (path / "config.yaml").is_file():
        path = configs_folder() / f"{name_or_path}.yaml"
    elif path.is_dir() and (path / "config.yaml").is_file():
        path = path / "config.yaml"
    elif path.is_dir():
        raise ConfigError(f"expected a YAML file or a run folder, got {path}, a folder without config.yaml")
    if not path.is_file():
        raise ConfigError(
            f"there is no configuration {name_or_path}: expected a YAML file, a run folder or the name of a shipped "
            f"one. {suggest(str(name_or_path), shipped())}"
        )
    return read_yaml(path)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with what `over` says, section by section.

    A section whose `name` changes starts afresh, since its other keys belong to what it was: of `data` only the
    dataset's `options` do, way and shot stay.

    >>> merge({"learner": {"name": "maml", "inner_lr": 0.4}, "out": "a"}, {"learner": {"name": "protonet"}})
    {'learner': {'name': 'protonet'}, 'out': 'a'}
    """
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, str) and isinstance(value, Mapping):
            old = {"name": old}  # `learner: protonet` is short for a section
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            if "name" in value and value["name"] != old.get("name"):
                old = {k: v for k, v in old.items() if k != "options"} if key == "data" else {}
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def from_environment(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What variables of the form KSHOT_SECTION__KEY say, as nested dicts.

    >>> from_environment({"KSHOT_TRAINING__LR": "0.01", "KSHOT_DATA": "/data", "HOME": "/"})
    {'training': {'lr': 0.01}}
    """
    config: dict[str, Any] = {}
    for name, value in sorted((os.environ if environment is None else environment).items()):
        if name.startswith(PREFIX) and "__" in name:
            path = name[len(PREFIX) :].lower().replace("__", ".")
            if not all(path.split(".")):
                raise ConfigError(f"expected a name like KSHOT_TRAINING__LR in the environment, got {name}")
            put(config, path, yaml_value(value, name))
    return config
