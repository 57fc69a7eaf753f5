"""The unlabelled part of a task: how many examples, of which classes, and which examples have a label at all."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kshot import randomness
from kshot.datasets.pool import Pool
from kshot.errors import ConfigError
from kshot.tasks.options import whole_number

Ints = NDArray[np.int64]

LABELLED = randomness.stream("tasks/labelled")


@dataclass(frozen=True)
class Unlabelling:
    """The unlabelled part of the tasks of a split (Ren et al. 2018, section 4).

    Attributes:
        unlabeled: unlabelled examples of each class of a task, none of them in its support or query.
        distractors: classes that a task does not have, of different kin than its own; `unlabeled` examples of each are
            among the unlabelled ones.
        labelled: share of each class's examples that may be support or query, rounded down. The others are the
            unlabelled ones then; with 1 every example may be either, from task to task.
        labelled_seed: which ones those are: another seed, another choice. It is the same for all tasks.

    Raises:
        ConfigError: a number that makes no sense, or distractors without unlabelled examples.
    """

    unlabeled: int = 0
    distractors: int = 0
    labelled: float = 1.0
    labelled_seed: int = 0

    def __post_init__(self) -> None:
        whole_number("unlabeled", self.unlabeled, at_least=0)
        whole_number("distractors", self.distractors, at_least=0)
        whole_number("labelled_seed", self.labelled_seed, at_least=0)
        share = self.labelled
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise ConfigError(f"expected labelled to be a share in (0, 1], got {share!r}: 0.1 is a tenth of each class")
        if self.distractors and not self.unlabeled:
            raise ConfigError(
                f"expected unlabelled examples with distractors={self.distractors}, got unlabeled=0: say how many of "
                "each class with unlabeled=5, say, or leave distractors out"
            )

    @property
    def options(self) -> dict[str, Any]:
        """Those that are not the default."""
        default = asdict(Unlabelling())
        return {name: value for name, value in asdict(self).items() if value != default[name]}

    def labelled_counts(self, count: Ints) -> Ints:
        """How many examples of each class may have a label, of `count` `[classes]` that there are."""
        if self.labelled == 1:
            return count
        return np.asarray(np.floor(count * self.labelled + 1e-9), np.int64)  # 0.29 * 100 is 28.999999999999996

    def orders(self, pool: Pool) -> Ints:
        """The examples of each class in an order of its own, those with labels first: `[classes, largest count]`.

        A function of the seed and of the class (its rows and its quarter turn), not of the split or of the other
        classes. Beyond a class's count stands what must not be read.
        """
        count = pool.count.numpy()
        place = np.arange(int(count.max(initial=0)))
        key = randomness.bits(self.labelled_seed, LABELLED, pool.start.numpy(), pool.turns.numpy())
        word = randomness.bits(key[:, None], place) >> np.uint64(1)
        word = np.where(place < count[:, None], word, ~np.uint64(0))
        return np.argsort(word, axis=1, kind="stable")


UNLABELED_OPTIONS = tuple(asdict(Unlabelling()))
"""The names of the options of a split's unlabelled part."""
