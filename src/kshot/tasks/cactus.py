"""`CactusTasks`: tasks of unlabelled examples, whose classes are clusters of an embedding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kshot import randomness
from kshot.datasets.clusters import partitions
from kshot.datasets.pool import Pool
from kshot.datasets.transform import Transform
from kshot.errors import TooFewClassesError, TooFewExamplesError
from kshot.tasks.embedding import Embedding, describe, embed
from kshot.tasks.gather import Gatherer
from kshot.tasks.options import whole_number
from kshot.tasks.pooled import KIN, Composition, Keys, PoolTasks
from kshot.tasks.split import TaskSplit
from kshot.tasks.umtra import unlabelled
from kshot.tasks.unlabeled import Ints

PARTITION = randomness.stream("tasks/cactus/partition")


GROUPING = ("embedding", "clusters", "partitions", "cluster_seed")
"""The options that decide which examples are together."""


class Clusters:
    """The examples of a pool in partitions, computed when they are first asked for, and then kept.

    Attributes:
        examples: int64 `[n]`, all examples of the pool: row * 4 + turn.
        labels: int64 `[partitions, n]`, the cluster of each.
    """

    def __init__(self, pool: Pool, transform: Transform, embedding: Embedding, *numbers: int) -> None:
        self.examples = unlabelled(pool)
        self._of = pool, transform, embedding
        self._numbers = numbers

    @cached_property
    def labels(self) -> Ints:
        pool, transform, embedding = self._of
        return partitions(embed(embedding, Gatherer(pool, transform), self.examples), *self._numbers)


@dataclass(frozen=True)
class Kept:
    """The clusters that are large enough, those of one partition after those of another.

    Attributes:
        members: int64, row * 4 + turn of examples: cluster c has `members[start[c] : start[c] + size[c]]`.
        start, size: int64 `[clusters]`.
        first, number: int64 `[partitions]`: a partition has the clusters `first, ..., first + number - 1`.
    """

    members: Ints
    start: Ints
    size: Ints
    first: Ints
    number: Ints

    @classmethod
    def of(cls, clusters: Clusters, way: int, needed: int, name: str) -> Kept:
        """Leaves out clusters of fewer examples than `needed`, and then partitions of fewer clusters than `way`.

        Raises:
            TooFewClassesError: nothing is left.
        """
        labels, members, sizes = clusters.labels, [], []
        most = 0
        for label in labels:
            size = np.bincount(label)
            enough = size >= needed
            most = max(most, int(enough.sum()))
            if int(enough.sum()) >= way:
                order = np.argsort(label, kind="stable")
                members.append(clusters.examples[order[enough[label[order]]]])
                sizes.append(size[enough])
        if not sizes:
            largest = max(int(np.bincount(label).max()) for label in labels)
            raise TooFewClassesError(
                f"expected at least way={way} clusters of {needed} examples or more (shot + query) in {name}, got "
                f"{most}; the largest cluster has {largest}. Ask for fewer clusters, so that each is larger, or for a "
                "smaller way, shot or query"
            )
        number = np.array([len(size) for size in sizes])
        size = np.concatenate(sizes)
        return cls(np.concatenate(members), np.cumsum(size) - size, size, np.cumsum(number) - number, number)


class CactusTasks(PoolTasks):
    """Tasks made without labels of clusters as classes (CACTUs: Hsu, Levine, Finn 2019, algorithm 1).

    An embedding of the examples is clustered by k-means, several times in random scalings of its dimensions. A task
    draws one of these partitions, `way` of its clusters, and `shot + query` examples of each. Clusters with fewer
    examples are left out, and so are partitions with fewer clusters than `way`.

    The pool's classes and their kin are never looked at. Tasks are as good as the embedding: one that was trained
    without labels on like data is far better than pixels.

    Args:
        pool: its examples are clustered; a row under several turns counts as several examples.
        transform: normalises them.
        name: of the split; another name, another stream of tasks.
        way: clusters a task, at least 2.
        shot: support examples of each.
        query: query examples of each.
        embedding: "pca" of the normalised inputs; a run's folder or a saved learner, for its features; a learner, a
            backbone or any other function of float32 `[n, *shape]` to `[n, d]`.
        clusters: k of k-means; 500 as in the paper's Omniglot experiments by default.
        partitions: how many.
        cluster_seed: of k-means and of the scalings.

    The clusters are computed when the first task is sampled, and kept: `replace(shot=...)` does not compute them again.
    Episodes are those of `FewShotTasks`; `class_ids` number the clusters of all partitions.

    Raises:
        TooFewExamplesError: fewer examples than clusters.
        TooFewClassesError: at the first task: no partition with `way` clusters that are large enough.
        ConfigError: a number that is none, or no embedding; at the first task: one that gives no `[n, d]`.
        ArtifactError: at the first task: no learner in the folder.
    """

    has_labels = False

    def __init__(
        self,
        pool: Pool,
        transform: Transform,
        name: str = "train",
        *,
        way: int = 5,
        shot: int = 1,
        query: int = 15,
        embedding: Embedding = "pca",
        clusters: int = 500,
        partitions: int = 1,
        cluster_seed: int = 0,
    ) -> None:
        grouping = {"clusters": clusters, "partitions": partitions, "cluster_seed": cluster_seed}
        options = {"way": way, "shot": shot, "query": query, "embedding": describe(embedding), **grouping}
        super().__init__(pool, transform, name, {"labels": "cactus", **options})
        self.way = whole_number("way", way, at_least=2)
        self.shot = whole_number("shot", shot)
        self.query = whole_number("query", query)
        self.support_size, self.query_size = self.way * self.shot, self.way * self.query
        whole_number("clusters", clusters, at_least=self.way)
        whole_number("partitions", partitions)
        whole_number("cluster_seed", cluster_seed, at_least=0)
        self.embedding = embedding
        self.clusters = Clusters(pool, transform, embedding, clusters, partitions, cluster_seed)
        if len(self.clusters.examples) < clusters:
            raise TooFewExamplesError(
                f"expected at least clusters={clusters} examples in {name}, got {len(self.clusters.examples)}: ask for "
                "fewer clusters, so that each has shot + query examples"
            )

    @property
    def classes(self) -> int:
        """The clusters of all partitions, among them those that are too small for tasks."""
        return int(self.options["clusters"]) * int(self.options["partitions"])

    @cached_property
    def kept(self) -> Kept:
        """The clusters that tasks are made of."""
        return Kept.of(self.clusters, self.way, self.shot + self.query, self.name)

    def _remade(self, pool: Pool, options: dict[str, Any]) -> TaskSplit:
        if options.get("labels", "cactus") == "cactus":  # the options only describe an embedding given in Python
            options = {"embedding": self.embedding, **options}
        split = super()._remade(pool, options)
        same = all(split.options.get(name) == self.options[name] for name in GROUPING)
        if isinstance(split, CactusTasks) and pool is self.pool and same and split.embedding == self.embedding:
            split.clusters = self.clusters
        return split

    def _compose(self, key: Keys) -> Composition:
        partition = randomness.integers(len(self.kept.number), key, PARTITION)
        chosen = randomness.distinct(self.kept.number[partition], self.way, key, KIN)
        chosen += self.kept.first[partition][:, None]
        return Composition(chosen, np.full_like(chosen, self.shot), np.full_like(chosen, self.query))

    def _sizes(self, classes: Ints) -> Ints:
        return np.asarray(self.kept.size[classes])

    def _identities(self, classes: Ints, example: Ints) -> Ints:
        return np.asarray(self.kept.members[self.kept.start[classes][..., None] + np.maximum(example, 0)])
