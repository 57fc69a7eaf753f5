"""Who takes part in a comparison: learners by name, each with the train tasks that suit what it is.

One rule for all, and every part of it can be said otherwise:

- An outer step sees about `EXAMPLES` examples, in one task or in several.
- A learner with a fixed head trains on tasks of the way that is asked for, several a step, with at most `QUERIES`
  queries a class.
- Without a fixed head a train task has as many classes as those examples allow, with as many queries as shots: harder
  tasks, that compare more classes, teach more (Snell et al. 2017, sec. 3.1); to a conventional classifier an episode is
  a batch.
- A learner whose meta-gradient is Reptile's learns from support alone: queries become support.
- What a learner itself suggests for such tasks comes before its defaults (`Learner.suggested`), and before what all are
  given (`suggested_training`): five inner steps of 0.1 for classes where the default is MAML's of the sinusoids, SGD
  with a rate of 1 for Reptile.
- Tasks of uneven size, and what the data's own `train` options say, stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kshot.errors import ConfigError
from kshot.learners import all_learners
from kshot.learners.base import Learner
from kshot.learners.variants import VARIANTS, expand
from kshot.tasks.source import TaskSource
from kshot.yaml_keys import assign, numbers

if TYPE_CHECKING:
    from kshot.training.schema import RunConfig

EXAMPLES = {"images": 120, "vectors": 500}
"""Examples of an outer step, about. Of vectors, which cost next to nothing, there are more."""

QUERIES = 5
"""The most queries a class in the train tasks of a learner with a fixed head."""

Choice = str | Mapping[str, Any]
"""`"maml"`, `"maml,inner_lr=0.4"`, or `{"name": "maml", "inner_lr": 0.4}`; with sections `training` and `train`."""


@dataclass(frozen=True)
class Contestant:
    """A learner that was asked for.

    Attributes:
        label: what the table calls it.
        learner: its section of a configuration.
        training: arguments of its `Trainer` that are not the others'.
        train: options of its train tasks: `way`, `shot`, `query`.
    """

    label: str
    learner: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Built:
    """A learner that is ready to be trained.

    Attributes:
        learner: new, from the seed.
        config: resolved.
        source: with its own train tasks.
    """

    learner: Learner
    config: RunConfig
    source: TaskSource


def contestants(
    learners: Sequence[Choice] | None = None, backbone: Any = None, training: Mapping[str, Any] | None = None
) -> list[Contestant]:
    """The learners that were asked for, by default all of kshot's own and `VARIANTS`, checked as far as that is
    possible without data.

    Args:
        backbone, training: as for `build`.

    Raises:
        ConfigError: an unknown learner or option, with the nearest right name, or one that is there twice.
    """
    found: list[Contestant] = []
    for choice in [*all_learners(), *VARIANTS] if learners is None else learners:
        one = _contestant(choice)
        if one.label in {other.label for other in found}:
            raise ConfigError(f"{one.label} is there twice: name it once, or with other options")
        configuration(one, "the data", backbone, training or {})
        found.append(one)
    if not found:
        raise ConfigError("expected at least one learner to compare, got none")
    return found


def build(one: Contestant, source: TaskSource, backbone: Any, training: Mapping[str, Any]) -> Built:
    """A contestant's learner, as `kshot train` would make it, and its train tasks.

    Args:
        backbone: a section of a configuration; None: one that fits the data.
        training: arguments of every `Trainer`; what a learner suggests and a contestant's own come first.

    Raises:
        KshotError: the learner cannot do these tasks.
    """
    from kshot.training.config import build_learner, resolve
    from kshot.training.validation import check_fits

    one = replace(one, learner={**suggested(one, source), **one.learner})
    config = configuration(one, source.name, backbone, training)
    own = suited(build_learner(config, source), source, one.train)
    learner = build_learner(config, own)  # with the head that those tasks need
    for split in own.splits.values():
        check_fits(learner, split, own.example_shape)
    # What all are given is meant for the usual outer loop: a rate for Adam would stop Reptile's, that moves by itself.
    given = {"meta_batch": meta_batch(learner, own), **training, **learner.suggested_training}
    full = configuration(one, own.name, backbone, given)
    return Built(learner, resolve(full, own), own)


def configuration(one: Contestant, data: str, backbone: Any, training: Mapping[str, Any]) -> RunConfig:
    """What `kshot train` would be given.

    Args:
        data: the name of the data, which is there already.

    Raises:
        ConfigError: it says something unknown or impossible.
    """
    from kshot.training.config import parse_config

    asked = {**training, **one.training}
    for name in ("steps", "val_every"):
        if name in asked:
            raise ConfigError(f"learner {one.label}: {name} follows from the budget: leave out training.{name}")
    content = {"learner": one.learner, "data": {"name": data}, "training": asked}
    return parse_config({**content, **({} if backbone is None else {"backbone": backbone})}, f"learner {one.label}")


def suggested(one: Contestant, source: TaskSource) -> Mapping[str, Any]:
    """What a learner suggests for tasks of the source's kind, unless some of it was asked for."""
    found = all_learners()[one.learner["name"].lower()].suggested.get(source.kind, {})
    return {} if any(name in one.learner for name in found) else found


def suited(learner: Learner, source: TaskSource, asked: Mapping[str, Any]) -> TaskSource:
    """The source with the train tasks that suit a learner, by the rule above.

    Args:
        asked: options of the train tasks that come before the rule.
    """
    train, test = source.train, source.test
    even = all(isinstance(train.options.get(name), int) for name in ("way", "shot", "query"))
    if source.kind != "classification" or not even:
        return with_train(source, asked)
    given = {name: value for name, value in train.options.items() if value != test.options.get(name)}
    shot, query = given.get("shot", train.shot), given.get("query", train.query)
    if learner.way is not None:
        # A larger head than the tasks need would only be masked.
        options = {**given, "way": test.way, "query": given.get("query", min(query, QUERIES))}
        if learner.meta_gradient == "reptile" and "shot" not in given:
            options |= {"shot": shot + options["query"] - 1, "query": 1}
    else:
        query = given.get("query", min(query, shot))
        kinds = getattr(train, "kins", None if train.pool is None else len(train.pool)) or train.way
        options = {"way": max(test.way, min(kinds, examples(source) // (shot + query))), "query": query, **given}
    return with_train(source, {**options, **asked})


def with_train(source: TaskSource, options: Mapping[str, Any]) -> TaskSource:
    """The source with other options of its train tasks."""
    if not options:
        return source
    splits = {**source.splits, "train": source.train.replace(**options)}
    spec = {**source.spec, "train": {**source.spec.get("train", {}), **options}} if source.spec else {}
    return TaskSource(
        source.name,
        splits,
        example_shape=source.example_shape,
        transform=source.transform,
        spec=spec,
        info=source.info,
    )


def meta_batch(learner: Learner, source: TaskSource) -> int:
    """Tasks a step: as many as make about `EXAMPLES`, and at least two of those with a fixed head."""
    size = source.train.support_size + source.train.query_size
    return max(1 if learner.way is None and source.kind == "classification" else 2, examples(source) // size)


def examples(source: TaskSource) -> int:
    """Examples of an outer step, about."""
    return EXAMPLES["images" if len(source.example_shape) == 3 else "vectors"]


def _contestant(choice: Choice) -> Contestant:
    content: dict[str, Any] = {}
    if isinstance(choice, str):
        name, comma, rest = choice.partition(",")
        # A comma parts options where another one begins; within a value it stays.
        options = re.split(r",(?=\s*[\w.]+\s*=)", rest) if comma else []
        content = numbers(assign({}, options, f"--learner {name},"))
    else:
        content = {key: value for key, value in choice.items() if key != "name"}
        name = str(choice.get("name", ""))
    known, name = all_learners(), name.strip()
    sections = {key: content.pop(key, None) or {} for key in ("training", "train")}
    for key, section in sections.items():
        if not isinstance(section, Mapping):
            raise ConfigError(f"learner {name}: expected {key} to hold keys of its own, got {section!r}")
    said = [*content.items(), *((f"{key}.{k}", v) for key, section in sections.items() for k, v in section.items())]
    names = {label.lower(): label for label in VARIANTS} | {key: cls.__name__ for key, cls in known.items()}
    title = names.get(name.lower(), name)
    label = " ".join([title, ", ".join(f"{key}={value}" for key, value in said)])
    learner, own = expand(name, content)
    return Contestant(label.strip(), {"name": learner, **own}, **{k: dict(v) for k, v in sections.items()})
