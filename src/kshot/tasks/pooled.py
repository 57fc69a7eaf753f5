"""`PoolTasks`: what all samplers over a pool share. A sampler says what an episode is composed of; this makes it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kshot import randomness
from kshot.datasets.augment import Augmentation, as_augmentation
from kshot.datasets.pool import Pool
from kshot.datasets.transform import Transform
from kshot.episodes import Episodes, Examples, Unlabeled
from kshot.errors import DataError, TooFewClassesError, TooFewExamplesError
from kshot.tasks.gather import Change, Gatherer, views
from kshot.tasks.split import Classes, TaskSplit
from kshot.tasks.transfer import sent
from kshot.tasks.unlabeled import Ints, Unlabelling

Keys = NDArray[np.uint64]

# What each draw of a task is for: another purpose, another stream.
KIN, MEMBER, EXAMPLES, TURN, ORDER, UNLABELED, VIEW = (
    randomness.stream(f"tasks/{name}") for name in ("kin", "member", "examples", "turn", "order", "unlabeled", "view")
)

Augment = str | Mapping[str, Any] | Augmentation | None
"""What `as_augmentation` takes, or None for examples as they are."""


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
    Unlabelled examples are shuffled, those of its own classes and of the distractors together. A task has the same
    classes, support and queries with any number of unlabelled examples. With `augment` each of its images is shown in a
    view of its own, which another task shows in another.
    """

    kind = "classification"
    pool: Pool

    def __init__(
        self,
        pool: Pool,
        transform: Transform,
        name: str,
        options: dict[str, Any],
        unlabelling: Unlabelling | None = None,
        augment: Augment = None,
    ) -> None:
        unlabelling = unlabelling or Unlabelling()
        options = {**options, **unlabelling.options}
        self.augment = None if augment is None else as_augmentation(augment)
        if self.augment is not None:
            options["augment"] = augment if isinstance(augment, str) else self.augment.to_dict()
            if not pool.is_image:
                raise DataError(
                    f"expected images in {name} to augment, got vectors of {pool.x.shape[1]} features: leave augment "
                    "out"
                )
        super().__init__(name, options)
        self.pool = pool
        self.transform = transform
        self.unlabelling = unlabelling
        self._labelled = unlabelling.labelled_counts(pool.count.numpy())
        self._orders = unlabelling.orders(pool) if unlabelling.labelled < 1 else None
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
    def classes(self) -> int:
        return len(self.pool)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return self._gather.shape

    @property
    def unlabeled_size(self) -> int:
        """Slots of unlabelled examples in an episode, padding included."""
        return (self.way + self.unlabelling.distractors) * self.unlabelling.unlabeled

    def labelled_rows(self) -> tuple[Ints, Ints]:
        """The examples that may have a label: their rows in the pool's `x`, and the class of each."""
        owner = np.repeat(np.arange(len(self.pool)), self._labelled)
        place = np.concatenate([np.arange(n) for n in self._labelled.tolist()] or [np.zeros(0, np.int64)])
        if self._orders is not None:
            place = self._orders[owner, place]
        return self._start[owner] + place, owner

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
        """Raises TooFewClassesError unless there are `way` classes of different kin, and those of the distractors."""
        distractors = self.unlabelling.distractors
        if self.kins >= way + distractors:
            return
        have = f"{len(self.pool)} class{'' if len(self.pool) == 1 else 'es'}"
        if self.kins < len(self.pool):
            have += f" of only {self.kins} kinds that may meet in one task (turned copies of a class may not)"
        if distractors:
            raise TooFewClassesError(
                f"expected at least way={way} + distractors={distractors} classes in {self.name}, got {have}. "
                f"Add classes, or use fewer distractors or a smaller way (way + distractors <= {self.kins})"
            )
        raise TooFewClassesError(
            f"expected at least way={way} classes in {self.name}, got {have}. "
            f"Add classes, or use a smaller way: --way {max(self.kins, 2)}, or for these alone "
            f"{self.name}=dict(way={max(self.kins, 2)})"
        )

    def require_examples(self, needed: int, why: str) -> None:
        """Raises TooFewExamplesError, naming the worst class, unless every class has `needed` examples.

        Beside them, each needs its unlabelled ones; and where only a share is labelled, `needed` of those.
        """
        asked, kinds = self.unlabelling, "shot + query"
        if asked.labelled < 1:
            share, others = f"labelled={asked.labelled}", f"unlabelled examples (unlabeled={asked.unlabeled})"
            self._require(self._labelled, needed, f"labelled examples ({why})", kinds, f"raise {share}")
            self._require(self._count - self._labelled, asked.unlabeled, others, "unlabeled", f"lower {share}")
            return
        if asked.unlabeled:
            needed, kinds = needed + asked.unlabeled, f"{kinds} + unlabeled"
            why = f"{why} + unlabeled={asked.unlabeled}"
        self._require(self._count, needed, f"examples ({why})", kinds, "remove the class")

    def _require(self, counts: Ints, needed: int, what: str, kinds: str, remedy: str) -> None:
        if not len(counts) or int(counts.min()) >= needed:
            return
        worst, short = int(counts.argmin()), int((counts < needed).sum())
        others = f" ({short} classes are too small)" if short > 1 else ""
        have, full = int(counts[worst]), int(self._count[worst])
        raise TooFewExamplesError(
            f"expected at least {needed} {what} of every class in {self.name}, but class {self.pool.names[worst]!r} "
            f"has {have or 'none'}{f' of its {full}' if have < full else ''}{others}. "
            f"Add examples, {remedy}, or ask for fewer ({kinds} <= {have})"
        )

    def _choose_classes(self, key: Keys, way: int) -> Ints:
        """`way` classes of different kin in random order: each kin as likely as any other, then each class of it."""
        kin = randomness.distinct(self.kins, way, key, KIN)
        member = randomness.integers(self._kin_size[kin], key[:, None], MEMBER, np.arange(way))
        return np.asarray(self._members[self._kin_start[kin] + member])

    def _draw(self, key: Keys, device: torch.device | str | None) -> Episodes:
        made = self._compose(key)
        drawn = made.shots + made.queries
        classes = self._with_distractors(key, made.classes)
        label = np.arange(classes.shape[1])
        most = int(drawn.max(initial=0))
        example, others = self._examples(key, classes, drawn, most)
        present, label = made.classes >= 0, label[: self.way]
        slot = np.arange(most)

        def identity(of: Ints) -> Ints:
            return self._turned(self._identities(classes, of), key)

        in_support = slot < made.shots[..., None]
        in_query = (slot < drawn[..., None]) & ~in_support
        order = randomness.bits(key[:, None, None], ORDER, label[:, None], slot) >> np.uint64(1)
        labelled = identity(example)[:, : self.way]
        support_y, support_ids = self._lay_out(labelled, in_support, order, self.support_size)
        query_y, query_ids = self._lay_out(labelled, in_query, None, self.query_size)
        place = np.arange(self.unlabelling.unlabeled)
        order = randomness.bits(key[:, None, None], UNLABELED, 1, np.arange(classes.shape[1])[:, None], place)
        there = np.broadcast_to((classes >= 0)[..., None], others.shape)
        _, unlabeled_ids = self._lay_out(identity(others), there, order >> np.uint64(1), self.unlabeled_size)
        # Support, query, unlabelled: gathered in one go, and each of them contiguous.
        parts = (support_ids, query_ids, unlabeled_ids)
        x = self._gather(np.concatenate([ids.reshape(-1) for ids in parts]), device, self._views(key, parts))
        support_x, query_x, unlabeled_x = (
            part.view(*ids.shape, *self.example_shape)
            for part, ids in zip(x.split([ids.size for ids in parts]), parts, strict=True)
        )

        def put(array: NDArray[Any]) -> Tensor:
            return sent(torch.from_numpy(array), device)

        has, every = put(present), bool(present.all())

        def examples(inputs: Tensor, labels: Ints, ids: Ints) -> Examples:
            real = ids >= 0
            return Examples(inputs, put(labels), put(real), has, padded=not (every and bool(real.all())))

        support, some = examples(support_x, support_y, support_ids), self.unlabeled_size > 0
        if some:
            real = unlabeled_ids >= 0
            support = replace(support, unlabeled=Unlabeled(unlabeled_x, put(real), padded=not bool(real.all())))
        episodes = Episodes(
            support=support,
            query=examples(query_x, query_y, query_ids),
            class_ids=put(np.where(present, made.classes, -1)),
            support_ids=put(support_ids),
            query_ids=put(query_ids),
            unlabeled_ids=put(unlabeled_ids) if some else None,
        )
        # An id says which input an example is, and so which features it has: another view is another input.
        return episodes if self.augment is None else episodes.without_ids()

    def _views(self, key: Keys, parts: Iterable[Ints]) -> Change | None:
        """What shows each example `[T, n]` of a task in a view that is a function of both."""
        if self.augment is None:
            return None
        each = [randomness.bits(key[:, None], VIEW, np.maximum(ids, 0)).reshape(-1) for ids in parts]
        return views(self.augment, np.concatenate(each))

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

    def _with_distractors(self, key: Keys, classes: Ints) -> Ints:
        """The tasks' classes `[T, way]`, then those of the distractors: as many more of different kin."""
        more = self.unlabelling.distractors
        if not more:
            return classes
        return np.concatenate([classes, self._choose_classes(key, self.way + more)[:, self.way :]], axis=1)

    def _examples(self, key: Keys, classes: Ints, drawn: Ints, most: int) -> tuple[Ints, Ints]:
        """Distinct examples of each class, -1 past the end: `[T, n, most]` with labels and `[T, n, unlabeled]` without.

        The draws do not depend on how many are asked for, hence not on the other tasks of the batch.
        """
        asked, label = self.unlabelling.unlabeled, np.arange(classes.shape[1])
        keys = key[:, None]
        if self._orders is None:
            counts = np.where(classes >= 0, self._sizes(classes), 0)
            every = randomness.distinct(counts, most + asked, keys, EXAMPLES, label, pad=True)
            begin = np.zeros_like(classes)  # distractors have nothing with labels
            begin[:, : self.way] = drawn
            return every[..., :most], np.take_along_axis(every, begin[..., None] + np.arange(asked), axis=-1)
        counts = np.where(classes >= 0, self._labelled[classes], 0)
        left = np.where(classes >= 0, self._count[classes] - counts, 0)
        example = randomness.distinct(counts, most, keys, EXAMPLES, label, pad=True)
        others = counts[..., None] + randomness.distinct(left, asked, keys, UNLABELED, 0, label, pad=True)
        orders = self._orders[classes]
        return tuple(np.take_along_axis(orders, of, axis=-1) for of in (example, others))  # type: ignore[return-value]

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
