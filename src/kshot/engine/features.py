"""Features that all tasks share, computed once over a meta-batch's examples, outside any `vmap`.

In train mode a network with batch statistics sees one task's real examples at a time (support, query and unlabelled
together), so that no statistics cross tasks, chunks, ranks or padding. Otherwise all examples are one flat batch, in
chunks: on a CPU chunks larger than the cache lose the gain of batching, on a GPU the larger the better.
"""

from __future__ import annotations

from dataclasses import replace
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from kshot.engine.hooks import Hooks, as_module
from kshot.episodes import Episodes, Examples, Input, cat_inputs, first_tensor, map_input, stack_inputs
from kshot.models.layout import channels_last
from kshot.models.norms import has_batch_statistics

CPU_CHUNK = 128
"""Examples of a chunk on a CPU, of pictures such as Omniglot's; of smaller examples as many as weigh as much."""
PICTURE = 28 * 28
GPU_CHUNK = 8192


def compute_features(learner: Hooks, x: Input, chunk: int | None = None) -> Input:
    """Shared features of examples `[n, *shape]` in flat chunks: `[n, d]` (whatever `learner.features` returns)."""
    tensor = first_tensor(x)
    n = tensor.shape[0]
    numbers = max(1, tensor[:1].numel())
    size = chunk or (max(CPU_CHUNK, CPU_CHUNK * PICTURE // numbers) if tensor.device.type == "cpu" else GPU_CHUNK)
    if n <= size:
        return _features(learner, x)  # type: ignore[no-any-return]
    parts = [_features(learner, map_input(itemgetter(slice(i, i + size)), x)) for i in range(0, n, size)]
    return cat_inputs(parts)


def _features(learner: Hooks, x: Input) -> Any:
    with channels_last():
        return learner.features(x)


def featured(learner: Hooks, examples: Examples) -> Examples:
    """One task's examples with the learner's shared features in place of `x`, its unlabelled ones included.

    Unlabelled examples are left out for a learner that makes no use of them.
    """
    unlabeled = examples.unlabeled if learner.semi_supervised else None
    others = None if unlabeled is None else compute_features(learner, unlabeled.x)
    return examples.replace_x(compute_features(learner, examples.x), others)


def with_features(learner: Hooks, episodes: Episodes) -> Episodes:
    """The same episodes with `x` replaced by the learner's shared features.

    Unlabelled examples are left out for a learner that makes no use of them: they are no part of its tasks' batches.
    """
    if not learner.semi_supervised:
        episodes = episodes.without_unlabeled()
    if not learner.shares_features():
        return episodes
    support, query, unlabeled = episodes.support, episodes.query, episodes.support.unlabeled
    tasks = len(episodes)
    padded = support.padded or query.padded or (unlabeled is not None and unlabeled.padded)
    if learner.training and has_batch_statistics(as_module(learner)):
        both, mask = cat_inputs(_inputs(episodes), dim=1), torch.cat(_masks(episodes), dim=1)
        parts = []
        for t in range(tasks):
            x = map_input(itemgetter(t), both)
            if padded:
                parts.append(_scatter(_features(learner, map_input(itemgetter(mask[t]), x)), mask[t]))
            else:
                parts.append(_features(learner, x))
        return _over(episodes, stack_inputs(parts))
    # Support, query and unlabelled examples one after another: to put them together first would copy them all.
    made = []
    for x, mask in zip(_inputs(episodes), _masks(episodes), strict=True):
        flat = map_input(lambda v: v.flatten(0, 1), x)
        if padded:
            real = mask.flatten()
            z = _scatter(compute_features(learner, map_input(itemgetter(real), flat)), real)
        else:
            z = compute_features(learner, flat)
        made.append(map_input(lambda v: v.unflatten(0, (tasks, -1)), z))
    others = None if unlabeled is None else made[2]
    return replace(episodes, support=support.replace_x(made[0], others), query=query.replace_x(made[1]))


def in_single_precision(episodes: Episodes) -> Episodes:
    """The episodes with float32 in place of half-precision features."""

    def single(examples: Examples) -> Examples:
        others = None if examples.unlabeled is None else map_input(_single, examples.unlabeled.x)
        return examples.replace_x(map_input(_single, examples.x), others)

    return replace(episodes, support=single(episodes.support), query=single(episodes.query))


def _single(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _inputs(episodes: Episodes) -> list[Input]:
    """The inputs of support, query and, where there are any, unlabelled examples."""
    unlabeled = episodes.support.unlabeled
    return [episodes.support.x, episodes.query.x, *([] if unlabeled is None else [unlabeled.x])]


def _masks(episodes: Episodes) -> list[Tensor]:
    unlabeled = episodes.support.unlabeled
    return [episodes.support.mask, episodes.query.mask, *([] if unlabeled is None else [unlabeled.mask])]


def _over(episodes: Episodes, features: Input) -> Episodes:
    """The episodes over the features `[T, n, ...]` of all their examples, in the order of `_inputs`."""
    first = episodes.support.size
    second = first + episodes.query.size

    def part(start: int, end: int | None) -> Input:
        return map_input(lambda v: v[:, start:end], features)

    others = None if episodes.support.unlabeled is None else part(second, None)
    support = episodes.support.replace_x(part(0, first), others)
    return replace(episodes, support=support, query=episodes.query.replace_x(part(first, second)))


def _scatter(z: Input, mask: Tensor) -> Input:
    """Puts the rows of the real examples back among zeros for the padding."""
    where = mask.nonzero().squeeze(-1)
    return map_input(lambda v: v.new_zeros(mask.shape[0], *v.shape[1:]).index_copy(0, where, v), z)


class FeatureCache:
    """Features computed once for each example of a pool: evaluation and serving meet the same examples in many tasks.

    Valid while the learner is in eval mode and its parameters stay as they are. Episodes without example ids, or a
    learner without shared features, pass through uncached.
    """

    def __init__(self, learner: Hooks) -> None:
        self.learner = learner
        self._row = torch.full((0,), -1, dtype=torch.int64)
        self._table: Tensor | None = None

    def __call__(self, episodes: Episodes) -> Episodes:
        """Like `with_features`, computing only the examples that were never seen before."""
        if not self.learner.semi_supervised:
            episodes = episodes.without_unlabeled()
        inputs = _inputs(episodes)
        ids = [episodes.support_ids, episodes.query_ids]
        ids += [] if episodes.support.unlabeled is None else [episodes.unlabeled_ids]
        cached = self.learner.shares_features() and not self.learner.training
        known = [i for i in ids if i is not None]
        if not cached or len(known) < len(ids) or any(isinstance(x, dict) for x in inputs):
            return with_features(self.learner, episodes)
        keys = torch.cat(known, dim=1)
        if (keys[torch.cat(_masks(episodes), dim=1)] < 0).any():
            return with_features(self.learner, episodes)
        self._add(keys, first_tensor(cat_inputs(inputs, dim=1)))
        assert self._table is not None
        rows = self._row.to(keys.device)[keys.clamp(min=0)].clamp(min=0)
        z = self._table[rows] * (keys >= 0).view(*keys.shape, *[1] * (self._table.ndim - 1))
        return _over(episodes, z)

    def _add(self, keys: Tensor, x: Tensor) -> None:
        flat, x = keys.flatten(), x.flatten(0, 1)
        top = int(flat.max()) + 1
        if top > len(self._row):
            grown = torch.full((max(top, 2 * len(self._row)),), -1, dtype=torch.int64)
            grown[: len(self._row)] = self._row
            self._row = grown
        host = flat.cpu()
        # The first position of every key that is new: unique keeps the smallest index through a stable sort.
        order = host.argsort(stable=True)
        ordered = host[order]
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[1:] = ordered[1:] != ordered[:-1]
        new = order[first & (ordered >= 0)]
        new = new[self._row[host[new]] < 0]
        if not len(new):
            return
        z = compute_features(self.learner, x[new.to(x.device)])
        assert isinstance(z, Tensor)
        have = 0 if self._table is None else len(self._table)
        self._row[host[new]] = torch.arange(have, have + len(new))
        self._table = z if self._table is None else torch.cat([self._table, z])
