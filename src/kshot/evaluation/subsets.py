"""Episodes made of episodes: fewer shots, so that every number of shots is judged on the same queries."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kshot.episodes import Episodes, Examples, map_input
from kshot.functional import one_hot


def first_shots(episodes: Episodes, shots: int | Tensor) -> Episodes:
    """The same tasks with only the first support examples of each class.

    Args:
        episodes: of any kind; for regression the first support points are kept.
        shots: how many of each class, or int64 `[T, way]`.
    """
    support = episodes.support
    if support.way:
        own = one_hot(support, torch.int64)
        rank = (own.cumsum(1) * own).sum(-1)  # from 1
        limit = shots if isinstance(shots, int) else shots.to(support.device).gather(1, support.y)
    else:
        rank, limit = support.mask.long().cumsum(1), shots
    return keep_support(episodes, support.mask & (rank <= limit))


def keep_support(episodes: Episodes, keep: Tensor) -> Episodes:
    """The same tasks with the support examples that `keep` `[T, n]` marks, packed to the front and masked after."""
    size = max(1, int(keep.sum(1).max()))
    order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)[:, :size]
    kept = keep.gather(1, order)

    def pick(value: Tensor) -> Tensor:
        index = order.view(*order.shape, *[1] * (value.ndim - 2)).expand(*order.shape, *value.shape[2:])
        return value.gather(1, index)

    old = episodes.support
    y = pick(old.y)
    y = y * kept.view(*kept.shape, *[1] * (y.ndim - 2)).to(y.dtype)
    support = replace(old, x=map_input(pick, old.x), y=y, mask=kept, padded=True)
    ids = None if episodes.support_ids is None else pick(episodes.support_ids).masked_fill(~kept, -1)
    return replace(episodes, support=support, support_ids=ids)


def with_inputs(episodes: Episodes, support_x: Tensor | None = None, query_x: Tensor | None = None) -> Episodes:
    """The same tasks with other inputs; examples lose their identity, so that no cache takes them for the old ones."""
    support = episodes.support if support_x is None else replace(episodes.support, x=support_x)
    query = episodes.query if query_x is None else replace(episodes.query, x=query_x)
    return replace(episodes, support=support, query=query).without_ids()


def rolled_labels(examples: Examples) -> Examples:
    """Each label replaced by the next class that its task has, the last by the first: no class keeps its label."""
    present = examples.classes
    way = present.shape[-1]
    # The present classes in order, first; then each one's successor among them.
    order = (~present).to(torch.uint8).argsort(dim=-1, stable=True)
    count = present.sum(-1, keepdim=True)
    position = torch.arange(way, device=present.device).expand_as(order)
    following = order.gather(-1, torch.where(position + 1 < count, position + 1, torch.zeros_like(position)))
    successor = torch.zeros_like(order).scatter(-1, order, following)
    y = successor.gather(-1, examples.y) * examples.mask
    return replace(examples, y=y)
