"""What a workload and a contender are."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kshot.errors import UnsupportedError

Answers = Mapping[str, Tensor]


def _nothing() -> None:
    return None


@dataclass
class Contender:
    """One way to do the work.

    Attributes:
        name: `"kshot compile"`, `"higher"`.
        step: does the work once.
        answers: what comes out of the first step, from where all begin: compared with the others' before anything is
            timed. None where there is nothing to compare.
        wait: returns when all that was begun is done.
        tolerance: relative difference to the reference that is no mistake.
        tolerances: the same of single answers, where it is another.
        peak: the bytes that one step takes at most, where that can be told.
        ours: whether it is kshot.
        amount: how much its step does, where that is not what the workload's does: more or less of the same.
        precision: what its products and convolutions are in, `"float32"` or `"bf16"`: which ceiling they are under.
    """

    name: str
    step: Callable[[], object]
    answers: Callable[[], Answers] | None = None
    wait: Callable[[], object] = _nothing
    tolerance: float = 1e-3
    tolerances: Mapping[str, float] = field(default_factory=dict)
    peak: Callable[[], int] | None = None
    ours: bool = False
    amount: float | None = None
    precision: str = "float32"


@dataclass(frozen=True)
class Missing:
    """A contender that is not here, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Goal:
    """What a workload is to show.

    Attributes:
        ours: the contenders of which the fastest counts.
        theirs: those that it is measured against, the fastest of them that are here.
        ratio: how many times faster, at least; for memory the largest share.
        what: `"time"` or `"memory"`.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    ratio: float
    what: str = "time"


@dataclass(frozen=True)
class Count:
    """What a step consists of, as the reference does it: who gets to the same answers with less work is credited with
    all of it.

    Attributes:
        flops: floating-point operations of matrix products and convolutions.
        bytes: read and written by the operators of the reference, each on its own.
    """

    flops: int
    bytes: int

    def times(self, number: int) -> Count:
        """So many of them."""
        return Count(self.flops * number, self.bytes * number)


class Workload(abc.ABC):
    """Work that several contenders do.

    Attributes:
        name: as it is asked for.
        title: what it is, in a line.
        unit: what is counted: `"tasks"`.
        amount: how many of them a step does.
        reference: the contender whose answers the others' are compared with.
        goals: what is to be shown on a CPU.
        gpu_goals: what is to be shown on a GPU: a ratio that was asked of two cores says nothing there.
        tolerance: relative difference of any contender that is no mistake, where rounding alone makes a large one.
        on_gpu: whether it is one for a GPU as well.
        device: where it is done.
    """

    name: str
    title: str
    unit: str = "tasks"
    amount: float = 1
    reference: str = "plain loop"
    goals: tuple[Goal, ...] = ()
    gpu_goals: tuple[Goal, ...] = ()
    tolerance: float = 0.0
    on_gpu: bool = False
    device: torch.device = torch.device("cpu")

    @abc.abstractmethod
    def contenders(self) -> Iterator[Contender | Missing]:
        """Sets up each contender; all begin with the same numbers."""

    def asked(self) -> tuple[Goal, ...]:
        """The goals on its device."""
        return self.gpu_goals if self.device.type == "cuda" else self.goals

    def count(self) -> Count | None:
        """What a step consists of, where it can be counted."""
        return None

    def details(self) -> Mapping[str, Any]:
        """What else belongs in the record: shapes, data."""
        return {}


@dataclass
class Comparison:
    """How far a contender's answers are from the reference's.

    Attributes:
        error: the largest relative difference of any of them.
        parts: that of each.
    """

    error: float
    parts: dict[str, float] = field(default_factory=dict)


def compare(
    name: str,
    found: Answers,
    reference: str,
    expected: Answers,
    tolerance: float,
    tolerances: Mapping[str, float] | None = None,
) -> Comparison:
    """Compares answers.

    Args:
        tolerance: relative difference of an answer that is no mistake.
        tolerances: the same of single answers, where it is another.

    Raises:
        UnsupportedError: they are not the same work: an answer is missing, or differs by more than the tolerance.
    """
    if found.keys() != expected.keys():
        raise UnsupportedError(
            f"{name} answers {sorted(found)}, {reference} answers {sorted(expected)}: they do not do the same work"
        )
    parts = {}
    for key, value in expected.items():
        ours, theirs = found[key].double().cpu().flatten(), value.double().cpu().flatten()
        if ours.shape != theirs.shape:
            raise UnsupportedError(
                f"the {key} of {name} are {ours.numel()} numbers, those of {reference} {theirs.numel()}: they do not "
                "do the same work"
            )
        parts[key] = float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))
        limit = (tolerances or {}).get(key, tolerance)
        if not parts[key] <= limit:
            raise UnsupportedError(
                f"the {key} of {name} differ from those of {reference} by {parts[key]:.1e} (relative; "
                f"{limit:.0e} is taken for rounding): they do not do the same work, so nothing was timed"
            )
    return Comparison(max(parts.values(), default=0.0), parts)


def flat(tensors: Any) -> Tensor:
    """Tensors one after another, as one vector."""
    return torch.cat([t.detach().flatten() for t in tensors])
