"""`project.yaml`: what a pipeline is to do. Its template, and the model that it is checked against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kshot.errors import ConfigError, suggest
from kshot.yaml_keys import read_yaml

TEMPLATE = """\
# A kshot project. `kshot pipeline project.yaml` walks the steps below, in this order; each is skipped when nothing that
# goes into it has changed, and taken up where it stopped when it was interrupted.

out: runs/{name}            # everything is written here

# 1. tasks: what one task looks like.
tasks:
  data: {data}              # a registered dataset (kshot data list), or the path of a folder, zip or CSV
  way: 5                    # classes a task
  shot: 1                   # labelled support examples a class
  query: 15                 # query examples a class, on which an adapted learner is judged
  train: {{}}                 # what differs in training: {{way: 20, query: 5}}, say
  options: {{}}               # of the dataset: kshot data info NAME

# 2. data: gathered, read once, and checked: do its classes and examples suffice for such tasks?
data:
  download: true            # get what is missing
  data_dir: null            # where local copies lie; by default KSHOT_DATA, else ~/.local/share/kshot
  skip_bad: false           # true leaves unreadable files out, and counts them

# 3. learner: a fixed one (choose: {{name: maml, inner_lr: 0.1}}), or auto: a short run of every candidate, all with the
#    same number of training tasks, scored on the same val tasks. The scores are recorded.
learner:
  choose: auto
  candidates:
    - {{name: protonet}}
    - {{name: anil, inner_lr: 0.1, inner_steps: 5}}
    - {{name: maml, inner_lr: 0.1, inner_steps: 3}}
  steps: 100                # outer steps of each short run
  val_tasks: 200
backbone: {{}}                # {{}}: one that fits the data; or {{name: conv4, channels: 64}}

# 4. baseline: what one would do without meta-learning, a network trained conventionally on the training classes.
baseline:
  train: true

# 5. train: the meta-training.
training:
  steps: 1000
  meta_batch: 4             # tasks an outer step
  lr: 0.001
  schedule: cosine
  val_every: 100
  val_tasks: 200
  seed: 0
  device: auto

# 6. validate: on unseen tasks, of classes that no training saw, beside the baselines on the same episodes.
validate:
  tasks: 1000
  seed: 1

# 7. report: one HTML file with plots, and a JSON with everything.
report:
  stress: false             # also label noise, corruption, imbalance and the spread over seeds; takes longer

# 8. deploy: a copy of the learner becomes what the adaptation server serves, unless it is worse than the one that is
#    served now. The server is started by kshot serve --settings runs/{name}/deploy/server.yaml; one that runs finds it.
deploy:
  deploy: true
  name: null                # that clients call it by; by default the project's
  database: null            # postgresql://user@host/name, say; by default an SQLite file beside server.yaml
  tolerance: 0.5            # points of accuracy on unseen tasks that it may be worse than what is served
  settings: {{}}              # of the server: {{port: 9000, retention: raw}}, say; retention: raw keeps what was asked

# 9. monitor: how the tasks of a running server do. Its key is taken from KSHOT_KEY.
monitor:
  server: null              # http://127.0.0.1:8000; null: nothing is asked
  tasks: 200                # the newest
"""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Tasks(_Section):
    data: str
    way: int | list[int] = 5
    shot: int | list[int] = 1
    query: int | list[int] = 15
    train: dict[str, Any] = Field(default_factory=dict)
    val: dict[str, Any] = Field(default_factory=dict)
    test: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)


class Data(_Section):
    download: bool = True
    data_dir: str | None = None
    skip_bad: bool = False


class Choice(_Section):
    choose: str | dict[str, Any] = "auto"
    candidates: list[dict[str, Any]] = [
        {"name": "protonet"},
        {"name": "anil", "inner_lr": 0.1, "inner_steps": 5},
        {"name": "maml", "inner_lr": 0.1, "inner_steps": 3},
    ]
    steps: int = Field(default=100, ge=1)
    val_tasks: int = Field(default=200, ge=2)


class Baseline(_Section):
    train: bool = True


class Validate(_Section):
    tasks: int = Field(default=1000, ge=2)
    seed: int = 1


class Report(_Section):
    stress: bool = False


class Deploy(_Section):
    deploy: bool = True
    name: str | None = Field(default=None, min_length=1, max_length=100)
    database: str | None = None
    tolerance: float = Field(default=0.5, ge=0)
    settings: dict[str, Any] = Field(default_factory=dict)


class Monitor(_Section):
    server: str | None = None
    tasks: int = Field(default=200, ge=1)


class Project(_Section):
    """All of project.yaml. `backbone` and `training` are sections of `kshot train`'s configuration, checked there."""

    out: str
    tasks: Tasks
    data: Data = Field(default_factory=Data)
    learner: Choice = Field(default_factory=Choice)
    backbone: dict[str, Any] = Field(default_factory=dict)
    baseline: Baseline = Field(default_factory=Baseline)
    training: dict[str, Any] = Field(default_factory=dict)
    validate_: Validate = Field(default_factory=Validate, alias="validate")
    report: Report = Field(default_factory=Report)
    deploy: Deploy = Field(default_factory=Deploy)
    monitor: Monitor = Field(default_factory=Monitor)


def template(name: str, data: str) -> str:
    """The text of a new project.yaml."""
    import json

    quoted = data if all(c.isalnum() or c in "_-./" for c in data) else json.dumps(data, ensure_ascii=False)
    return TEMPLATE.format(name=name, data=quoted)


def read_project(path: Path) -> Project:
    """The project that a file describes.

    Raises:
        ConfigError: no such file, or an unknown or impossible key, named with the nearest right one.
    """
    if not path.is_file():
        raise ConfigError(f"there is no project {path}: expected the project.yaml that `kshot init` writes")
    try:
        return Project.model_validate(read_yaml(path))
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(path, problem) for problem in error.errors())) from None


def _explain(path: Path, problem: Any) -> str:
    where = [str(part) for part in problem["loc"]]
    dotted = ".".join(where)
    if problem["type"] == "extra_forbidden":
        return f"{path}: unknown key {dotted!r}. {suggest(where[-1], _keys(where[:-1]))}"
    if problem["type"] == "missing":
        return f"{path}: the key {dotted!r} is missing"
    return f"{path}: {dotted}: {problem['msg']}, got {problem['input']!r}"


def _keys(path: list[str]) -> list[str]:
    model: type[BaseModel] = Project
    for part in path:
        field = next(f for name, f in model.model_fields.items() if (f.alias or name) == part)
        model = field.annotation  # type: ignore[assignment]
    return [field.alias or name for name, field in model.model_fields.items()]
