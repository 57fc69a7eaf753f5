"""What a reproduction is: a configuration, its budgets, and the numbers that its paper prints."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from kshot.errors import ConfigError, suggest
from kshot.training.config import parse_config
from kshot.training.schema import Options, RunConfig, Section
from kshot.yaml_keys import numbers, put

FOLDER = "reproductions"
"""Of the committed specifications, in the package; and of their results, in the working directory."""

Profile = Literal["cpu", "full"]


def _shipped(config: Any) -> Any:
    """What a name stands for: the configuration of that name in the package."""
    if not isinstance(config, str):
        return config
    file = resources.files("kshot") / "configs" / f"{config}.yaml"
    if not file.is_file():
        raise ValueError(f"there is no configuration {config!r} in kshot/configs")
    import yaml

    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    content.pop("out", None)
    return content


class Row(Section):
    """One number of a paper's and how ours is measured.

    Attributes:
        setting: as the table calls it.
        published: the paper's number; None where it has none for this setting. Accuracies, gains and bit errors in
            percent.
        interval: half of the interval that the paper prints with it.
        tasks: options of the test split (way, shot, ...).
        options: of the learner's `adapt`.
        norm: predict with this policy of normalisation in place of the one that the learner was trained with
            (`GradientLearner`): `"batch"` is transductive.
        count: how many tasks.
        measure: `"score"`; `"instance"`, the accuracy at a class's `instance`-th example, before its label is seen;
            `"unlabelled"`, how much the unlabelled examples of the support help; `"against"`, how much better than
            another reproduction's learner, `against`, on the same tasks.
        metric: `"score"`: accuracy, squared error or wrong bits; `"nll"`: the negative log-likelihood of the targets,
            of a learner that predicts mean and variance.
        within, at_least, at_most, above_untrained: what counts as reached in the `cpu` profile: so many points below
            the published number, a number, or so many points above the same learner untrained. Without any of them,
            and in the `full` profile wherever there is one: the published number, inside its interval, or within ours
            where none is printed.
        profiles: in which ones it is measured.
        reason: why it falls short in the `cpu` profile, where that is known to be more than the budget.
    """

    setting: str
    published: float | None = None
    interval: float | None = None
    tasks: Options = Field(default_factory=dict)
    options: Options = Field(default_factory=dict)
    norm: Literal["support", "batch"] | None = None
    count: int = 1000
    measure: Literal["score", "instance", "unlabelled", "against"] = "score"
    instance: int = 1
    against: str | None = None
    metric: Literal["score", "nll"] = "score"
    within: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    above_untrained: float | None = None
    profiles: tuple[Profile, ...] = ("cpu", "full")
    reason: str = ""


_JUDGEMENT = {"published", "interval", "within", "at_least", "at_most", "reason"}
"""Keys of a row that say what is made of its number, not how it is measured."""


class Specification(Section):
    """A committed reproduction.

    Attributes:
        name: of the file.
        title: the learner, as the table calls it.
        paper: where the published numbers are printed.
        paper_budget: what the paper trained for.
        differs: what is not as in the paper, beside the budget.
        config: a run's configuration, or the name of one that ships with kshot.
        profiles: of each budget, the keys of the configuration that it changes, `training.steps` say.
        rows: the numbers.
        uses: keys of the configuration that are the run folder of another reproduction, which is trained first.
        like: another reproduction that trains the very same network: it is trained once, selected by that learner, and
            its weights are taken.
    """

    name: str
    title: str
    paper: str
    paper_budget: str = ""
    differs: str = ""
    config: Annotated[dict[str, Any], BeforeValidator(_shipped)]
    profiles: dict[Profile, Options]
    rows: list[Row]
    uses: dict[str, str] = Field(default_factory=dict)
    like: str | None = None

    def run_config(self, profile: str, seed: int | None = None, folders: Mapping[str, str] | None = None) -> RunConfig:
        """The configuration of a profile, with another seed where one is given.

        Args:
            folders: what stands for the reproductions that it `uses`; their names by default.

        Raises:
            ConfigError: no such profile, or a configuration that makes no sense.
        """
        if profile not in self.profiles:
            raise ConfigError(
                f"{self.name} has no profile {profile!r}, only {' and '.join(self.profiles)}: choose one with --profile"
            )
        content = copy.deepcopy(self.config)
        for key, value in self.profiles[profile].items():
            put(content, key, value)
        if seed is not None:
            put(content, "training.seed", seed)
        for key, name in self.uses.items():
            put(content, key, (folders or {}).get(name, name))
        return parse_config(content, f"reproduction {self.name}")

    def rows_of(self, profile: str) -> list[Row]:
        """The rows that a profile measures; with the paper's budget its number is what is to be reached."""
        rows = [row for row in self.rows if profile in row.profiles]
        if profile == "cpu":
            return rows
        own = {"within": None, "at_least": None, "at_most": None, "above_untrained": None, "reason": ""}
        return [row if row.published is None else row.model_copy(update=own) for row in rows]

    def digest(self, profile: str, seed: int | None = None, *, rows: bool = True) -> str:
        """Of what decides the result: the run and what is measured; without `rows`, of the run alone."""
        content: list[Any] = [self.run_config(profile, seed).to_dict()]
        others = [*self.uses.values(), *([] if self.like is None else [self.like])]
        if rows:
            content += [row.model_dump(exclude=_JUDGEMENT) for row in self.rows_of(profile)]
            others += [row.against for row in self.rows_of(profile) if row.against is not None]
        content += [load(other).digest(profile, seed, rows=False) for other in others]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def names() -> list[str]:
    """The committed reproductions."""
    folder = resources.files("kshot") / FOLDER
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def load(name: str) -> Specification:
    """A committed reproduction.

    Raises:
        ConfigError: there is none of that name.
    """
    known = names()
    if name not in known:
        raise ConfigError(f"there is no reproduction {name!r}. {suggest(name, known)}")
    import yaml

    text = (resources.files("kshot") / FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    return parse(yaml.safe_load(text), name)


def parse(content: dict[str, Any], name: str) -> Specification:
    """A reproduction from what YAML gives.

    Raises:
        ConfigError: it is none; with the key that is wrong.
    """
    try:
        return Specification.model_validate({"name": name, **numbers(content)})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"reproduction {name}: {where}: {first['msg']}") from error
