"""`MetaDatasetTasks`: Meta-Dataset's rule for variable way and imbalanced shots."""

from __future__ import annotations

import math

import numpy as np

from kshot import randomness
from kshot.datasets.pool import Pool
from kshot.datasets.transform import Transform
from kshot.errors import ConfigError
from kshot.tasks.options import Range, whole_number, whole_range
from kshot.tasks.pooled import Augment, Composition, Keys, PoolTasks

WAY, SIZE, WEIGHT = (randomness.stream(f"tasks/meta_dataset/{name}") for name in ("way", "size", "weight"))


class MetaDatasetTasks(PoolTasks):
    """Episodes by the sampling algorithm of Meta-Dataset (Triantafillou et al. 2020, section 3.2 and appendix).

    With `n_c` images in class `c`, a task has

    - `w` classes, uniform in 5..min(50, classes);
    - the same number of queries in each class, `q = min(10, floor(min_c n_c / 2))`;
    - a support of `S = min(500, sum_c ceil(b * min(100, n_c - q)))` examples at most, `b` uniform in (0, 1];
    - of them `k_c = min(floor(R_c * (S - w)) + 1, n_c - q)` of class `c`, where `R_c` is proportional to
      `exp(a_c) * n_c` and `a_c` uniform in [log 0.5, log 2).

    Classes are chosen uniformly; the hierarchies that Meta-Dataset uses for ImageNet and Omniglot are not.

    Args:
        pool: the classes to sample from.
        transform: normalises their examples.
        name: of the split; another name, another stream of tasks.
        way: classes a task, (smallest, largest) or a number; the largest is cut to what the pool has.
        query: the most queries of a class.
        max_support: the largest support.
        support_per_class: the most that one class adds to the size of the support (not a limit on its shots).
        augment: another view of every example in every task: a key of `kshot.datasets.augment.PRESETS`, ranges, or an
            `Augmentation`; for training tasks of images.

    Episodes are padded to the largest support and query set that the pool allows, so all have one shape.

    Raises:
        TooFewClassesError: fewer classes of different kin than the smallest way.
        TooFewExamplesError: a class with fewer than 2 examples.
        ConfigError: `max_support` below the largest way, or a number that is none.
    """

    def __init__(
        self,
        pool: Pool,
        transform: Transform,
        name: str = "train",
        *,
        way: Range = (5, 50),
        query: int = 10,
        max_support: int = 500,
        support_per_class: int = 100,
        augment: Augment = None,
    ) -> None:
        options = {"way": way, "query": query, "max_support": max_support, "support_per_class": support_per_class}
        super().__init__(pool, transform, name, {"sampling": "meta_dataset", **options}, augment=augment)
        low, high = whole_range("way", way, at_least=2)
        self.require_classes(low)
        self.require_examples(2, "one to learn from and one to ask for")
        self.ways = (low, min(high, self.kins))
        self.way = self.ways[1]
        self.query = min(whole_number("query", query), int(self._count.max()) // 2)
        self.max_support = whole_number("max_support", max_support)
        self.support_per_class = whole_number("support_per_class", support_per_class)
        if self.max_support < self.way:
            raise ConfigError(
                f"expected max_support of at least the largest way, {self.way}, so that every class has an example; "
                f"got {self.max_support}"
            )
        self.query_size = self.way * self.query
        # S is at most what the largest classes of different kin can add; a class keeps at least one query back.
        largest = np.sort(np.maximum.reduceat(self._count[self._members], self._kin_start))[::-1][: self.way]
        self.support_size = min(self.max_support, int(np.minimum(self.support_per_class, largest - 1).sum()))
        self.shot = min(self.support_size - low + 1, int(largest[0]) - 1)

    def _compose(self, key: Keys) -> Composition:
        label = np.arange(self.way)
        way = self.ways[0] + randomness.integers(self.ways[1] - self.ways[0] + 1, key, WAY)
        present = label < way[:, None]
        classes = self._choose_classes(key, self.way)
        images = np.where(present, self._count[classes], 0)
        smallest = np.where(present, images, np.iinfo(np.int64).max).min(axis=1)
        query = np.minimum(self.query, smallest // 2)[:, None]
        remaining = np.where(present, images - query, 0)

        part = 1.0 - randomness.uniform(key, SIZE)[:, None]  # in (0, 1]
        size = np.ceil(part * np.minimum(self.support_per_class, remaining)).sum(axis=1)
        size = np.minimum(self.max_support, size)[:, None]

        half, twice = math.log(0.5), math.log(2.0)
        weight = half + (twice - half) * randomness.uniform(key[:, None], WEIGHT, label)
        proportion = images * np.exp(weight)
        proportion /= proportion.sum(axis=1, keepdims=True)
        shots = np.minimum(np.floor(proportion * (size - way[:, None])).astype(np.int64) + 1, remaining)
        return Composition(np.where(present, classes, -1), np.where(present, shots, 0), np.where(present, query, 0))
