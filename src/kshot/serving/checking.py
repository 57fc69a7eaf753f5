"""How good a task is whose learner adapts whole networks: found out when it is answered already.

Leaving out each example would cost as many adaptations as there are examples. Instead they are left out in a few parts,
class by class; each part is an adaptation whose turn comes when there is nothing that anybody waits for.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kshot.serving.adapting import Adaptation, Order
from kshot.serving.held_out import HeldOut, findings
from kshot.serving.lanes import BusyError
from kshot.serving.predicting import Answer
from kshot.serving.problems import BusyProblemError
from kshot.serving.served import ServedModel
from kshot.serving.service import Service
from kshot.serving.states import State
from kshot.serving.store import tasks
from kshot.serving.store.rows import Principal

PARTS = 5

UNKNOWN: dict[str, Any] = {"leave_one_out": None, "suspects": []}
"""What is written of a version that cannot be checked."""

_log = logging.getLogger("kshot.serving")


async def check(
    service: Service, principal: Principal, model: ServedModel, state: State, x: Tensor, options: dict[str, Any]
) -> None:
    """Leaves a task's examples out, part by part, and writes what that says into its version.

    Args:
        state: of the task.
        x: its examples as they are stored, in the order of `state.numbers`.
        options: of the adaptation.
    """
    service.checking.add(state.task)
    try:
        try:
            found = await _held_out(service, principal, model, state, x, options)
            info = findings(found, state.numbers, state.labels)
        except (BusyError, BusyProblemError):
            return  # who looks at the task later has it checked
        except Exception:
            _log.exception("not checked", extra={"task": state.task})
            info = UNKNOWN
        await service.writing(lambda connection: tasks.annotate(connection, state.task, state.version, info))
    finally:
        service.checking.discard(state.task)


async def _held_out(
    service: Service, principal: Principal, model: ServedModel, state: State, x: Tensor, options: dict[str, Any]
) -> HeldOut:
    targets, way = state.targets, len(state.labels)
    parts = parts_of(targets, PARTS)
    rows, probabilities = [], []
    for part in parts:
        left = torch.ones(len(targets), dtype=torch.bool)
        left[part] = False
        order = Order(model, model.normalise(x[left]), targets[left], way, options=options, check=False)
        adaptation: Adaptation = await service.compute_when_idle(order, principal)
        without = State(
            "", 0, model.digest, adaptation.adapted, adaptation.classes, state.labels, [], targets[left],
            adaptation.embedding, {"temperature": state.info.get("temperature", 1.0)},
        )  # fmt: skip
        answer: Answer = await service.predict(principal, without, x[part])
        rows += part
        probabilities += answer.probabilities
    if not rows:
        return HeldOut(torch.zeros(0, dtype=torch.int64), torch.zeros(0, way), targets[:0])
    return HeldOut(torch.tensor(rows), torch.tensor(probabilities), targets[rows])


def parts_of(targets: Tensor, parts: int) -> list[list[int]]:
    """Examples apart, class by class; a class's only example is in none."""
    found: list[list[int]] = [[] for _ in range(parts)]
    turn = 0
    for label in targets.unique().tolist():
        own: Sequence[int] = (targets == label).nonzero().squeeze(-1).tolist()
        for place in own if len(own) > 1 else []:
            found[turn % parts].append(place)
            turn += 1
    return [part for part in found if part]
