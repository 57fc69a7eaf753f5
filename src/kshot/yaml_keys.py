"""Configurations as YAML gives them: mappings of sections, and the keys `a.b.c` in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kshot.errors import ConfigError


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file holds an empty one.

    Raises:
        ConfigError: it is not there, cannot be read, is no YAML, or holds something else.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {path}: check the path; it is relative to {Path.cwd()}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"expected {path} to hold keys and values (learner: ...), got a {type(content).__name__}")
    return content or {}


def yaml_value(text: str, where: str) -> Any:
    """A value as YAML reads it.

    Raises:
        ConfigError: no YAML; the message begins with `where`.
    """
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: the value is no YAML: {' '.join(str(error).split())}") from error


def put(content: dict[str, Any], path: str, value: Any) -> None:
    """Sets the key `a.b.c` of nested mappings.

    Raises:
        ConfigError: a part of the path is not a section.
    """
    *sections, last = path.split(".")
    for section in sections:
        inner = content.get(section)
        # `learner: protonet` is short for a section with that name.
        inner = {} if inner is None else {"name": inner} if isinstance(inner, str) and section != "out" else inner
        if not isinstance(inner, dict):
            raise ConfigError(f"{path}: {section!r} holds the value {inner!r}, not keys of its own")
        content[section] = inner
        content = inner
    content[last] = value


def assign(content: dict[str, Any], texts: Iterable[str], flag: str = "") -> dict[str, Any]:
    """Puts what `a.b=value` says into the mapping, and returns it.

    Args:
        flag: what stands before such a text, for the message of an error.

    Raises:
        ConfigError: not of that form, or no section.

    >>> assign({}, ["training.lr=0.01", "data.train={way: 20}"])
    {'training': {'lr': 0.01}, 'data': {'train': {'way': 20}}}
    """
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals or not all(path.strip().split(".")):
            raise ConfigError(f"expected {flag}key.of.it=value, got {text!r}. For example: {flag}training.lr=0.01")
        put(content, path.strip(), yaml_value(value, text))
    return content


def numbers(value: Any) -> Any:
    """YAML 1.1 takes 1e-3, which has no dot, for a text: here it is the number that people mean."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    return [numbers(item) for item in value] if isinstance(value, list) else value
