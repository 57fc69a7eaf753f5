"""What a sweep chooses on, and what it confirms its choice on."""

from __future__ import annotations

import numpy as np

from kshot import randomness
from kshot.errors import ConfigError
from kshot.tasks.source import TaskSource
from kshot.tasks.split import TaskSplit

DEAL = randomness.stream("sweep/val classes")

CONFIRM_SEED = 1
"""Of the tasks that confirm. Validation's is another: generated tasks, which have no classes, are as unseen then."""


def held_out(source: TaskSource, seed: int) -> tuple[TaskSource, TaskSplit]:
    """Deals the val classes in two halves: one that trials are pruned and chosen on, and one that confirms the choice.

    The best of forty trials on some tasks owes a part of its score to these tasks; on the other half it owes nothing to
    them. Test classes stay out of both. Classes of one kin (turned copies of a character) are on the same side.

    Returns:
        The source with half of its val classes, and the split of the other half. Generated tasks have no classes to
        deal: the split is val, of which the tasks of another seed are sampled.

    Raises:
        ConfigError: there are no val classes, or too few.
    """
    if "val" not in source.splits:
        raise ConfigError(f"{source.name} has no val classes to choose on: give data that has (kshot data info)")
    val = source.val
    if val.pool is None or val.kind != "classification":
        return source, val
    kin = val.pool.kin.numpy()
    kinds = np.unique(kin)
    order = np.argsort(randomness.bits(seed, DEAL, np.arange(len(kinds))))
    half = (len(kinds) + 1) // 2
    if len(kinds) // 2 < val.way:
        raise ConfigError(
            f"{source.name} has {len(kinds)} val classes: a sweep chooses on half of them and confirms its choice on "
            f"the others, which takes 2 x way = {2 * val.way}. Give val more classes, or a smaller way, or say "
            "confirm: false"
        )
    chosen = np.isin(kin, kinds[order[:half]])
    splits = {**source.splits, "val": val.subset(chosen.tolist())}
    halved = TaskSource(
        source.name,
        splits,
        example_shape=source.example_shape,
        transform=source.transform,
        spec=source.spec,
        info=source.info,
    )
    return halved, val.subset((~chosen).tolist())
