"""Families of algorithmic tasks on sequences of bits: those of the Neural Turing Machine (Graves, Wayne, Danihelka
2014, section 4).

A family is a frozen dataclass of ranges; what is drawn for a task is a hash of the task's key. The input's vectors come
one a step, bits first, then the channels of delimiters and scalars; the answer is given while the input is blank.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kshot import randomness
from kshot.tasks.options import real_range, whole_number, whole_range

Keys = NDArray[np.uint64]
Ints = NDArray[np.int64]
Reals = NDArray[np.float32]
Span = tuple[int, int]


class Drawn(NamedTuple):
    """Tasks of a family, padded at the end with zeros.

    Attributes:
        x: inputs `[T, steps, channels]`.
        steps: how many of them are real, `[T]`.
        y: the bits to answer with, `[T, answers, bits]`.
        answers: how many of those are real, `[T]`.
    """

    x: Reals
    steps: Ints
    y: Reals
    answers: Ints


@dataclass(frozen=True)
class Sequences(ABC):
    """A distribution of sequences and of what is asked about them.

    Attributes:
        width: bits of a vector.
    """

    width: int = 8

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(field.default, tuple):
                whole_number(field.name, value)
            elif isinstance(field.default[0], float):
                object.__setattr__(self, field.name, real_range(field.name, value))
            else:
                object.__setattr__(self, field.name, whole_range(field.name, value))

    @property
    @abstractmethod
    def steps(self) -> int:
        """The longest input."""

    @property
    @abstractmethod
    def answers(self) -> int:
        """The longest answer."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Size of an input vector."""

    @property
    def bits(self) -> int:
        """Size of an answer's vector."""
        return self.width

    @abstractmethod
    def draw(self, key: Keys) -> Drawn:
        """The tasks with keys `[T]`."""

    def _whole(self, name: str, key: Keys) -> Ints:
        """A whole number of each task, uniform in its range, both ends included: `[T]`."""
        low, high = getattr(self, name)
        return np.asarray(low + randomness.integers(high - low + 1, key, randomness.stream(name)))

    def _vectors(self, key: Keys, *shape: int) -> Reals:
        """Fair random bits `[T, *shape, width]`."""
        grid = np.ogrid[tuple(slice(n) for n in (*shape, self.width))]
        lead = key.reshape(-1, *[1] * (len(shape) + 1))
        return (randomness.bits(lead, randomness.stream("bits"), *grid) >> np.uint64(63)).astype(np.float32)


@dataclass(frozen=True)
class Copy(Sequences):
    """A sequence, a delimiter, and the sequence again (section 4.1). Channels: the bits, the delimiter.

    Attributes:
        length: vectors of the sequence.
    """

    length: Span = (1, 20)

    @property
    def steps(self) -> int:
        return self.length[1] + 1

    @property
    def answers(self) -> int:
        return self.length[1]

    @property
    def channels(self) -> int:
        return self.width + 1

    def draw(self, key: Keys) -> Drawn:
        length = self._whole("length", key)
        y = self._vectors(key, self.answers) * _first(length, self.answers)[..., None]
        x = np.zeros((len(key), self.steps, self.channels), np.float32)
        x[:, :-1, : self.width] = y
        x[np.arange(len(key)), length, self.width] = 1
        return Drawn(x, length + 1, y, length)


REPEATS_MEAN, REPEATS_DEVIATION = 5.5, 8.25**0.5
"""Of the whole numbers from 1 to 10, uniformly drawn: what a number of repeats is normalised by, whatever its range."""


@dataclass(frozen=True)
class RepeatCopy(Sequences):
    """A sequence and how often to repeat it; the repeats, and an end marker (section 4.2).

    Channels: the bits, the delimiter, and beside it the number of repeats, normalised. Answers have one bit more, the
    end marker.

    Attributes:
        length: vectors of the sequence.
        repeats: how often it is to be given.
    """

    length: Span = (1, 10)
    repeats: Span = (1, 10)

    @property
    def steps(self) -> int:
        return self.length[1] + 1

    @property
    def answers(self) -> int:
        return self.length[1] * self.repeats[1] + 1

    @property
    def channels(self) -> int:
        return self.width + 2

    @property
    def bits(self) -> int:
        return self.width + 1

    def draw(self, key: Keys) -> Drawn:
        length, repeats = self._whole("length", key), self._whole("repeats", key)
        tasks, end = np.arange(len(key)), length * repeats
        vectors = self._vectors(key, self.length[1]) * _first(length, self.length[1])[..., None]
        x = np.zeros((len(key), self.steps, self.channels), np.float32)
        x[:, :-1, : self.width] = vectors
        x[tasks, length, self.width] = 1
        x[tasks, length, self.width + 1] = (repeats - REPEATS_MEAN) / REPEATS_DEVIATION
        y = np.zeros((len(key), self.answers, self.bits), np.float32)
        step = np.arange(self.answers)
        y[..., : self.width] = vectors[tasks[:, None], step % length[:, None]] * _first(end, self.answers)[..., None]
        y[tasks, end, self.width] = 1
        return Drawn(x, length + 1, y, end + 1)


@dataclass(frozen=True)
class AssociativeRecall(Sequences):
    """Items, then one of them again: the answer is the one that came after it (section 4.3).

    Channels: the bits, the delimiter before an item, the delimiter before and after the item that is asked about.
    Items are drawn on their own: with few bits two of them may be alike.

    Attributes:
        items: how many, at least 2.
        length: vectors of an item.
    """

    width: int = 6
    items: Span = (2, 6)
    length: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("the smallest number of items", self.items[0], at_least=2)

    @property
    def steps(self) -> int:
        return self.items[1] * (self.length + 1) + self.length + 2

    @property
    def answers(self) -> int:
        return self.length

    @property
    def channels(self) -> int:
        return self.width + 2

    def draw(self, key: Keys) -> Drawn:
        count, most = self._whole("items", key), self.items[1]
        tasks, w = np.arange(len(key)), self.width
        asked = randomness.integers(count - 1, key, randomness.stream("asked"))
        vectors = self._vectors(key, most, self.length)
        items = np.zeros((len(key), most, self.length + 1, self.channels), np.float32)
        items[:, :, 1:, :w] = vectors
        items[:, :, 0, w] = 1
        items *= _first(count, most)[..., None, None]
        x = np.zeros((len(key), self.steps, self.channels), np.float32)
        x[:, : most * (self.length + 1)] = items.reshape(len(key), most * (self.length + 1), self.channels)
        question = np.zeros((len(key), self.length + 2, self.channels), np.float32)
        question[:, 1:-1, :w] = vectors[tasks, asked]
        question[:, [0, -1], w + 1] = 1
        begin = count * (self.length + 1)
        x[tasks[:, None], begin[:, None] + np.arange(self.length + 2)] = question
        return Drawn(x, begin + self.length + 2, vectors[tasks, asked + 1], np.full(len(key), self.length))


@dataclass(frozen=True)
class PrioritySort(Sequences):
    """Vectors with a priority each; the answer is those of the highest, from the highest on (section 4.5).

    Channels: the bits, the delimiter that ends the input, the priority.

    Attributes:
        length: vectors of the input.
        top: how many of them to give back; a shorter sequence is given back whole.
        priority: lowest and highest, uniform between.
    """

    length: Span = (20, 20)
    top: int = 16
    priority: tuple[float, float] = (-1.0, 1.0)

    @property
    def steps(self) -> int:
        return self.length[1] + 1

    @property
    def answers(self) -> int:
        return min(self.top, self.length[1])

    @property
    def channels(self) -> int:
        return self.width + 2

    def draw(self, key: Keys) -> Drawn:
        length, most = self._whole("length", key), self.length[1]
        tasks, real = np.arange(len(key)), _first(length, most)
        vectors = self._vectors(key, most) * real[..., None]
        low, high = self.priority
        # In the precision that the learner sees them in: what is sorted is what was shown.
        priority = (
            low + (high - low) * randomness.uniform(key[:, None], randomness.stream("priority"), np.arange(most))
        ).astype(np.float32)
        x = np.zeros((len(key), self.steps, self.channels), np.float32)
        x[:, :-1, : self.width] = vectors
        x[:, :-1, self.width + 1] = priority * real
        x[tasks, length, self.width] = 1
        order = np.argsort(np.where(real, -priority, np.inf), axis=1, kind="stable")[:, : self.answers]
        # What is sorted behind the real vectors is blank.
        return Drawn(x, length + 1, vectors[tasks[:, None], order], np.minimum(length, self.top))


SEQUENCES: dict[str, type[Sequences]] = {
    "copy": Copy,
    "repeat_copy": RepeatCopy,
    "associative_recall": AssociativeRecall,
    "priority_sort": PrioritySort,
}
"""The families that `kshot.tasks.load` knows by name."""


def sequence_options(family: type[Sequences]) -> dict[str, Any]:
    """The names and defaults of a family's options."""
    return {field.name: field.default for field in fields(family)}


def _first(count: Ints, size: int) -> NDArray[np.bool_]:
    """True for the first `count` `[T]` of `size` places: `[T, size]`."""
    return np.asarray(np.arange(size) < count[:, None])
