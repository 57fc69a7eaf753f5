"""Old tasks among new ones: what a learner that is trained on goes on doing, so that it is not forgotten.

Rehearsal (Robins 1995; "experience replay" in Rolnick et al. 2019), of whole tasks: each training task is one of the
new source or, with the probability `share`, one of the old.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kshot import randomness
from kshot.datasets.gathered import is_gathered
from kshot.datasets.pool import Pool
from kshot.episodes import Episodes, concatenate
from kshot.errors import ConfigError, UnsupportedError
from kshot.tasks.pooled import PoolTasks
from kshot.tasks.split import TaskSplit

TURNS = 4
"""A row of a pool is so many examples: an id says in which quarter turn it is seen, too."""

_CHOICE = randomness.stream("tasks/replay")


def gathered_folder(spec: Mapping[str, Any]) -> str | None:
    """The folder of a task source's spec, if it was gathered from a server."""
    path = spec.get("path", spec.get("name_or_path"))
    return str(path) if is_gathered(path) else None


def not_to_forget(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Of the data that a learner was trained on what the next one is to keep doing well: all of it. But where it was
    gathered from a server, or lies in a folder that is gone, that is what was replayed beside it: of what was asked the
    next gathering holds what is still stored, and what was erased since is not to come back.

    Args:
        spec: of its task source.
    """
    found = dict(spec)
    while "replay" in found and (gathered_folder(found) or not Path(found.get("path", ".")).exists()):
        sizes: dict[str, Any] = {key: found[key] for key in ("way", "shot", "query") if key in found}
        found = {**sizes, **{key: value for key, value in found["replay"].items() if key != "share"}}
    return found


class ReplayTasks(TaskSplit):
    """Tasks of two splits, mixed.

    Task `t` of a step is the task `t` of one of them, as it would be there. Classes, examples and their ids are those
    of the new split, then those of the old.

    Args:
        new: the tasks that are to be learned.
        old: the tasks that are not to be forgotten, of the same way, shot and query.
        share: of tasks that are old ones, between 0 and 1.

    Raises:
        ConfigError: another share; splits whose tasks or examples differ in shape.
    """

    kind = "classification"
    pool: Pool

    def __init__(self, new: PoolTasks, old: PoolTasks, share: float) -> None:
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
            raise ConfigError(f"expected the share of old tasks between 0 and 1, got {share!r}")
        for what in ("way", "support_size", "query_size", "unlabeled_size", "example_shape"):
            a, b = getattr(new, what), getattr(old, what)
            if a != b:
                raise ConfigError(
                    f"expected new and old tasks of one shape to replay these among those, got {what} {a} and {b}: "
                    "give both the same way, shot and query, and images of one size and as many channels"
                )
        if new.transform.to_dict() != old.transform.to_dict():
            raise ConfigError(
                "expected new and old examples to be read alike, got two transforms, so that a network would see them "
                f"on two scales: give the new data the old one's, transform={old.transform.to_dict()}"
            )
        super().__init__(new.name, {**new.options, "replay": share})
        self.new, self.old, self.share = new, old, float(share)
        self.way, self.shot, self.query = new.way, new.shot, new.query
        self.support_size, self.query_size = new.support_size, new.query_size
        self.pool, self.transform, self.augment = _joined(new.pool, old.pool), new.transform, new.augment

    @property
    def classes(self) -> int:
        return self.new.classes + self.old.classes

    @property
    def kins(self) -> int:
        """How many classes of different kin there are."""
        return self.new.kins + self.old.kins

    @property
    def unlabeled_size(self) -> int:
        return self.new.unlabeled_size

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return self.new.example_shape

    def labelled_rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The examples that may have a label: their rows in the pool's `x`, and the class of each."""
        (rows, owner), (old_rows, old_owner) = self.new.labelled_rows(), self.old.labelled_rows()
        return (
            np.concatenate([rows, old_rows + len(self.new.pool.x)]),
            np.concatenate([owner, old_owner + self.new.classes]),
        )

    def replace(self, **options: Any) -> TaskSplit:
        share = options.pop("replay", self.share)
        new, old = self.new.replace(**options), self.old.replace(**options)
        assert isinstance(new, PoolTasks)
        assert isinstance(old, PoolTasks)
        return ReplayTasks(new, old, share)._bound_to(self._source)

    def subset(self, classes: Any) -> TaskSplit:
        raise UnsupportedError("tasks of two sources have no classes of one to choose from: take the subset of either")

    def _draw(self, key: NDArray[np.uint64], device: torch.device | str | None) -> Episodes:
        again = randomness.uniform(key, _CHOICE) < self.share
        places = [np.flatnonzero(~again), np.flatnonzero(again)]
        parts = []
        if len(places[0]):
            parts.append(self.new._draw(key[places[0]], device))
        if len(places[1]):
            old = self.old._draw(key[places[1]], device)
            parts.append(_shifted(old, self.new.classes, TURNS * len(self.new.pool.x)))
        if len(parts) == 1:
            return parts[0]
        order = torch.from_numpy(np.argsort(np.concatenate(places), kind="stable")).to(parts[0].device)
        return concatenate(parts).map(lambda t: t[order])


def _shifted(episodes: Episodes, classes: int, examples: int) -> Episodes:
    """The ids of an old task's classes and examples, counted on from the new ones'."""

    def on(ids: torch.Tensor | None, by: int) -> torch.Tensor | None:
        return None if ids is None else torch.where(ids < 0, ids, ids + by)

    class_ids = on(episodes.class_ids, classes)
    assert class_ids is not None
    return Episodes(
        episodes.support,
        episodes.query,
        class_ids,
        on(episodes.support_ids, examples),
        on(episodes.query_ids, examples),
        on(episodes.unlabeled_ids, examples),
    )


def _joined(new: Pool, old: Pool) -> Pool:
    """The classes of both, for whoever asks what was trained on."""
    return Pool(
        torch.cat([new.x, old.x]),
        torch.cat([new.start, old.start + len(new.x)]),
        torch.cat([new.count, old.count]),
        torch.cat([new.turns, old.turns]),
        torch.cat([new.kin, old.kin + (int(new.kin.max()) + 1 if len(new) else 0)]),
        (*new.names, *old.names),
        new.random_turns or old.random_turns,
    )
