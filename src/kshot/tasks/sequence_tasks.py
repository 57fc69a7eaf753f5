"""`SequenceTasks`: tasks that are an input sequence and the sequence to answer it with."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kshot.episodes import Episodes, Examples
from kshot.errors import ConfigError, suggest
from kshot.tasks.sequences import SEQUENCES, Keys, Sequences, sequence_options
from kshot.tasks.split import TaskSplit
from kshot.tasks.transfer import sent


class SequenceTasks(TaskSplit):
    """Tasks in which the support is a sequence, an example a step of time, and the queries are the steps of the answer.

    Args:
        family: what sequences are drawn from.
        name: of the split. Splits draw their sequences from streams of their own.

    Episodes are padded at their ends to the longest that there can be, and masked: support x `[T, n, channels]`, whose
    y is `[T, n, 0]` (there is nothing to say about a step of the input); query x `[T, q, channels]` blank, y
    `[T, q, bits]` zeros and ones; `classes`, `class_ids` are `[T, 0]`. `shot` and `query` are n and q.

    Raises:
        ConfigError: a range that the family cannot have.
    """

    kind = "sequence"
    way = 0
    pool = None

    def __init__(self, family: Sequences, name: str = "train") -> None:
        super().__init__(name, asdict(family))
        self.family = family
        self.shot = self.support_size = family.steps
        self.query = self.query_size = family.answers

    def replace(self, **options: Any) -> TaskSplit:
        check_sequence_options(type(self.family), options)
        return SequenceTasks(replace(self.family, **options), self.name)._bound_to(self._source)

    def _steps_at_once(self, meta_batch: int) -> int:
        # Some 128,000 numbers are drawn in the cache.
        return min(64, max(1, 2**17 // (meta_batch * self.support_size * self.family.channels)))

    def _draw(self, key: Keys, device: torch.device | str | None) -> Episodes:
        drawn = self.family.draw(key)
        blank = np.zeros((*drawn.y.shape[:2], self.family.channels), np.float32)
        nothing = np.zeros((*drawn.x.shape[:2], 0), np.float32)
        return Episodes(
            support=_examples(drawn.x, nothing, drawn.steps, device),
            query=_examples(blank, drawn.y, drawn.answers, device),
            class_ids=torch.zeros(len(key), 0, dtype=torch.int64, device=device),
        )


def make_sequences(name: str, options: dict[str, Any]) -> Sequences:
    """The family of that name (a key of `SEQUENCES`) with these ranges.

    Raises:
        ConfigError: an unknown option, or a value that is no range.
    """
    check_sequence_options(SEQUENCES[name], options)
    return SEQUENCES[name](**options)


def check_sequence_options(family: type[Sequences], options: dict[str, Any]) -> None:
    """Raises ConfigError for an option that tasks of the family do not have, with the nearest that they do."""
    known = list(sequence_options(family))
    for name in options:
        if name not in known:
            raise ConfigError(f"unknown option {name!r} for tasks of {family.__name__}. {suggest(name, known)}")


def _examples(
    x: NDArray[np.float32], y: NDArray[np.float32], real: NDArray[np.int64], device: torch.device | str | None
) -> Examples:
    inputs, targets = (sent(torch.from_numpy(a), device) for a in (x, y))
    mask = sent(torch.from_numpy(np.arange(x.shape[1]) < real[:, None]), device)
    return Examples(inputs, targets, mask, mask.new_zeros(len(x), 0), padded=bool((real < x.shape[1]).any()))
