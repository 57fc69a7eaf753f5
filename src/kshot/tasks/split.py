"""`TaskSplit`: one split of a task source, from which episodes are sampled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kshot import randomness
from kshot.datasets.pool import Pool
from kshot.episodes import Episodes
from kshot.errors import ConfigError, UnsupportedError

if TYPE_CHECKING:
    from typing_extensions import Self

    from kshot.tasks.source import TaskSource

Kind = Literal["classification", "regression", "sequence"]
Classes = Tensor | Sequence[int] | Sequence[bool]


class TaskSplit(ABC):
    """The tasks of one split: a distribution that can be sampled anywhere.

    Task `t` of step `s` is a function of (seed, split name, s, t) alone: it is the same whichever tasks are sampled
    beside it, in which order, on how many processes, and after a resume. A split is never changed; `replace` and
    `subset` make another one.

    Attributes:
        name: "train", "val" or "test"; another name is another stream of tasks.
        kind: what is asked for: classes, values, or sequences of bits.
        way: the largest number of classes of a task (0 where it has none); its episodes have this shape.
        shot, query: the largest number of support and query examples of a class (of a task, where it has none).
        support_size, query_size: example slots of an episode, padding included.
        pool: the examples that tasks are made of; None where they are generated.
        options: what the split was asked for, JSON-able; `replace` takes the same names.
        has_labels: whether tasks are made by the pool's classes; false where they are made without looking at them.
    """

    kind: Kind
    has_labels: bool = True
    way: int
    shot: int
    query: int
    support_size: int
    query_size: int
    pool: Pool | None

    @property
    def classes(self) -> int:
        """How many classes tasks are made of: every id in `Episodes.class_ids` is below it; 0 where there are none."""
        return 0

    @property
    def unlabeled_size(self) -> int:
        """Slots of unlabelled examples in an episode, padding included."""
        return 0

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.name = name
        self.options = options
        self._source: TaskSource | None = None

    @property
    def source(self) -> TaskSource:
        """The task source that this is a split of: where baselines find the training classes.

        Raises:
            ConfigError: the split was made on its own.
        """
        if self._source is None:
            raise ConfigError(
                f"the split {self.name!r} belongs to no task source: make one with kshot.tasks.load(...) or "
                "kshot.tasks.TaskSource(...) and use its .train, .val and .test"
            )
        return self._source

    @abstractmethod
    def _draw(self, key: NDArray[np.uint64], device: torch.device | str | None) -> Episodes:
        """Episodes of the tasks with these keys, uint64 `[T]`: each is a function of its own key."""

    @abstractmethod
    def replace(self, **options: Any) -> TaskSplit:
        """The same split with other options, `split.replace(shot=5)` say. Its task t has the same classes or the same
        function as this one's, as long as the way is the same.

        Raises:
            ConfigError: an unknown option.
            TooFewClassesError, TooFewExamplesError: the data does not have what the options ask for.
        """

    def subset(self, classes: Classes) -> TaskSplit:
        """The split on some of its classes.

        Args:
            classes: indices into `pool`, or a boolean mask. `class_ids` count within the subset.

        Raises:
            UnsupportedError: the split has no classes.
            TooFewClassesError: fewer classes than way.
        """
        raise UnsupportedError(f"the tasks of {self} have no classes to choose from: subset is for classification")

    def sample(
        self, tasks: int, *, seed: int, step: int = 0, first: int = 0, device: torch.device | str | None = None
    ) -> Episodes:
        """Samples the tasks `first`, ..., `first + tasks - 1` of a step.

        Args:
            tasks: how many.
            seed: with `step` and the task's number, all that a task depends on.
            step: the outer step.
            first: number of the first task. Processes that share a step sample different parts of it.
            device: where the tensors are to be; the CPU by default.
        """
        if tasks < 0 or first < 0 or step < 0:
            raise ConfigError(f"expected tasks, first and step of at least 0, got {tasks}, {first} and {step}")
        return self._draw(self._keys(seed, np.asarray(step), first + np.arange(tasks)), device)

    def batches(
        self,
        meta_batch: int,
        *,
        steps: int,
        seed: int = 0,
        start: int = 0,
        first: int = 0,
        device: torch.device | str | None = None,
    ) -> Iterator[Episodes]:
        """Yields `steps` meta-batches, those of the steps `start`, ..., `start + steps - 1`.

        Each equals `sample(meta_batch, seed=seed, step=..., first=first)`; several steps may be drawn in one go.
        """
        if meta_batch < 1 or steps < 0:
            raise ConfigError(
                f"expected meta_batch of at least 1 and steps of at least 0, got {meta_batch} and {steps}"
            )
        block = self._steps_at_once(meta_batch)
        for begin in range(start, start + steps, block):
            count = min(block, start + steps - begin)
            number = begin + np.arange(count)
            key = self._keys(seed, number[:, None], first + np.arange(meta_batch)).reshape(-1)
            episodes = self._draw(key, device)
            for i in range(count):
                yield episodes[i * meta_batch : (i + 1) * meta_batch] if count > 1 else episodes

    def _keys(self, seed: int, step: NDArray[Any], task: NDArray[Any]) -> NDArray[np.uint64]:
        return randomness.bits(seed, randomness.stream(self.name), step, task)

    def _steps_at_once(self, meta_batch: int) -> int:
        """How many steps `batches` draws in one go: more than one where the calls cost more than the numbers."""
        return 1

    def _bound_to(self, source: TaskSource | None) -> Self:
        """A copy that knows its source."""
        bound = copy(self)
        bound._source = source
        return bound

    def __repr__(self) -> str:
        asked = ", ".join(f"{name}={value}" for name, value in self.options.items())
        of = f"{self._source.name}." if self._source is not None else ""
        return f"<{type(self).__name__} {of}{self.name}: {asked}>"
