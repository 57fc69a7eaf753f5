"""Adapted tasks in memory: what a prediction needs, as bytes for the database, and the cache over it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from kshot.artifacts.tree import flatten, unflatten
from kshot.errors import ArtifactError
from kshot.serving.payloads import pack, unpack


@dataclass(frozen=True, eq=False)
class State:
    """One version of a task, adapted.

    Attributes:
        task, version: which.
        digest: of the model that was adapted.
        adapted: what its `adapt` returned.
        classes: bool `[way]`, the classes that the task has.
        labels: their names, in the order of the logits.
        numbers: of the support examples.
        targets: the class of each, int64 `[n]`.
        support: their embeddings `[n, d]`, by which the nearest ones to a query explain its prediction.
        info: what was found out about it, JSON-able: temperature, threshold, reference of the drift.
    """

    task: str
    version: int
    digest: str
    adapted: Any
    classes: Tensor
    labels: list[str]
    numbers: list[int]
    targets: Tensor
    support: Tensor
    info: dict[str, Any]

    @cached_property
    def shape(self) -> Hashable:
        """States of one shape are predicted with together."""
        leaves, spec = pytree.tree_flatten(self.adapted)
        return (self.digest, str(spec), tuple((tuple(leaf.shape), leaf.dtype) for leaf in leaves))

    @cached_property
    def whole(self) -> bool:
        """Whether it has all the classes that its learner can tell apart."""
        return bool(self.classes.all())

    @cached_property
    def bytes(self) -> int:
        """What it takes in memory, about."""
        tensors = [*pytree.tree_leaves(self.adapted), self.classes, self.targets, self.support]
        return (
            sum(t.untyped_storage().nbytes() for t in tensors if isinstance(t, Tensor)) + 2048 + 64 * len(self.numbers)
        )


def encode(state: State) -> bytes:
    """The state as bytes."""
    shape, tensors = flatten(state.adapted)
    tensors = {**tensors, "classes": state.classes, "targets": state.targets, "support": state.support}
    header = {
        "task": state.task,
        "version": state.version,
        "digest": state.digest,
        "tree": shape,
        "labels": state.labels,
        "numbers": state.numbers,
        "info": state.info,
    }
    return pack(header, tensors)


def decode(content: bytes, device: torch.device | str = "cpu") -> State:
    """The state that `encode` wrote.

    Raises:
        ArtifactError: it is none.
    """
    header, tensors = unpack(content)
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    try:
        own = {name: tensors.pop(name) for name in ("classes", "targets", "support")}
        return State(
            task=header["task"],
            version=header["version"],
            digest=header["digest"],
            adapted=unflatten(header["tree"], tensors),
            labels=header["labels"],
            numbers=header["numbers"],
            info=header["info"],
            **own,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise ArtifactError(f"the stored state of a task is damaged ({type(error).__name__}: {error})") from error


class StateCache:
    """The least recently used states beyond a budget of bytes are dropped; the database still has them.

    Args:
        budget: bytes.
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.bytes, self.hits, self.misses, self.dropped = budget, 0, 0, 0, 0
        self._states: OrderedDict[str, State] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._states)

    def get(self, task: str, version: int) -> State | None:
        """The state of a task, if it is here and is of that version."""
        with self._lock:
            state = self._states.get(task)
            if state is None or state.version != version:
                self.misses += 1
                return None
            self._states.move_to_end(task)
            self.hits += 1
            return state

    def put(self, state: State) -> None:
        """Keeps a state in place of the task's earlier one; never an older one in place of a newer."""
        with self._lock:
            old = self._states.get(state.task)
            if old is not None and old.version > state.version:
                return
            if old is not None:
                self.bytes -= old.bytes
            self._states[state.task] = state
            self._states.move_to_end(state.task)
            self.bytes += state.bytes
            while self.bytes > self.budget and len(self._states) > 1:
                _, oldest = self._states.popitem(last=False)
                self.bytes -= oldest.bytes
                self.dropped += 1

    def drop(self, task: str) -> None:
        """Forgets a task."""
        with self._lock:
            state = self._states.pop(task, None)
            if state is not None:
                self.bytes -= state.bytes
