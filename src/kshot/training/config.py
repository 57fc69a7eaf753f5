"""From a configuration to a trainer: read it, check it, build what it describes.

::

    learner: {name: maml, inner_lr: 0.4, inner_steps: 1}   # `way`, or the sizes of a sequence, are those of the tasks
    backbone: {name: conv4, channels: 64}                  # input sizes are those of the tasks' examples; or, in place
                                                           # of a name, {weights: runs/protonet, frozen: true}
    data: {name: omniglot, way: 5, shot: 1, query: 15, train: {query: 5}, options: {split: vinyals}}
    training: {steps: 2000, meta_batch: 16, lr: 0.001}
    out: runs/maml
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from kshot import capture, models, tasks
from kshot.engine.fits import of_another_kind
from kshot.errors import ConfigError, RunError, suggest
from kshot.learners import all_learners
from kshot.learners.base import Learner
from kshot.learners.variants import VARIANTS, expand
from kshot.randomness import seeded
from kshot.tasks.source import TaskSource
from kshot.tasks.unlabeled import UNLABELED_OPTIONS
from kshot.training.optimizers import of_a_script
from kshot.training.schema import Named, NamedBackbone, RunConfig, check_option, validate
from kshot.training.trainer import Trainer
from kshot.training.weights import begin_with, describe_weights, go_on_with
from kshot.yaml_keys import assign, numbers, read_yaml

__all__ = [
    "RunConfig",
    "backbones",
    "build_learner",
    "build_source",
    "build_trainer",
    "load_config",
    "parse_config",
    "resolve",
    "resume_run",
]


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Reads and checks a YAML file.

    Args:
        path: of the file.
        overrides: `"training.lr=0.01"`: a key of the file, or one that it leaves out, and its value as YAML.

    Raises:
        ConfigError: no such file, no YAML, an unknown key (with the nearest right name), a value of the wrong type, or
            an unknown learner, backbone or option of theirs.
    """
    content = assign(read_yaml(Path(path)), overrides)
    return parse_config(content, str(path))


def parse_config(content: Mapping[str, Any], where: str = "the configuration") -> RunConfig:
    """Checks a configuration that was read already; see `load_config`.

    Args:
        where: what to begin an error with.
    """
    config = validate(numbers(dict(content)), where)
    name, options = expand(config.learner.name, config.learner.options)
    config = config.model_copy(update={"learner": Named(name=name, **options)})
    _check_options(config.learner, "learner", _learner_class(config.learner.name, where), where)
    if config.backbone is not None and config.backbone.name is not None:
        _check_options(config.backbone, "backbone", _backbone_class(config.backbone.name, where), where)
    return config


def build_source(config: RunConfig, data_dir: str | Path | None = None) -> TaskSource:
    """The task source that a configuration describes: `kshot.tasks.load`, with its errors.

    Args:
        data_dir: where local copies of the data lie; by default the configuration's own, else $KSHOT_DATA.
    """
    data = config.data
    keys = ("way", "shot", "query", "sampling", *UNLABELED_OPTIONS, "train", "val", "test", "replay")
    given: dict[str, Any] = {key: getattr(data, key) for key in keys}
    given = {key: value for key, value in given.items() if value not in (None, {})}
    for key in given.keys() & data.options.keys():
        raise ConfigError(f"data.options.{key} is there twice: say it in data.{key} alone")
    if data.skip_bad:
        given["skip_bad"] = True
    return tasks.load(data.name, data_dir=data_dir or data.data_dir, **given, **data.options)


def resolve(config: RunConfig, source: TaskSource) -> RunConfig:
    """The configuration with what follows from the tasks filled in: the backbone, its input sizes, the learner's way.

    Raises:
        ConfigError: the backbone cannot take such examples.
        UnsupportedError: the learner is of sequences, and the tasks are not.
    """
    if config.init is not None:
        return config  # it is as it was made
    cls = _learner_class(config.learner.name)
    takes, learner = _parameters(cls), config.learner.options
    if cls.outputs == "bits" and source.kind != "sequence":  # without the sizes of a sequence it cannot even be made
        raise of_another_kind(cls.__name__, "sequence", source.kind, "the tasks of train are")
    if "way" in takes and "way" not in learner and source.kind == "classification":
        # A fixed head has the largest way; the others are masked.
        learner["way"] = max(split.way for split in source.splits.values())
    if "classes" in takes and "classes" not in learner and source.train.classes:
        learner["classes"] = source.train.classes
    if source.kind == "sequence":
        sizes = (source.example_shape[0], int(source.train.sample(1, seed=0).query.y.shape[-1]))
        for name, size in zip(("in_features", "out_features"), sizes, strict=True):
            if name in takes:
                learner.setdefault(name, size)
    if "max_support" in takes and "max_support" not in learner:
        learner["max_support"] = source.train.support_size
    if "out_features" in takes and "out_features" not in learner and source.kind == "regression":
        learner["out_features"] = int(source.train.sample(1, seed=0).query.y.shape[-1])
    backbone = None
    if config.backbone is not None and config.backbone.weights is not None and "backbone" not in takes:
        raise ConfigError(f"backbone.weights: {config.learner.name} takes no backbone: leave it out")
    if "backbone" in takes:
        backbone = _resolved_backbone(config, source, has_head="out_features" in takes)
    return config.model_copy(
        update={"learner": Named(name=config.learner.name, **learner), "backbone": backbone}, deep=True
    )


def build_learner(config: RunConfig, source: TaskSource) -> Learner:
    """The learner that a configuration describes, for the tasks of a source, initialised from the training's seed.

    Raises:
        ConfigError: its parts do not fit each other or the tasks; weights to begin with that have seen test classes.
    """
    if config.init is not None:
        return go_on_with(config.init, source)
    full = resolve(config, source)
    learner, weights = dict(full.learner.options), None if full.backbone is None else full.backbone.weights
    with seeded(full.training.seed):
        if full.backbone is not None:
            learner["backbone"] = _build_backbone(full.backbone, source)
        built: Learner = _construct(_learner_class(full.learner.name), learner, "learner")
    if weights is not None:
        built.provenance["weights"] = describe_weights(weights)
    return built


def build_trainer(
    config: RunConfig,
    learner: Learner | None = None,
    source: TaskSource | None = None,
    *,
    data_dir: str | Path | None = None,
    **arguments: Any,
) -> Trainer:
    """The trainer that a configuration describes.

    Args:
        learner, source: built from the configuration where they are not given.
        arguments: of `Trainer`, in place of the configuration's: `resume`, `overwrite`, `callbacks`, `progress`, `out`.
    """
    source = build_source(config, data_dir) if source is None else source
    learner = build_learner(config, source) if learner is None else learner
    full = resolve(config, source)
    given = {**full.training.model_dump(), "out": full.out, "config": full.to_dict(), **arguments}
    return Trainer(learner, source, **given)


def resume_run(
    path: str | Path, overrides: Sequence[str] = (), *, data_dir: str | Path | None = None, **arguments: Any
) -> Trainer:
    """A trainer that goes on with the run in a folder, rebuilt from its config.yaml.

    Args:
        path: of the run.
        overrides: as for `load_config`: what may change in a resumed run, such as `training.device=cpu`.
        arguments: of `Trainer`: `callbacks`, `progress`, ...

    Raises:
        RunError: there is no run.
        ConfigError: it was begun in Python with what a file cannot describe: its script has to go on with it.
    """
    file = Path(path) / "config.yaml"
    if not file.is_file():
        raise RunError(
            f"there is no run to resume in {path}: expected a folder with a config.yaml that kshot train wrote"
        )
    arguments = {"out": str(path), "resume": True, **arguments}
    content = read_yaml(file)
    learner = content.get("learner")
    if isinstance(learner, dict) and "class" not in learner:
        return build_trainer(load_config(file, overrides), data_dir=data_dir, **arguments)
    return _resume_python_run(assign(content, overrides), file, data_dir, arguments)


def backbones() -> dict[str, type[models.Backbone]]:
    """Every backbone of kshot's own by its lower-case name."""
    found = {name.lower(): getattr(models, name) for name in models.__all__}
    of_another = (models.Backbone, models.Frozen)
    return {n: c for n, c in found.items() if issubclass(c, models.Backbone) and c not in of_another}


def _resume_python_run(content: dict[str, Any], file: Path, data_dir: Any, arguments: dict[str, Any]) -> Trainer:
    """The trainer of a run that was begun in Python, where the configuration says enough."""
    learner, spec, training = (content.get(key) for key in ("learner", "source", "training"))
    told = all(isinstance(part, dict) for part in (learner, spec, training)) and "name_or_path" in (spec or {})
    own = [key for key in ("optimizer", "schedule") if told and of_a_script((training or {}).get(key))]
    if not told or own:
        what = f"its {' and '.join(own)} was made there" if own else "its learner or its task source has no description"
        raise ConfigError(
            f"{file}: this run was begun in Python, and {what}. Go on with it in the script that began it: "
            "Trainer(..., resume=True)"
        )
    assert learner is not None
    assert training is not None
    assert spec is not None
    if data_dir is not None:
        spec = {**spec, "data_dir": str(data_dir)}
    with seeded(int(training.get("seed", 0))):
        built = capture.build(learner)
    return Trainer(built, tasks.load(**spec), **{**training, **arguments})


def _build_backbone(section: NamedBackbone, source: TaskSource) -> models.Backbone:
    built: models.Backbone | None = None
    if section.name is not None:
        built = _construct(_backbone_class(section.name), section.options, "backbone")
    if section.weights is not None:
        built = begin_with(built, section.weights, source, frozen=section.frozen)
    assert built is not None
    return built


def _resolved_backbone(config: RunConfig, source: TaskSource, *, has_head: bool) -> NamedBackbone:
    shape, given = source.example_shape, config.backbone
    if given is not None and given.name is None:
        return given  # as in the run whose weights it has
    name = given.name if given is not None and given.name else "conv4" if len(shape) == 3 else "mlp"
    options = {} if given is None else given.options
    takes = _parameters(_backbone_class(name))
    sizes = (
        dict(zip(("in_channels", "image_size"), shape[:2], strict=False))
        if len(shape) == 3
        else {"in_features": shape[0]}
    )
    if not any(key in takes for key in sizes):
        fitting = [key for key, cls in backbones().items() if next(iter(sizes)) in _parameters(cls)]
        kind = "images" if len(shape) == 3 else "vectors"
        raise ConfigError(
            f"the backbone {name} cannot take the examples of {source.name}, {kind} of shape {list(shape)}: use "
            f"{' or '.join(fitting) or 'another one'}"
        )
    options = {**{key: value for key, value in sizes.items() if key in takes}, **options}
    if source.kind == "regression" and not has_head and "out_features" in takes and "out_features" not in options:
        # Without a head of the learner's own, the backbone's output is the value.
        options["out_features"] = int(source.train.sample(1, seed=0).query.y.shape[-1])
    if given is None:
        return NamedBackbone(name=name, **options)
    return NamedBackbone(name=name, weights=given.weights, frozen=given.frozen, **options)


def _learner_class(name: str, where: str = "the configuration") -> type[Learner]:
    known = all_learners()
    if name.lower() not in known:
        names = [*known, *(title.lower() for title in VARIANTS)]
        raise ConfigError(f"{where}: unknown learner {name!r}. {suggest(name.lower(), names)}")
    return known[name.lower()]


def _backbone_class(name: str, where: str = "the configuration") -> type[models.Backbone]:
    known = backbones()
    if name.lower() not in known:
        raise ConfigError(f"{where}: unknown backbone {name!r}. {suggest(name.lower(), known)}")
    return known[name.lower()]


def _check_options(section: Named, name: str, cls: type[nn.Module], where: str) -> None:
    takes = [p for p in _parameters(cls) if p != "backbone"]
    hints = typing.get_type_hints(cls.__init__)
    for option, value in section.options.items():
        if option not in takes:
            raise ConfigError(f"{where}: unknown key {name}.{option} for {cls.__name__}. {suggest(option, takes)}")
        check_option(hints.get(option, Any), value, f"{name}.{option}", where)


def _parameters(cls: Any) -> list[str]:
    """The names of a constructor's arguments (the class's own signature is that of its metaclass)."""
    return list(inspect.signature(cls.__init__).parameters)[1:]


def _construct(cls: Any, arguments: dict[str, Any], section: str) -> Any:
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ConfigError(f"{section}: {cls.__name__} does not take these arguments: {error}") from error
