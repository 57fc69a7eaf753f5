"""What the server says of models, tasks, examples and versions."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

from kshot.learners.adapted import AdaptedModel
from kshot.serving.health import Seen, report
from kshot.serving.payloads import unpack_example
from kshot.serving.problems import NotFoundError
from kshot.serving.service import Service
from kshot.serving.store import access, journal, tasks
from kshot.serving.store.rows import Principal, TaskRow, VersionRow
from kshot.serving.vault import about_example, about_feedback


def about(service: Service, name: str) -> dict[str, Any]:
    """What requests need to know of a model."""
    model = service.models[name]
    learner = model.learner
    return {
        "name": name,
        "digest": model.digest,
        "learner": type(learner).__name__,
        "default": model is service.model(None),
        "input": {"shape": learner.input_shape, "kind": "image" if service.readers[model.digest].images else "array"},
        "way": learner.way,
        "max_examples": learner.max_support,
        "options": list(learner.adapt_options),
        "calibrated": bool(model.calibration.get("shots")),
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
    return {**document(task, version), **brief(task), "checking": unchecked(service, version)}


def unchecked(service: Service, version: VersionRow) -> bool:
    """Whether how good a version is will still be found out, here or in another process."""
    model = service.by_digest.get(version.digest)
    checked = model is None or model.cheap or "leave_one_out" in version.info
    return not checked and service.settings.checks == "background"


async def examples(service: Service, task: TaskRow, after: int | None, limit: int | None) -> dict[str, Any]:
    """A page of the examples of the version of now: their numbers and labels (null: it has none).

    Args:
        after: the number of the last one of the page before.
        limit: so many; None: all that follow.
    """
    state = await service.state(task)
    version = await service.reading(tasks.load_version, task.id, state.version)
    labels = {n: state.labels[label] for n, label in zip(state.numbers, state.targets.tolist(), strict=True)}
    numbers = state.numbers if version is None else version.members
    left = [number for number in numbers if after is None or number > after]
    found = left[:limit]
    return {
        "examples": [{"number": number, "label": labels.get(number)} for number in found],
        "next": found[-1] if len(found) < len(left) else None,
    }


async def versions(service: Service, task: TaskRow, after: int | None, limit: int) -> dict[str, Any]:
    """A page of the versions of a task, the newest first.

    Args:
        after: the number of the last one of the page before.
        limit: so many.
    """
    rows = await service.reading(tasks.load_versions, task.id, after, limit + 1)
    return {
        "versions": _about_versions(task, rows[:limit]),
        "next": rows[limit - 1].number if len(rows) > limit else None,
    }


def _about_versions(task: TaskRow, rows: Sequence[VersionRow]) -> list[dict[str, Any]]:
    return [
        {
            "version": version.number,
            "current": version.number == task.version,
            "reason": version.reason,
            "created": _moment(version.created),
            "model_digest": version.digest,
            "examples": _labelled(version),
            "leave_one_out": version.info.get("leave_one_out"),
        }
        for version in rows
    ]


async def artifact(service: Service, task: TaskRow) -> bytes:
    """The adapted task as the file that `kshot adapt` would have written."""
    state = await service.state(task)
    model = service.by_digest[state.digest]
    metadata = {"task": task.id, "temperature": state.info.get("temperature", 1.0)}
    adapted = AdaptedModel(model.learner, state.adapted, state.classes, state.labels, metadata)
    return await service.parsing(_file_of, adapted)


async def health(service: Service, task: TaskRow) -> dict[str, Any]:
    """How a task's queries look, over all processes as far as they have said, and how often it was right."""

    def read(connection: Connection) -> tuple[Any, tuple[int, int], Seen]:
        with service.watch.moving:  # or what is on its way into the database would be in neither
            return *journal.load_health(connection, task.id), service.watch.of(task.id, task.version)

    stored, (right, judged), seen = await service.reading(read)
    if stored is not None and stored[0] == task.version:
        seen = seen + Seen(**stored[1])
    state = await service.state(task)
    found = report(seen, *service.expected(state), right, judged)
    return {"task": task.id, "version": task.version, **found}


async def tenant(service: Service, principal: Principal) -> dict[str, Any]:
    """What a tenant has, may have, and used."""

    def read(connection: Connection) -> dict[str, Any]:
        return {
            "has": access.holdings(connection, principal.tenant),
            "used": journal.used(connection, principal.tenant),
        }

    return {"tenant": principal.tenant, **await service.reading(read), "quotas": service.quotas(principal)}


async def audit(service: Service, principal: Principal, before: int | None, limit: int) -> dict[str, Any]:
    """A page of a tenant's audit log."""
    lines = await service.reading(journal.audit_page, principal.tenant, before, limit)
    next_ = lines[-1]["id"] if len(lines) == limit else None
    return {"audit": [{**line, "at": _moment(line["at"])} for line in lines], "next": next_}


async def export(service: Service, principal: Principal) -> AsyncIterator[bytes]:
    """All that is stored of a tenant, line by line: what it is, then its tasks with their versions and examples."""
    yield _line({"kind": "tenant", **await tenant(service, principal)})
    after = None
    while found := await page(service, principal, after, 100):
        for task in found:
            every = await service.reading(tasks.load_versions, task.id)
            yield _line({"kind": "task", **brief(task), "versions": _about_versions(task, every)})
            for row in await service.reading(tasks.load_examples, task.id):
                x, label = unpack_example(service.vault.open(row.sealed, about_example(task.id, row.number)))
                about = {"kind": "example", "task": task.id, "number": row.number, "label": label, "form": row.form}
                yield _line({**about, "created": _moment(row.created), "x": x.tolist()})
            for told in await service.reading(journal.load_feedback, task.id):
                x, label = unpack_example(service.vault.open(told.sealed, about_feedback(task.id)))
                said = {"kind": "feedback", "task": task.id, "version": told.version, "label": label}
                query = {"x": x.tolist()} if x.numel() else {}
                yield _line({**said, "right": told.right, "created": _moment(told.created), **query})
        after = (found[-1].created, found[-1].id)


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode() + b"\n"


def document(task: TaskRow, version: VersionRow) -> dict[str, Any]:
    """What is said of a version of a task."""
    return {
        "id": task.id,
        "name": task.name,
        "model": task.model,
        "version": version.number,
        "classes": version.info["labels"],
        "examples": _labelled(version),
        "unlabeled": len(version.members) - _labelled(version),
        "leave_one_out": version.info.get("leave_one_out"),
        "suspects": version.info.get("suspects", []),
    }


def _labelled(version: VersionRow) -> int:
    return len(version.members) - int(version.info.get("unlabeled", 0))


def _moment(seconds: float) -> str:
    """RFC 3339, UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _file_of(model: AdaptedModel) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return model.save(Path(folder) / "task.safetensors").read_bytes()
