"""What a sweep tries: a configuration, and the values that some of its keys may take."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from kshot.errors import ConfigError, suggest
from kshot.learners import all_learners
from kshot.tasks.source import TaskSource
from kshot.training.config import RunConfig, backbones, parse_config, resolve
from kshot.training.schema import Int, Section, validated
from kshot.yaml_keys import numbers, put, read_yaml

SECTIONS = ("learner", "backbone", "training", "data.train")
"""What may differ between trials: what a learner is and how it is trained, not what it is judged on."""

FIXED = ("training.val_tasks", "training.val_every", "training.device", "training.loggers", "training.seed")
"""Keys of these sections that trials have in common, with the val tasks that they are compared on."""

Value = int | float

OUTSIDE: Any = object()
"""What Optuna has no name for: a value that is not in the space. (None is one that may be.)"""


class Range(Section):
    """Whole numbers where both ends are, numbers otherwise.

    Attributes:
        low, high: both belong to it.
        log: values are spread evenly over its logarithm.
        step: from `low` on.
    """

    low: Value
    high: Value
    log: bool = False
    step: Value | None = None

    @property
    def whole(self) -> bool:
        return all(isinstance(value, int) for value in (self.low, self.high, self.step or 1))

    @model_validator(mode="after")
    def _makes_sense(self) -> Range:
        ends = (self.low, self.high, self.step or 0)
        if any(isinstance(end, bool) or not math.isfinite(end) for end in ends) or not self.low < self.high:
            raise ValueError("finite numbers low < high")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("low above 0 and no step beside log: true")
        if self.step is not None and self.step <= 0:
            raise ValueError("a step above 0")
        if self.step is not None and not self._whole_steps(self.high):
            raise ValueError("high a whole number of steps above low")
        return self

    def _whole_steps(self, value: Value) -> bool:
        return self.step is None or abs(math.remainder(value - self.low, self.step)) <= 1e-9 * self.step

    def suggest(self, trial: Any, path: str) -> Value:
        """The value that an Optuna trial takes."""
        if self.whole:
            return int(trial.suggest_int(path, self.low, self.high, log=self.log, step=self.step or 1))
        return float(trial.suggest_float(path, self.low, self.high, log=self.log, step=self.step))

    def parameter(self, value: Any) -> Any:
        """How Optuna calls a value; OUTSIDE for one that is not within."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return OUTSIDE
        if self.whole and int(value) != value:
            return OUTSIDE
        if not self._whole_steps(value):
            return OUTSIDE
        return int(value) if self.whole else float(value)

    def value(self, name: Any) -> Any:
        """What Optuna calls so."""
        return name

    @property
    def ends(self) -> list[Any]:
        return [self.low, self.high]


class Choices(Section):
    """Some values, without an order."""

    values: list[Any]

    @property
    def labels(self) -> dict[Any, Any]:
        """Values by what Optuna calls them: itself where that is a scalar, its JSON elsewhere; and the JSON of all of
        them where Python takes two for the same, 1 and true."""
        named = {v if isinstance(v, (str, int, float, bool, type(None))) else json.dumps(v): v for v in self.values}
        return named if len(named) == len(self.values) else {json.dumps(v): v for v in self.values}

    @field_validator("values")
    @classmethod
    def _several(cls, values: list[Any]) -> list[Any]:
        if len({json.dumps(value, sort_keys=True) for value in values}) < max(2, len(values)):
            raise ValueError("at least two values, each once")
        return values

    def suggest(self, trial: Any, path: str) -> Any:
        """The value that an Optuna trial takes."""
        return self.labels[trial.suggest_categorical(path, list(self.labels))]

    def parameter(self, value: Any) -> Any:
        """How Optuna calls a value; OUTSIDE for one that is not among them."""
        same = [label for label, known in self.labels.items() if known == value]
        exact = [label for label in same if type(self.labels[label]) is type(value)]  # 1 is neither true nor 1.0
        return next(iter(exact or same), OUTSIDE)

    def value(self, name: Any) -> Any:
        """What Optuna calls so."""
        return self.labels[name]

    @property
    def ends(self) -> list[Any]:
        return self.values


def _as_parameter(value: Any) -> Any:
    if isinstance(value, list):
        return Choices(values=value)
    if isinstance(value, dict):
        return Range(**_checked(value))
    if isinstance(value, (Range, Choices)):
        return value
    raise ValueError("a list of values, or {low: 0.01, high: 1.0, log: true}")


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError for keys that a range does not have, and for ends that are no numbers."""
    unknown = [str(key) for key in content if key not in Range.model_fields]
    if unknown:
        near = suggest(unknown[0], Range.model_fields)
        raise ValueError(f"the keys of a range, and {unknown[0]} is none of them ({near})")
    for key in ("low", "high", "step"):
        value = content.get(key)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number and (value is not None or key != "step"):
            raise ValueError(f"a number for {key}" if key in content else f"a number for {key}, which is missing")
    return content


class SweepSpec(Section):
    """A sweep, as its file describes it.

    Attributes:
        name: of the study; sweeps of one name in one database are one.
        base: a configuration: of the keys that are in the space it has what is tried first.
        space: what each key may be, by its path: a list, or a range.
        trials: how many, in all.
        sampler: `tpe`, which looks at what came before, or `random`.
        pruner: `median` ends a trial that is worse than half of those before it at this step, `hyperband` most of them
            early, `none` none.
        seed: of the sampler, and of how val classes are dealt.
        confirm: the best are scored on the other half of the val classes, on which nothing is chosen.
        confirm_tasks: on how many tasks.
        top: how many the report shows.
    """

    name: str
    base: dict[str, Any]
    space: dict[str, Annotated[Range | Choices, BeforeValidator(_as_parameter)]] = Field(min_length=1)
    trials: Annotated[Int, Field(ge=1)] = 40
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Literal["median", "hyperband", "none"] = "median"
    seed: Int = 0
    confirm: bool = True
    confirm_tasks: Annotated[Int, Field(ge=2)] = 600
    top: Annotated[Int, Field(ge=1)] = 5

    def config(self, values: Mapping[str, Any]) -> RunConfig:
        """The configuration of a trial.

        Raises:
            ConfigError: it makes no sense.
        """
        content = json.loads(json.dumps(self.base))
        for path, value in values.items():
            put(content, path, value)
        said = ", ".join(f"{path}={value}" for path, value in values.items())
        return parse_config(content, f"the sweep {self.name}" + (f" with {said}" if said else ""))

    def own_values(self, source: TaskSource) -> dict[str, Any] | None:
        """What the base has where trials differ, as Optuna calls it; None where that is not in the space."""
        config = resolve(self.config({}), source)
        said = self.base["learner"]
        name = said if isinstance(said, str) else said["name"]  # fomaml, which the configuration has as maml
        own = {path: name if path == "learner.name" else _value(config, path) for path in self.space}
        found = {path: space.parameter(own[path]) for path, space in self.space.items()}
        return None if any(value is OUTSIDE for value in found.values()) else found

    def identity(self) -> dict[str, Any]:
        """What sweeps of one name have to have in common, JSON-able."""
        return self.model_dump(mode="json", exclude={"trials", "top"})


def read_spec(path: str | Path, read_base: Any = read_yaml) -> SweepSpec:
    """Reads a sweep from YAML.

    Args:
        path: of the file.
        read_base: makes a mapping of the configuration that `base` names.

    Raises:
        ConfigError: no such file; an unknown key, with the nearest right name; a value of the wrong type; a space that
            reaches where a learner is judged, or one whose ends make no configuration.
    """
    path = Path(path)
    content = numbers(read_yaml(path))
    content.setdefault("name", path.stem)
    base = content.get("base")
    if isinstance(base, str):
        beside = path.parent / base
        content["base"] = numbers(read_base(beside if beside.exists() else base))
    spec = validated(SweepSpec, content, str(path))
    for key, space in spec.space.items():
        inside = any(key.startswith(section + ".") for section in SECTIONS)
        if not inside or key in FIXED:
            raise ConfigError(
                f"{path}: space.{key}: trials have it in common, or they could not be compared: expected keys of "
                f"{', '.join(SECTIONS)}, without {', '.join(FIXED)}"
            )
        for end in space.ends:  # a wrong key is told before hours of training
            spec.config({key: end})
    return spec


def _value(config: RunConfig, path: str) -> Any:
    """What a configuration has at a path: said there, or the default of what the section names; OUTSIDE for neither."""
    section, *keys = path.split(".")
    told = config.model_dump(mode="json")  # with what to_dict leaves out: a false is a value, too
    data = told["data"]
    told["data"]["train"] = {**data["options"], **{k: v for k, v in data.items() if v is not None}, **data["train"]}
    named = {"learner": config.learner, "backbone": config.backbone}.get(section)
    if named is not None and named.name is not None:
        cls = (all_learners() if section == "learner" else backbones())[named.name.lower()]
        told[section] = {**_defaults(cls), **told[section]}
    content: Any = told[section]
    for key in keys:
        content = content.get(key, OUTSIDE) if isinstance(content, Mapping) else OUTSIDE
    return content


def _defaults(cls: Any) -> dict[str, Any]:
    """Of a constructor's arguments, as YAML would have them: a list for a tuple."""
    arguments = inspect.signature(cls.__init__).parameters.values()
    found = {a.name: a.default for a in arguments if a.default is not inspect.Parameter.empty}
    return dict(json.loads(json.dumps(found, default=str)))


def short(value: Any) -> str:
    """A value as a table shows it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
