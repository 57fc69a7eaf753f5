"""The YAML of `kshot train` as pydantic models, and what is wrong with one in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from kshot.errors import ConfigError, suggest


def _named(value: Any) -> Any:
    """`learner: protonet` stands for `learner: {name: protonet}`."""
    return {"name": value} if isinstance(value, str) else value


def _no_flag(value: Any) -> Any:
    """Python counts true as 1; whoever writes `steps: true` has mistaken something."""
    if isinstance(value, bool):
        raise ValueError("a number")
    return value


def _name_or_options(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("name"), str)):
        return value
    raise ValueError("a name, or a name with options ({name: sgd, momentum: 0.9})")


Int = Annotated[int, BeforeValidator(_no_flag)]
Float = Annotated[float, BeforeValidator(_no_flag)]
Choice = Annotated[Any, BeforeValidator(_name_or_options)]
Options = dict[str, Any]
Checked = TypeVar("Checked", bound=BaseModel)


class Section(BaseModel):
    """Keys that are not known are errors."""

    model_config = ConfigDict(extra="forbid")


class Named(BaseModel):
    """A name and the constructor's arguments; which there are depends on the name."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class NamedBackbone(Named):
    """A backbone by its name, or as in another run: `weights`, whose values it begins with.

    Attributes:
        weights: a run's folder or a saved learner.
        frozen: these values stay as they are.
    """

    name: str | None = None  # type: ignore[assignment]
    weights: str | None = None
    frozen: bool = False

    @model_validator(mode="after")
    def _says_which(self) -> NamedBackbone:
        if self.name is None and self.weights is None:
            raise ValueError("a name ({name: conv4}), or the weights of a run ({weights: runs/...})")
        if self.name is None and self.options:
            raise ValueError(f"a name beside {', '.join(self.options)} (without one it is as in the run)")
        if self.frozen and self.weights is None:
            raise ValueError("weights beside frozen: what was never trained is of no use when it stays as it is")
        return self


class Data(Section):
    """What the tasks are made of: `kshot.tasks.load`'s arguments, the dataset's own under `options`."""

    name: str
    way: Any = None
    shot: Any = None
    query: Any = None
    sampling: str | None = None
    unlabeled: Any = None
    distractors: Any = None
    labelled: Any = None
    labelled_seed: Any = None
    train: Options = Field(default_factory=dict)
    val: Options = Field(default_factory=dict)
    test: Options = Field(default_factory=dict)
    replay: Options = Field(default_factory=dict)
    options: Options = Field(default_factory=dict)
    data_dir: str | None = None
    skip_bad: bool = False


class Training(Section):
    """`kshot.Trainer`'s arguments; see there."""

    steps: Int = 1000
    meta_batch: Int = 16
    optimizer: Choice = "adam"
    lr: Float = 1e-3
    schedule: Choice = "cosine"
    warmup: Int = 0
    clip: Float | None = None
    accumulate: Int = 1
    recompute: bool = False
    val_every: Int | None = None
    val_tasks: Int = 200
    patience: Int | None = None
    save_every: Int | None = None
    seed: Int = 0
    device: str = "auto"
    mode: str = "auto"
    chunk: Int | None = None
    amp: str | None = None
    loggers: list[str] = Field(default_factory=list)


class RunConfig(Section):
    """All that makes a run: `learner`, `backbone`, `data`, `training`, `out`; and `init`, where it goes on with the
    learner of another run."""

    learner: Annotated[Named, BeforeValidator(_named)]
    backbone: Annotated[NamedBackbone, BeforeValidator(_named)] | None = None
    data: Annotated[Data, BeforeValidator(_named)]
    training: Training = Field(default_factory=Training)
    out: str | None = None
    init: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, as YAML would have it; keys that say nothing left out."""
        dumped = self.model_dump(mode="json")
        if not dumped["training"]["recompute"]:  # how much memory a run takes is no part of what it is
            del dumped["training"]["recompute"]
        dumped["data"] = {key: value for key, value in dumped["data"].items() if value not in (None, {}, False)}
        if dumped["backbone"] is not None:
            idle = {"name": None, "weights": None, "frozen": False}
            backbone = dumped["backbone"].items()
            dumped["backbone"] = {k: v for k, v in backbone if k not in idle or v != idle[k]}
        return {key: value for key, value in dumped.items() if value is not None}


def validate(content: Mapping[str, Any], where: str) -> RunConfig:
    """Checks the keys and types of a run's configuration; see `validated`."""
    return validated(RunConfig, content, where)


def validated(model: type[Checked], content: Mapping[str, Any], where: str) -> Checked:
    """Checks keys and types.

    Args:
        model: what they should be.
        where: the file, to begin an error with.

    Raises:
        ConfigError: unknown keys, with the nearest right name; missing ones; values of the wrong type.
    """
    try:
        return model.model_validate(dict(content))
    except ValidationError as error:
        problems = [_in_words(problem, model) for problem in error.errors()]
        raise ConfigError(f"{where}: {'; '.join(dict.fromkeys(problems))}") from error


def check_option(hint: Any, value: Any, name: str, where: str) -> None:
    """Checks an argument of a constructor against its annotation, as far as a YAML value can have that type.

    Raises:
        ConfigError: it has another.
    """
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint)
    except Exception:  # a type that only Python code can give (a module, say): the constructor will tell
        return
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        wanted = " or ".join(dict.fromkeys(_wanted(problem) for problem in error.errors()))
        raise ConfigError(f"{where}: {name}: expected {wanted}, got {value!r}") from error


def _in_words(problem: Any, model: type[BaseModel]) -> str:
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {name}. {suggest(path[-1], _keys(model, path[:-1]))}"
    if problem["type"] == "missing":
        examples = {
            "learner": "{name: protonet}",
            "learner.name": "protonet",
            "data": "{name: omniglot, way: 5, shot: 1}",
            "data.name": "omniglot",
            "base": "omniglot-maml",
            "space": "{learner.inner_lr: {low: 0.01, high: 1.0, log: true}}",
        }
        return f"the key {name} is missing. For example: {path[-1]}: {examples.get(name, '...')}"
    return f"{name}: expected {_wanted(problem)}, got {problem['input']!r}"


def _wanted(problem: Any) -> str:
    kind, context = problem["type"], problem.get("ctx") or {}
    words = {
        "int": "a whole number",
        "float": "a number",
        "finite": "a finite number",
        "bool": "true or false",
        "string": "a text",
        "dict": "keys with values",
        "model": "keys with values ({name: ...})",
        "list": "a list",
        "tuple": "a list",
        "sequence": "a list",
        "none": "null",
    }
    if kind == "value_error":
        return str(context.get("error", problem["msg"]))
    if kind == "literal_error":
        return f"one of {context.get('expected', '')}"
    return words.get(kind.partition("_")[0], str(problem["msg"]))


def _keys(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that a section knows."""
    for part in path:
        field = model.model_fields.get(part)
        kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)
