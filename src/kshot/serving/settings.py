"""What a server can be told: a file, the environment and flags, in this order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kshot.errors import ConfigError, suggest
from kshot.yaml_keys import numbers, put, read_yaml, yaml_value

PREFIX = "KSHOT_SERVE_"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Section):
    """What one request may ask for; more is refused with 413 or 422.

    Attributes:
        body_bytes: of a request's body.
        pixels: of one image, before it is resized.
        total_pixels: of all images of a list: examples, unlabelled ones, queries.
        examples: of a task.
        way: classes of a task.
        label_bytes: of a class's name, as UTF-8.
        queries: examples of one prediction.
        steps: inner steps of an adaptation.
        header_seconds, body_seconds: for the headers of a request to arrive, and for its body.
        wait_seconds: that an adaptation may wait to be begun; then it is answered 504.
        adapt_seconds: that an adaptation may take, by what others took here; a longer one is not begun (422).
    """

    body_bytes: int = Field(default=16_000_000, ge=1)
    pixels: int = Field(default=25_000_000, ge=1)
    total_pixels: int = Field(default=250_000_000, ge=1)
    examples: int = Field(default=2_000, ge=2)
    way: int = Field(default=200, ge=2)
    label_bytes: int = Field(default=200, ge=1)
    queries: int = Field(default=256, ge=1)
    steps: int = Field(default=100, ge=1)
    header_seconds: float = Field(default=10.0, gt=0)
    body_seconds: float = Field(default=60.0, gt=0)
    wait_seconds: float = Field(default=60.0, gt=0)
    adapt_seconds: float = Field(default=60.0, gt=0)


class Quotas(_Section):
    """What a tenant may have unless its own say otherwise; more is refused with 429.

    Attributes:
        tasks: stored at once.
        examples: stored at once, over all tasks.
        bytes: of stored examples and feedback, over all tasks.
        requests_per_second: on average; twice as many in a burst.
    """

    tasks: int = Field(default=10_000, ge=0)
    examples: int = Field(default=1_000_000, ge=0)
    bytes: int = Field(default=2_000_000_000, ge=0)
    requests_per_second: float = Field(default=1_000.0, gt=0)


class Settings(_Section):
    """All settings of a server.

    Attributes:
        models: the runs (or saved learners, or shipped names) that it serves; the first one is served by default.
        database: an SQLAlchemy address: `sqlite:///kshot.db`, `postgresql+psycopg://user@host/name`.
        master_key: the file of the key that stored examples are sealed with; made where there is none.
        host, port: where it listens.
        workers: processes that answer at this port.
        threads: that adaptations compute with, in each process (None: the cores, shared among the workers).
        authentication: `keys`, or `none`: everyone is the tenant `default`, on a loopback address only.
        retention: which examples stay in the database: `adaptation`: only what adapting a task again needs (shared
            features in place of raw examples, where the learner has any); `raw`: the examples as they came, so that
            tasks move on to a new model and can refine one; `none`: nothing, and a task stays as it was made.
        calibration: val tasks of each shot on which a model is calibrated when it is served for the first time.
        cache_bytes: of adapted tasks kept in memory.
        queue: examples that may wait to be computed; beyond it requests are answered 503.
        batch: examples that are computed at once.
        bodies_bytes: of the large bodies that are inside a process at once, over all requests; beyond it they are
            answered 503, but for those of who has less inside than an equal share.
        checks: whether a task whose model adapts whole networks is checked when it is answered: `background`, or
            `none`. Others are checked at once.
        log: `json` lines or plain `text`.
    """

    models: tuple[str, ...] = ()
    database: str = "sqlite:///kshot.db"
    master_key: str = "kshot.key"
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    workers: int = Field(default=1, ge=1, le=64)
    threads: int | None = Field(default=None, ge=1)
    authentication: Literal["keys", "none"] = "keys"
    retention: Literal["adaptation", "raw", "none"] = "adaptation"
    calibration: int = Field(default=150, ge=4)
    cache_bytes: int = Field(default=256_000_000, ge=0)
    queue: int = Field(default=1_024, ge=1)
    batch: int = Field(default=64, ge=1)
    bodies_bytes: int = Field(default=128_000_000, ge=1)
    checks: Literal["background", "none"] = "background"
    log: Literal["json", "text"] = "json"
    limits: Limits = Field(default_factory=Limits)
    quotas: Quotas = Field(default_factory=Quotas)


def load_settings(
    file: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Defaults < file < environment < flags.

    Args:
        file: YAML with the keys of `Settings`.
        flags: keys, dotted for those of a section (`limits.way`); None says nothing.
        environment: by default the process's: `KSHOT_SERVE_DATABASE`, `KSHOT_SERVE_LIMITS__WAY`.

    Raises:
        ConfigError: an unknown key (with the nearest right one), or a value that it cannot have.
    """
    content: dict[str, Any] = {} if file is None else read_yaml(Path(file))
    for name, value in sorted((os.environ if environment is None else environment).items()):
        if name.startswith(PREFIX):
            put(content, name[len(PREFIX) :].lower().replace("__", "."), yaml_value(value, name))
    for name, value in (flags or {}).items():
        if value is not None:
            put(content, name, value)
    if isinstance(content.get("models"), str):
        content["models"] = [content["models"]]
    try:
        return Settings.model_validate(numbers(content))
    except ValidationError as error:
        raise ConfigError("; ".join(_in_words(problem) for problem in error.errors())) from None


def _in_words(problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path)
    if problem["type"] == "extra_forbidden":
        model: Any = Settings
        for part in path[:-1]:
            model = model.model_fields[part].annotation
        return f"unknown setting {name}. {suggest(path[-1], model.model_fields)}"
    return f"the setting {name}: {problem['msg'][:1].lower()}{problem['msg'][1:]}, got {problem['input']!r}"
