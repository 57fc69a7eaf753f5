"""`FewShotTasks`: N-way K-shot classification, the same way, shot and query in every task."""

from __future__ import annotations

import numpy as np

from kshot.datasets.pool import Pool
from kshot.datasets.transform import Transform
from kshot.tasks.options import whole_number
from kshot.tasks.pooled import Augment, Composition, Keys, PoolTasks
from kshot.tasks.unlabeled import Unlabelling


class FewShotTasks(PoolTasks):
    """Tasks of `way` classes with `shot` support and `query` query examples each (Vinyals et al. 2016).

    Args:
        pool: the classes to sample from.
        transform: normalises their examples.
        name: of the split; another name, another stream of tasks.
        way: classes a task, at least 2.
        shot: labelled examples a class.
        query: query examples a class.
        unlabeled, distractors, labelled, labelled_seed: unlabelled examples; see `kshot.tasks.unlabeled.Unlabelling`.
        augment: another view of every example in every task: a key of `kshot.datasets.augment.PRESETS`, ranges, or an
            `Augmentation`; for training tasks of images.

    Episodes: support x `[T, way * shot, *shape]`, query x `[T, way * query, *shape]`, unlabelled x
    `[T, (way + distractors) * unlabeled, *shape]`, nothing masked.

    Raises:
        TooFewClassesError: fewer than `way + distractors` classes of different kin.
        TooFewExamplesError: a class with fewer than `shot + query + unlabeled` examples, or with fewer than
            `shot + query` labelled ones.
        ConfigError: a way, shot or query that is no such number, or unlabelled examples that make no sense.
    """

    def __init__(
        self,
        pool: Pool,
        transform: Transform,
        name: str = "train",
        *,
        way: int = 5,
        shot: int = 1,
        query: int = 15,
        unlabeled: int = 0,
        distractors: int = 0,
        labelled: float = 1.0,
        labelled_seed: int = 0,
        augment: Augment = None,
    ) -> None:
        unlabelling = Unlabelling(unlabeled, distractors, labelled, labelled_seed)
        super().__init__(pool, transform, name, {"way": way, "shot": shot, "query": query}, unlabelling, augment)
        self.way = whole_number("way", way, at_least=2)
        self.shot = whole_number("shot", shot)
        self.query = whole_number("query", query)
        self.support_size, self.query_size = self.way * self.shot, self.way * self.query
        self.require_classes(self.way)
        self.require_examples(self.shot + self.query, f"shot={self.shot} + query={self.query}")

    def _compose(self, key: Keys) -> Composition:
        shape = (len(key), self.way)
        return Composition(
            classes=self._choose_classes(key, self.way),
            shots=np.full(shape, self.shot, np.int64),
            queries=np.full(shape, self.query, np.int64),
        )
