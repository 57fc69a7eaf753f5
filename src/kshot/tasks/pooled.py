"""`PoolTasks`: what all samplers over a pool share. A sampler says what an episode is composed of; this makes it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kshot import randomness
from kshot.datasets.pool import Pool
from kshot.datasets.transform import Transform
from kshot.episodes import Episodes, Examples
from kshot.errors import TooFewClassesError, TooFewExamplesError
from kshot.tasks.gather import Gatherer
from kshot.tasks.split import Classes, TaskSplit

Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]

# What each draw of a task is for: another purpose, another stream.
KIN, MEMBER, EXAMPLES, TURN, ORDER = (
    randomness.stream(f"tasks/{name}") for name in ("kin", "member", "examples", "turn", "order")
)


@dataclass(frozen=True)
class Composition:
    """What `T` episodes are made of.

    Attributes:
        classes: int64 `[T, way]`, class indices of the pool in the order of their labels, -1 where there is none.
        shots, queries: int64 `[T, way]`, examples of each class, 0 where there is none.
    """

    classes: Ints
    shots: Ints
    queries: Ints


class PoolTasks(TaskSplit):
    """Tasks made of a pool's classes.

    An episode's classes are of different kin and in random order, so a label says nothing about a class. Its examples
    are distinct, its support is shuffled, its queries stand in the order of their labels; padding comes last.
    """

    kind = "classification"
    pool: Pool

    def __init__(self, pool: Pool, transform: Transform, name: str, options: dict[str, Any]) -> None:
        super().__init__(name, options)
        self.pool = pool
        self.transform = transform
        self._gather = Gatherer(pool, transform)
        self._start, self._count, self._turns = (t.numpy() for t in (pool.start, pool.count, pool.turns))
        # Classes sorted by kin: kin g has the members _members[_kin_start[g] : _kin_start[g] + _kin_size[g]].
        self._members = np.argsort(pool.kin.numpy(), kind="stable")
        _, self._kin_start, self._kin_size = np.unique(
            pool.kin.numpy()[self._members], return_index=True, return_counts=True
        )

    @property
    def kins(self) -> int:
        """How many classes of different kin there are: the largest possible way."""
        return len(self._kin_size)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return self._gather.shape

    @abstractmethod
    def _compose(self, key: Keys) -> Composition:
        """What the episodes with these keys `[T]` are made of."""

    def replace(self, **options: Any) -> TaskSplit:
        return self._remade(self.pool, options)

    def subset(self, classes: Classes) -> TaskSplit:
        return self._remade(self.pool.select(classes), {})

    def _remade(self, pool: Pool, options: dict[str, Any]) -> TaskSplit:
        from kshot.tasks.loading import make_split  # which class samples is up to the options

        own = self.options
        if options.get("labels", own.get("labels", "given")) != own.get("labels", "given"):
            # What else there is belongs to the other way of making tasks.
            own = {name: own[name] for name in ("way", "shot", "query") if name in own}
        return make_split(pool, self.transform, self.name, **{**own, **options})._bound_to(self._source)

    def require_classes(self, way: int) -> None:
        """Raises TooFewClassesError unless there are `way` classes of different kin."""
        if self.kins >= way:
            return
        have = f"{len(self.pool)} class{'' if len(self.pool) == 1 else 'es'}"
        if self.kins < len(self.pool):
            have += f" of only {self.kins} kinds that may meet in one task (turned copies of a class may not)"
        raise TooFewClassesError(
            f"expected at least way={way} classes in {self.name}, got {have}. "
            f"Add classes, or use a smaller way: --way {max(self.kins, 2)}, or for these alone "
            f"{self.name}=dict(way={max(self.kins, 2)})"
        )

    def require_examples(self, needed: int, why: str) -> None:
        """Raises TooFewExamplesError, naming the worst class, unless every class has `needed` examples."""
        if len(self.pool) and int(self._count.min()) < needed:
            worst = int(self._count.argmin())
            short = int((self._count < needed).sum())
            others = f" ({short} classes are too small)" if short > 1 else ""
            have = int(self._count[worst])
            raise TooFewExamplesError(
                f"expected at least {needed} examples ({why}) of every class in {self.name}, but class "
                f"{self.pool.names[worst]!r} has {have or 'none'}{others}. "
                f"Add examples, remove the class, or ask for fewer (shot + query <= {have})"
            )

    def _choose_classes(self, key: Keys, way: int) -> Ints:
        """`way` classes of different kin in random order: each kin as likely as any other, then each class of it."""
        kin = randomness.distinct(self.kins, way, key, KIN)
        member = randomness.integers(self._kin_size[kin], key[:, None], MEMBER, np.arange(way))
        return np.asarray(self._members[self._kin_start[kin] + member])

    def _draw(self, key: Keys, device: torch.device | str | None) -> Episodes:
        made = self._compose(key)
        present = made.classes >= 0
        drawn = made.shots + made.queries
        label = np.arange(self.way)
        # The draws do not depend on how many are asked for, hence not on the other tasks of the batch.
        most = int(drawn.max(initial=0))
        counts = np.where(present, self._sizes(made.classes), 0)
        example = randomness.distinct(counts, most, key[:, None], EXAMPLES, label, pad=True)  # [T, way, most]
        slot = np.arange(most)
        identity = self._turned(self._identities(made.classes, example), key)
        in_support = slot < made.shots[..., None]
        in_query = (slot < drawn[..., None]) & ~in_support
        order = randomness.bits(key[:, None, None], ORDER, label[:, None], slot) >> np.uint64(1)
        support_y, support_ids = self._lay_out(identity, in_support, order, self.support_size)
        query_y, query_ids = self._lay_out(identity, in_query, None, self.query_size)
        # Support first, then query: gathered in one go, and each of them contiguous.
        x = self._gather(np.concatenate([support_ids.reshape(-1), query_ids.reshape(-1)]), device)
        support_x, query_x = (
            part.view(*ids.shape, *self.example_shape)
            for part, ids in zip(x.split([support_ids.size, query_ids.size]), (support_ids, query_ids), strict=True)
        )

        def put(array: NDArray[Any]) -> Tensor:
            tensor = torch.from_numpy(array)
            return tensor if device is None else tensor.to(device)

        classes, every = put(present), bool(present.all())

        def examples(inputs: Tensor, labels: Ints, ids: Ints) -> Examples:
            real = ids >= 0
            return Examples(inputs, put(labels), put(real), classes, padded=not (every and bool(real.all())))

        return Episodes(
            support=examples(support_x, support_y, support_ids),
            query=examples(query_x, query_y, query_ids),
            class_ids=put(np.where(present, made.classes, -1)),
            support_ids=put(support_ids),
            query_ids=put(query_ids),
        )

    def _sizes(self, classes: Ints) -> Ints:
        """How many examples classes have; of the shape of `classes`, whatever it says for -1."""
        return np.asarray(self._count[classes])

    def _identities(self, classes: Ints, example: Ints) -> Ints:
        """The examples with these numbers `[T, way, n]` in their classes `[T, way]`: their rows * 4 + their turns."""
        return np.asarray((self._start[classes][..., None] + example) * 4 + self._turns[classes][..., None])

    def _turned(self, identity: Ints, key: Keys) -> Ints:
        """The examples `[T, way, n]` as the episodes with these keys show them: classes turned, if the pool says so."""
        if not self.pool.random_turns:
            return identity
        turn = randomness.integers(4, key[:, None], TURN, np.arange(identity.shape[1]))[..., None]
        return identity // 4 * 4 + (identity + turn) % 4

    def _lay_out(
        self, identity: Ints, chosen: NDArray[np.bool_], order: NDArray[np.uint64] | None, size: int
    ) -> tuple[Ints, Ints]:
        """The chosen ones of `[T, way, n]` in `size` slots by `order` (None: as they come), with labels and padding.

        Returns labels `[T, size]`, 0 in padding, and identities `[T, size]`, -1 in padding.
        """
        tasks, way, n = identity.shape
        rank = np.where(chosen, np.uint64(0) if order is None else order, ~np.uint64(0)).reshape(tasks, way * n)
        place = np.argsort(rank, axis=1, kind="stable")[:, :size]
        valid = np.take_along_axis(chosen.reshape(tasks, way * n), place, axis=1)
        y, ids = np.zeros((tasks, size), np.int64), np.full((tasks, size), -1, np.int64)
        y[:, : place.shape[1]] = np.where(valid, place // max(n, 1), 0)
        ids[:, : place.shape[1]] = np.where(
            valid, np.take_along_axis(identity.reshape(tasks, way * n), place, axis=1), -1
        )
        return y, ids
