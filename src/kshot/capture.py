"""Modules that remember the arguments they were constructed with, so that a saved learner can be built again.

A class whose metaclass is `Captured` (every `Learner` and `Backbone`) gets `module.config`: the class's qualified
name and its constructor arguments, nested modules described likewise. `build` reverses it, against classes of kshot
and classes that are already imported, never by importing what a file names.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from torch import nn

from kshot.errors import ArtifactError, suggest

_classes: dict[str, type] = {}


def qualified_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


class Captured(type):
    """Metaclass that records the constructor's arguments on the instance and the class in a table of known classes."""

    __signature__: inspect.Signature

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(name, bases, namespace, **kwargs)
        _classes[qualified_name(cls)] = cls
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]
        # What help() and editors show; this metaclass's own __call__ would hide it.
        cls.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        signature = cls.__signature__
        try:
            arguments = dict(signature.bind(*args, **kwargs).arguments)
        except TypeError:  # too few, too many or unknown ones: the constructor itself says which
            return super().__call__(*args, **kwargs)
        cls.check_arguments(arguments)  # type: ignore[attr-defined]
        instance = super().__call__(*args, **kwargs)
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(name, {}))
            elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY) and name in arguments:
                arguments[name] = _Nameless()
        object.__setattr__(instance, "_arguments", arguments)
        return instance


class _Nameless:
    """Stands for arguments that cannot be given by name, as a saved config gives all of them."""


class CapturedModule(nn.Module, metaclass=Captured):
    """An `nn.Module` whose constructor arguments are captured in `config`."""

    _arguments: dict[str, Any]

    @classmethod
    def check_arguments(cls, arguments: dict[str, Any]) -> None:
        """Raises an error of kshot's own for constructor arguments that make no sense, before anything is made."""

    @property
    def config(self) -> dict[str, Any]:
        """The class and the constructor arguments, JSON-able.

        Raises:
            ArtifactError: an argument is neither JSON-able nor a module whose arguments were captured.
        """
        return {
            "class": qualified_name(type(self)),
            "arguments": {
                name: _describe(value, f"{type(self).__name__}({name}=...)") for name, value in self._arguments.items()
            },
        }

    def amend(self, **arguments: Any) -> None:
        """Changes attributes that are constructor arguments, in `config`, too.

        For those that nothing else was made of: what a constructor derived from an argument stays as it is.

        Raises:
            TypeError: the constructor has no such argument.
        """
        for name, value in arguments.items():
            if name not in type(self).__signature__.parameters:
                raise TypeError(f"{type(self).__name__} has no argument {name!r}")
            setattr(self, name, value)
            self._arguments[name] = value


def _describe(value: Any, where: str) -> Any:
    if isinstance(value, CapturedModule):
        return value.config
    if isinstance(value, (list, tuple)):
        return [_describe(item, where) for item in value]
    if isinstance(value, dict):
        return {str(key): _describe(item, where) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, _Nameless):
        raise ArtifactError(
            f"{where} can only be given by position, while a config gives every argument by its name. Make it an "
            "ordinary parameter (a list instead of *args)"
        )
    raise ArtifactError(
        f"{where} holds a {qualified_name(type(value))}, which cannot be written to a config. "
        "Expected numbers, strings, lists, dicts, or modules that derive from kshot.models.Backbone "
        "(which captures its constructor arguments)."
    )


def build(config: dict[str, Any]) -> Any:
    """Builds the module that `config` describes.

    Raises:
        ArtifactError: the class is not one of kshot's and not imported yet, or does not take these arguments.
    """
    name = config["class"]
    if name.startswith("kshot.") and name not in _classes:
        try:
            importlib.import_module(name.rpartition(".")[0])
        except ImportError as error:
            raise ArtifactError(f"the config names {name!r}, which this version of kshot does not have") from error
    cls = _classes.get(name)
    if cls is None:
        raise ArtifactError(
            f"the config names the class {name!r}, which is not imported. Import the module that defines it first. "
            f"{suggest(name, _classes)}"
        )
    arguments = {key: _restore(value) for key, value in config.get("arguments", {}).items()}
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ArtifactError(f"{name} does not take the saved arguments {sorted(arguments)}: {error}") from error


def _restore(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"class", "arguments"}:
            return build(value)
        return {key: _restore(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_restore(item) for item in value]
    return value
