"""What the steps of a pipeline work with: the project's configuration, task source and learner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kshot.cli.walk import Context

if TYPE_CHECKING:
    from kshot.learners.base import Learner
    from kshot.tasks.source import TaskSource
    from kshot.training.schema import RunConfig

RUN = "run"
"""The run's folder in the project's."""


def run_config(context: Context, learner: dict[str, Any] | None = None, **training: Any) -> RunConfig:
    """What `kshot train` would be given: the project's tasks and data, a learner, and the training."""
    from kshot.training.config import parse_config

    project = context.project
    tasks = project.tasks.model_dump(exclude={"data"})
    return parse_config(
        {
            "learner": learner or {"name": "protonet"},
            **({"backbone": project.backbone} if project.backbone else {}),
            "data": {
                "name": project.tasks.data,
                **{key: value for key, value in tasks.items() if value != {}},
                "data_dir": project.data.data_dir,
                "skip_bad": project.data.skip_bad,
            },
            "training": {**project.training, **training},
        },
        "the project",
    )


def source_of(context: Context) -> TaskSource:
    """The project's task source, loaded once a walk."""
    from kshot.training.config import build_source

    if "source" not in context.memory:
        context.memory["source"] = build_source(run_config(context))
    source: TaskSource = context.memory["source"]
    return source


def learner_of(context: Context) -> Learner:
    """The meta-trained learner."""
    from kshot.artifacts import from_pretrained

    learner: Learner = from_pretrained(context.out / RUN)
    return learner
