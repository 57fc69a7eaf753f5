"""`UmtraTasks`: tasks of unlabelled images, each a class of its own, and its other views the queries."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kshot import randomness
from kshot.datasets.augment import Augmentation
from kshot.datasets.pool import Pool
from kshot.datasets.transform import Transform
from kshot.episodes import Episodes, Examples
from kshot.errors import DataError, TooFewExamplesError
from kshot.tasks.options import whole_number
from kshot.tasks.pooled import EXAMPLES, ORDER, Augment, Composition, Keys, PoolTasks
from kshot.tasks.unlabeled import Ints

SUPPORT_VIEW, QUERY_VIEW = (randomness.stream(f"tasks/umtra/{name}") for name in ("support", "query"))


class UmtraTasks(PoolTasks):
    """Tasks made without labels by sampling and augmentation (UMTRA: Khodadadeh, Boloni, Shah 2019, algorithm 1).

    A task takes `way` images at random and calls each a class. The image is its class's support, and its queries are
    `query` views of it, each augmented on its own. With a `shot` of more than the paper's one, the support holds the
    image and `shot - 1` further views.

    The pool's classes and their kin are never looked at, so two images of a task may show one class in truth, or one
    character in two rotations. Of c classes of equal size, an image meets another one of its own with a probability of
    about (way - 1) / c: 1.4% for 60 of Omniglot's 4,112 rotated characters. Where classes are few, labels are wrong as
    often.

    Args:
        pool: its images are sampled from, uniformly; a row under several turns counts as several images.
        transform: normalises them, once augmented.
        name: of the split; another name, another stream of tasks.
        way: images a task, at least 2.
        shot: support examples of each: the image itself and `shot - 1` views of it.
        query: views of each.
        augment: what makes a view: a key of `kshot.datasets.augment.PRESETS`, ranges, or an `Augmentation`; by default
            "omniglot" for images of one channel, else "colour".

    Episodes are those of `FewShotTasks`; `class_ids` number the images of the pool, and only the unchanged images have
    ids: `query_ids` is None, and `support_ids` for more than one shot.

    Raises:
        DataError: examples that are no images.
        TooFewExamplesError: fewer than `way` images.
        ConfigError: a way, shot or query that is no such number, or an unknown augmentation.
    """

    has_labels = False
    augment: Augmentation

    def __init__(
        self,
        pool: Pool,
        transform: Transform,
        name: str = "train",
        *,
        way: int = 5,
        shot: int = 1,
        query: int = 15,
        augment: Augment = None,
    ) -> None:
        if not pool.is_image:
            raise DataError(
                f"expected images in {name}, whose augmented views are the queries of UMTRA's tasks, got vectors of "
                f"{pool.x.shape[1]} features: use labels='cactus', which makes tasks of clusters"
            )
        if augment is None:
            augment = "omniglot" if pool.x.shape[1] == 1 else "colour"
        options = {"labels": "umtra", "way": way, "shot": shot, "query": query}
        super().__init__(pool, transform, name, options, augment=augment)
        self.way = whole_number("way", way, at_least=2)
        self.shot = whole_number("shot", shot)
        self.query = whole_number("query", query)
        self.support_size, self.query_size = self.way * self.shot, self.way * self.query
        self._images = unlabelled(pool)
        if len(self._images) < self.way:
            raise TooFewExamplesError(
                f"expected at least way={self.way} images in {name}, each of which is a class of a task, got "
                f"{len(self._images)}: add images, or use a smaller way"
            )

    @property
    def classes(self) -> int:
        """Every image is one."""
        return len(self._images)

    def _compose(self, key: Keys) -> Composition:
        chosen = randomness.distinct(len(self._images), self.way, key, EXAMPLES)
        return Composition(chosen, np.full_like(chosen, self.shot), np.full_like(chosen, self.query))

    def _draw(self, key: Keys, device: torch.device | str | None) -> Episodes:
        tasks, chosen = len(key), self._compose(key).classes
        identity = self._turned(self._images[chosen][..., None], key)[..., 0]
        support = np.argsort(randomness.bits(key[:, None], ORDER, np.arange(self.support_size)), 1, kind="stable")
        query = np.broadcast_to(np.arange(self.query_size), (tasks, self.query_size))
        y = np.concatenate([support // self.shot, query // self.query], axis=1)
        ids = np.take_along_axis(identity, y, axis=1)
        views = np.concatenate(
            [
                randomness.bits(key[:, None], SUPPORT_VIEW, support // self.shot, support % self.shot),
                randomness.bits(key[:, None], QUERY_VIEW, query // self.query, query % self.query),
            ],
            axis=1,
        )
        as_it_is = np.concatenate([support % self.shot == 0, np.zeros(query.shape, bool)], axis=1)
        seen = (views.reshape(-1), as_it_is.reshape(-1))

        def change(stored: Tensor, which: Ints) -> Tensor:
            changed = self.augment(stored, seen[0][which])
            return torch.where(torch.from_numpy(seen[1][which]).view(-1, 1, 1, 1), stored, changed)

        x = self._gather(ids.reshape(-1), device, change).view(tasks, -1, *self.example_shape)
        at = device or "cpu"
        labels = torch.from_numpy(y).to(at)
        classes = torch.ones(tasks, self.way, dtype=torch.bool, device=at)

        def examples(part: slice) -> Examples:
            mask = torch.ones_like(labels[:, part], dtype=torch.bool)
            return Examples(x[:, part].contiguous(), labels[:, part].contiguous(), mask, classes, padded=False)

        first = slice(0, self.support_size)
        return Episodes(
            support=examples(first),
            query=examples(slice(self.support_size, None)),
            class_ids=torch.from_numpy(chosen).to(at),
            support_ids=torch.from_numpy(ids[:, first]).to(at) if self.shot == 1 else None,
        )


def unlabelled(pool: Pool) -> Ints:
    """All examples of a pool, in an order that says nothing of its classes: rows * 4 + turns, sorted, each once."""
    of = [pool.rows(c).numpy() * 4 + int(pool.turns[c]) for c in range(len(pool))]
    return np.unique(np.concatenate(of)) if of else np.zeros(0, np.int64)
