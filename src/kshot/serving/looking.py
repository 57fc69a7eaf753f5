"""What the server says of models, tasks, examples and versions."""

from __future__ import annotations

import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kshot.learners.adapted import AdaptedModel
from kshot.serving.problems import NotFoundError
from kshot.serving.service import Service
from kshot.serving.store import tasks
from kshot.serving.store.rows import Principal, TaskRow, VersionRow


def about(service: Service, name: str) -> dict[str, Any]:
    """What requests need to know of a model."""
    model = service.models[name]
    learner = model.learner
    return {
        "name": name,
        "digest": model.digest,
        "learner": type(learner).__name__,
        "default": model is service.model(None),
        "input": {"shape": learner.input_shape, "kind": "image" if service.readers[name].images else "array"},
        "way": learner.way,
        "max_examples": learner.max_support,
        "options": list(learner.adapt_options),
        "calibrated": "threshold" in model.calibration,
    }


async def page(service: Service, principal: Principal, after: tuple[float, str] | None, limit: int) -> list[TaskRow]:
    """A tenant's tasks, the newest first."""
    return await service.reading(tasks.page, principal.tenant, after, limit)


def brief(task: TaskRow) -> dict[str, Any]:
    """A task in a list."""
    return {
        "id": task.id,
        "name": task.name,
        "model": task.model,
        "version": task.version,
        "created": _moment(task.created),
        "updated": _moment(task.updated),
    }


async def describe(service: Service, task: TaskRow) -> dict[str, Any]:
    """All that is known of a task's version of now."""
    version = await service.reading(tasks.load_version, task.id, task.version)
    if version is None:
        raise NotFoundError(f"there is no task {task.id}: it was deleted")
    return {**document(task, version), **brief(task)}


async def examples(service: Service, task: TaskRow) -> list[dict[str, Any]]:
    """The examples of the version of now: their numbers and labels."""
    state = await service.state(task)
    return [
        {"number": number, "label": state.labels[label]}
        for number, label in zip(state.numbers, state.targets.tolist(), strict=True)
    ]


async def versions(service: Service, task: TaskRow) -> list[dict[str, Any]]:
    """The versions of a task, the newest first."""
    return [
        {
            "version": version.number,
            "current": version.number == task.version,
            "reason": version.reason,
            "created": _moment(version.created),
            "model_digest": version.digest,
            "examples": len(version.members),
            "leave_one_out": version.info.get("leave_one_out"),
        }
        for version in reversed(await service.reading(tasks.load_versions, task.id))
    ]


async def artifact(service: Service, task: TaskRow) -> bytes:
    """The adapted task as the file that `kshot adapt` would have written."""
    state = await service.state(task)
    model = service.by_digest[state.digest]
    adapted = AdaptedModel(model.learner, state.adapted, state.classes, state.labels, {"task": task.id})
    return await service.parsing(_file_of, adapted)


def document(task: TaskRow, version: VersionRow) -> dict[str, Any]:
    """What is said of a version of a task."""
    return {
        "id": task.id,
        "name": task.name,
        "model": task.model,
        "version": version.number,
        "classes": version.info["labels"],
        "examples": len(version.members),
        "leave_one_out": version.info.get("leave_one_out"),
        "suspects": version.info.get("suspects", []),
    }


def _moment(seconds: float) -> str:
    """RFC 3339, UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _file_of(model: AdaptedModel) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return model.save(Path(folder) / "task.safetensors").read_bytes()
