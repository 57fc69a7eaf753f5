"""A model takes the place of another while both are served: found in the database, loaded, and the tasks moved to it.

The one that it replaces stays loaded: versions that it made are rolled back to with it, and tasks that cannot be
adapted again (their features alone are kept) go on with it.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

from kshot.errors import KshotError
from kshot.serving.budgets import Pace
from kshot.serving.changing import Changes, Request
from kshot.serving.problems import ProblemError
from kshot.serving.registering import current_model
from kshot.serving.served import ServedModel
from kshot.serving.service import Service
from kshot.serving.store import access, registry, tasks
from kshot.serving.store.registry import Known
from kshot.serving.store.rows import Principal
from kshot.serving.threads import in_a_thread_that_ends

TOGETHER = 16
"""Tasks that are moved at the same time: one is adapted when nobody waits for anything, while others are written."""

_log = logging.getLogger("kshot.serving")


def _measured(known: Known, threads: int) -> tuple[ServedModel, Pace]:
    """A model, and how long it takes. It is loaded though it may be there: a lane may be adapting with that one, whose
    parameters are swapped meanwhile."""

    def measure() -> tuple[ServedModel, Pace]:
        model = current_model(known)
        return model, Pace.measure(model)

    return in_a_thread_that_ends(measure, threads)


async def look(service: Service, changes: Changes) -> None:
    """Serves what was promoted since the last look, and moves the tasks to it."""
    found = await service.reading(registry.current)
    for name, known in found.items():
        if name not in service.models or service.models[name].digest == known.digest:
            continue
        try:
            there, pace = service.by_digest.get(known.digest), service.paces.get(known.digest)
            if there is not None and pace is not None:
                model = replace(there, name=name)  # it may have been another one's when it was loaded
            else:
                model, pace = await asyncio.to_thread(_measured, known, service.threads)
        except KshotError as error:
            _log.error("not promoted", extra={"model": name, "reason": str(error)})
            continue
        service.adopt(model, pace)
        _log.info("promoted", extra={"model": name, "digest": model.digest})
        service.later(move_all(service, changes, model))


async def move_all(service: Service, changes: Changes, model: ServedModel) -> None:
    """Adapts the tasks of a model's name anew that an earlier one adapted."""
    after, moved, left = "", 0, 0
    while service.models.get(model.name) is model and (
        rows := await service.reading(tasks.behind, model.name, model.digest, after, TOGETHER)
    ):
        requests = [Request(Principal(None, row.tenant, access.SCOPES), "promote") for row in rows]
        done = await asyncio.gather(
            *(changes.move(request, row, model) for request, row in zip(requests, rows, strict=True)),
            return_exceptions=True,
        )
        for row, result in zip(rows, done, strict=True):
            if isinstance(result, ProblemError):
                left += 1  # its features alone are kept, or somebody changed it: it stays as it is
            elif isinstance(result, BaseException):
                _log.error("not moved", extra={"task": row.id, "reason": repr(result)})
                left += 1
            else:
                moved += 1
        after = rows[-1].id
    if moved or left:
        _log.info("tasks moved", extra={"model": model.name, "moved": moved, "left": left})
