"""From examples to the adapted state of a version."""

from __future__ import annotations

import time
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from kshot.serving.adapting import Adaptation, Order
from kshot.serving.held_out import findings
from kshot.serving.payloads import pack_example
from kshot.serving.problems import BudgetError, ConflictProblemError, InputError, SupportProblemError
from kshot.serving.served import ServedModel
from kshot.serving.service import Service
from kshot.serving.states import State
from kshot.serving.store.rows import ExampleRow, Principal, TaskRow, now
from kshot.serving.vault import about_example


@dataclass(eq=False)
class Member:
    """An example of a task that is adapted: its number, its label (None: it has none), and its features or what they
    are made of."""

    number: int
    label: str | None
    x: Tensor
    featured: bool
    digest: str = ""
    created: float = field(default_factory=now)


async def adapted_state(
    service: Service,
    principal: Principal,
    model: ServedModel,
    task: TaskRow,
    version: int,
    members: Sequence[Member],
    pool: Tensor | None = None,
    deadline: float | None = None,
    *,
    idle: bool = False,
) -> tuple[State, Adaptation]:
    """The state of a version of a task, of its examples.

    Args:
        pool: examples, as they are stored, of which it is to be said which to label next, and which do nothing else.
        deadline: by which it has to be begun, on the clock of `time.perf_counter`.
        idle: whether nobody waits for it.
    """
    labelled = [member for member in members if member.label is not None]
    labels = sorted({str(member.label) for member in labelled})
    _check_support(service, model, labelled, labels)
    index: dict[str | None, int] = {label: i for i, label in enumerate(labels)}
    y = torch.tensor([index.get(member.label, -1) for member in members], dtype=torch.int64)
    options = dict(task.options)
    if model.steps is not None and options.get("steps", model.steps) > service.settings.limits.steps:
        options["steps"] = service.settings.limits.steps
    order = _order(model, options, members, y, pool)
    _check_pace(service, model, order, len(members))
    if deadline is None:
        deadline = time.perf_counter() + service.settings.limits.wait_seconds
    adaptation: Adaptation
    if idle:
        adaptation = await service.compute_when_idle(order, principal)
    else:
        adaptation = await service.compute(service.adaptations, order, principal, order.size, deadline)
    for stage, seconds in adaptation.seconds.items():
        service.metrics.stages.labels(f"adapt_{stage}" if stage != "adapt" else "adapt_heads").observe(seconds)
    if model.digest in service.paces and adaptation.together == 1:  # others' share of a batch says nothing of this one
        steps = order.options.get("steps", model.steps)
        service.paces[model.digest].observe(len(members), steps, sum(adaptation.seconds.values()))
    numbers, y = [member.number for member in labelled], y[y >= 0]
    info = _findings(model, adaptation, labels, numbers)
    if len(labelled) < len(members):
        info["unlabeled"] = len(members) - len(labelled)
    state = State(
        task.id,
        version,
        model.digest,
        pytree.tree_map(_own, adaptation.adapted),
        adaptation.classes,
        labels,
        numbers,
        y,
        _own(adaptation.embedding),
        info,
    )
    return state, adaptation


def _check_pace(service: Service, model: ServedModel, order: Order, examples: int) -> None:
    """Raises BudgetError for an adaptation that would keep the others waiting for too long."""
    pace, most = service.paces.get(model.digest), service.settings.limits.adapt_seconds
    expected = 0.0 if pace is None else pace.expect(examples, order.options.get("steps", model.steps))
    if pace is not None and expected > most:
        pace.forget()
        raise BudgetError(
            f"expected an adaptation of at most {most:g} s, this one would take about {expected:.0f} s here: give "
            "fewer examples, or fewer steps"
        )


def _own(leaf: Any) -> Any:
    """A tensor that is not a part of its batch's, which would stay in memory with it."""
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _order(
    model: ServedModel, options: dict[str, Any], members: Sequence[Member], y: Tensor, pool: Tensor | None
) -> Order:
    raw = [member.x for member in members if not member.featured]
    known = [member.x for member in members if member.featured]
    if any(member.featured and member.digest != model.digest for member in members):
        raise ConflictProblemError(
            "the features that were kept of the task's examples are another model's, and the examples themselves were "
            "not (retention: adaptation): make a new task"
        )
    if len({x.dtype for x in raw}) > 1:
        raise InputError(
            "expected pixels, or values as the network sees them (float32), as the task's other examples are, got both"
        )
    return Order(
        model,
        model.normalise(torch.stack(raw)) if raw else None,
        y,
        int(y.max()) + 1,
        torch.stack(known) if known else None,
        torch.tensor([member.featured for member in members]) if known else None,
        None if pool is None else model.normalise(pool),
        options,
        check=model.cheap,
    )


def _check_support(service: Service, model: ServedModel, members: Sequence[Member], labels: Sequence[str]) -> None:
    limits, way = service.settings.limits, model.learner.way
    if len(labels) < 2:
        raise SupportProblemError(
            f"expected examples of at least two classes, got {len(labels)} ({', '.join(map(repr, labels[:1]))}): add "
            "examples of what the class is to be told from"
        )
    most = limits.way if way is None else min(way, limits.way)
    if len(labels) > most:
        whose = "the model can tell apart" if way == most else "a task may have here"
        raise SupportProblemError(f"expected at most {most} classes, which is what {whose}, got {len(labels)}")
    longest = model.learner.max_support
    if longest is not None and len(members) > longest:
        raise SupportProblemError(
            f"expected at most {longest} examples, the longest support that the model was trained with, got "
            f"{len(members)}"
        )
    if len(members) > limits.examples:
        raise SupportProblemError(f"expected at most {limits.examples} examples of a task, got {len(members)}")


def _findings(
    model: ServedModel, adaptation: Adaptation, labels: Sequence[str], numbers: Sequence[int]
) -> dict[str, Any]:
    """What a version's info says."""
    known = model.calibrated(len(numbers) / len(labels))
    info: dict[str, Any] = {
        "labels": list(labels),
        "temperature": known.get("temperature", 1.0),
        "threshold": known.get("threshold"),
        "reference": adaptation.reference,
    }
    if adaptation.held_out is not None:
        info |= findings(adaptation.held_out, numbers, labels)
    return info


def kept_examples(
    service: Service,
    model: ServedModel,
    task: str,
    members: Sequence[Member],
    adaptation: Adaptation,
    new: Container[int] | None = None,
) -> list[ExampleRow]:
    """The rows of new examples, as the retention says.

    Args:
        new: their numbers, where not all of the members are.
    """
    kept = service.settings.retention
    if kept == "none":
        return []
    features = kept == "adaptation" and model.cheap and isinstance(adaptation.features, Tensor)
    rows = []
    for i, member in enumerate(members):
        if new is not None and member.number not in new:
            continue
        x = adaptation.features[i] if features else member.x  # type: ignore[index]
        form, digest = ("features", model.digest) if features else ("raw", "")
        sealed = service.vault.seal(pack_example(x, member.label), about_example(task, member.number))
        rows.append(ExampleRow(member.number, form, digest, sealed, member.created))
    return rows
