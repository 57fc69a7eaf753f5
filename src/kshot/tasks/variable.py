"""`VariableTasks`: way, shot and query drawn anew for every task and class, padded to the largest and masked."""

from __future__ import annotations

import numpy as np

from kshot import randomness
from kshot.datasets.pool import Pool
from kshot.datasets.transform import Transform
from kshot.tasks.options import Range, whole_range
from kshot.tasks.pooled import Augment, Composition, Keys, PoolTasks
from kshot.tasks.unlabeled import Ints, Unlabelling

WAY, SHOT, QUERY = (randomness.stream(f"tasks/{name}") for name in ("way", "shot", "query"))


class VariableTasks(PoolTasks):
    """Tasks whose way is uniform in a range, and whose classes each have a shot and a query number uniform in theirs.

    Args:
        pool: the classes to sample from.
        transform: normalises their examples.
        name: of the split; another name, another stream of tasks.
        way: classes a task: a number, or (smallest, largest), both included.
        shot: labelled examples of a class, likewise; drawn for every class on its own.
        query: query examples of a class, likewise.
        unlabeled, distractors, labelled, labelled_seed: the same for every class; see
            `kshot.tasks.unlabeled.Unlabelling`.
        augment: another view of every example in every task: a key of `kshot.datasets.augment.PRESETS`, ranges, or an
            `Augmentation`; for training tasks of images.

    Episodes are padded to the largest task there can be, so all have one shape: support x
    `[T, max way * max shot, *shape]`. A task of `w` classes has the labels `0..w-1`; padding comes last.

    Raises:
        TooFewClassesError: fewer classes of different kin than the largest way and the distractors.
        TooFewExamplesError: a class with fewer examples than the largest shot + query, and its unlabelled ones.
        ConfigError: a range that is none, or unlabelled examples that make no sense.
    """

    def __init__(
        self,
        pool: Pool,
        transform: Transform,
        name: str = "train",
        *,
        way: Range = (5, 20),
        shot: Range = (1, 5),
        query: Range = 15,
        unlabeled: int = 0,
        distractors: int = 0,
        labelled: float = 1.0,
        labelled_seed: int = 0,
        augment: Augment = None,
    ) -> None:
        unlabelling = Unlabelling(unlabeled, distractors, labelled, labelled_seed)
        super().__init__(pool, transform, name, {"way": way, "shot": shot, "query": query}, unlabelling, augment)
        self.ways = whole_range("way", way, at_least=2)
        self.shots = whole_range("shot", shot)
        self.queries = whole_range("query", query)
        self.way, self.shot, self.query = self.ways[1], self.shots[1], self.queries[1]
        self.support_size, self.query_size = self.way * self.shot, self.way * self.query
        self.require_classes(self.way)
        self.require_examples(self.shot + self.query, f"largest shot={self.shot} + largest query={self.query}")

    def _compose(self, key: Keys) -> Composition:
        label = np.arange(self.way)
        present = label < _in_range(self.ways, key, WAY)[:, None]
        return Composition(
            classes=np.where(present, self._choose_classes(key, self.way), -1),
            shots=np.where(present, _in_range(self.shots, key[:, None], SHOT, label), 0),
            queries=np.where(present, _in_range(self.queries, key[:, None], QUERY, label), 0),
        )


def _in_range(limits: tuple[int, int], key: Keys, *counters: randomness.Counter) -> Ints:
    """Uniform whole numbers from limits[0] to limits[1], both included."""
    return limits[0] + randomness.integers(limits[1] - limits[0] + 1, key, *counters)
