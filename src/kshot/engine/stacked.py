"""Tasks of several users at once: adaptations, and predictions from states that were adapted apart.

Training and evaluation sample meta-batches of one shape. A server gets tasks one by one, as they come: those of one
shape are stacked and run together, and each gets what it would get alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from kshot.engine.hooks import Hooks
from kshot.episodes import Examples, Input, Unlabeled, map_input

STACKED = ("native", "vmap")


def stacked_mode(learner: Hooks) -> str:
    """The mode in which a learner's tasks are stacked, `loop` where it has none."""
    if learner.native:
        return "native"
    return "vmap" if "vmap" in learner.modes else "loop"


def adapt_tasks(learner: Hooks, supports: Sequence[Examples], mode: str | None = None, **options: Any) -> list[Any]:
    """What `learner.adapt` returns for each of some support sets (of features).

    Args:
        supports: of any sizes; those whose ways, kinds of inputs and roughly whose lengths agree run together, the
            shorter ones padded.
        mode: `native`, `vmap` or `loop`; by default the first of them that the learner has.
        options: of `learner.adapt`, the same for all.
    """
    mode = mode or stacked_mode(learner)
    results: list[Any] = [None] * len(supports)
    with torch.no_grad():
        for group in groups_of([_support_key(support) for support in supports]) if mode in STACKED else []:
            if len(group) == 1:
                continue
            length = max(supports[i].size for i in group)
            stacked = _stack([_pad_support(supports[i], length) for i in group])
            adapted = _mapped(mode, lambda support: learner.adapt(support, **options))(stacked)
            for place, i in enumerate(group):
                results[i] = pytree.tree_map(lambda t, place=place: t[place], adapted)
        for i, support in enumerate(supports):
            if results[i] is None:
                results[i] = learner.adapt(support, **options)
    return results


def predict_tasks(learner: Hooks, adapted: Sequence[Any], x: Input, mode: str | None = None) -> Any:
    """What `learner.predict` returns for each of some adapted states, all of one shape, and the queries that belong to
    it: `[T, n, ...]`.

    Args:
        adapted: `T` pytrees of tensors. A state may be there twice, with the queries of two requests: they do not see
            each other.
        x: features of the queries, `[T, n, ...]`.
        mode: as for `adapt_tasks`.
    """
    mode = mode or ("native" if learner.native_predict else stacked_mode(learner))
    with torch.no_grad():
        if len(adapted) == 1 or mode not in STACKED:
            outputs = [learner.predict(state, map_input(itemgetter(t), x)) for t, state in enumerate(adapted)]
            return pytree.tree_map(lambda *parts: torch.stack(parts), *outputs)
        return _mapped(mode, learner.predict)(_stack(adapted), x)


def adapt_and_predict(learner: Hooks, supports: Examples, x: Input, mode: str | None = None, **options: Any) -> Tensor:
    """What learners that are adapted to each of some support sets of one shape say of the queries that belong to it:
    `[T, n, ...]`.

    Args:
        supports: `[T, m, ...]`, of features.
        x: features of the queries, `[T, n, ...]`.
        mode: as for `adapt_tasks`.
        options: of `learner.adapt`.
    """
    mode = mode or stacked_mode(learner)

    def one(support: Examples, x: Input) -> Tensor:
        output: Tensor = learner.predict(learner.adapt(support, **options), x)
        return output

    with torch.no_grad():
        if mode in STACKED:
            return _mapped(mode, one)(supports, x)  # type: ignore[no-any-return]
        tasks = len(supports.y)
        return torch.stack([one(supports[t], map_input(itemgetter(t), x)) for t in range(tasks)])


def _mapped(mode: str, function: Callable[..., Any]) -> Callable[..., Any]:
    return function if mode == "native" else torch.vmap(function, randomness="different")


def groups_of(keys: Sequence[Hashable]) -> list[list[int]]:
    """The positions of equal keys, in order."""
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _stack(trees: Sequence[Any]) -> Any:
    """Trees of one shape as one. Level by level: to flatten each of many takes longer than all else that they go
    through."""
    first = trees[0]
    if isinstance(first, Tensor):
        return torch.stack(list(trees))
    if type(first) is dict:
        return {key: _stack([tree[key] for tree in trees]) for key in first}
    if type(first) in (tuple, list):
        return type(first)(_stack(column) for column in zip(*trees, strict=True))
    leaves, spec = pytree.tree_flatten(first)
    if not leaves:  # None, say
        return first
    rows = [leaves, *(pytree.tree_leaves(tree) for tree in trees[1:])]
    return pytree.tree_unflatten([torch.stack(column) for column in zip(*rows, strict=True)], spec)


def _input_key(x: Input) -> Hashable:
    named = x.items() if isinstance(x, dict) else [("", x)]
    return tuple((name, tuple(t.shape[1:]), t.dtype, t.device) for name, t in named)


def _support_key(support: Examples) -> Hashable:
    others = support.unlabeled
    return (
        _input_key(support.x),
        tuple(support.y.shape[1:]),
        support.way,
        _length(support.size),
        None if others is None else (_input_key(others.x), others.size),
    )


def _length(size: int) -> int:
    """Lengths that share a group: up to the next power of two, so that padding at most doubles the work."""
    return 1 << max(size - 1, 0).bit_length()


def _pad(t: Tensor, extra: int) -> Tensor:
    return F.pad(t, [0, 0] * (t.ndim - 1) + [0, extra]) if extra else t


def _pad_support(support: Examples, length: int) -> Examples:
    extra = length - support.size
    unlabeled = support.unlabeled
    return Examples(
        map_input(lambda t: _pad(t, extra), support.x),
        _pad(support.y, extra),
        _pad(support.mask, extra),
        support.classes,
        True,
        None if unlabeled is None else Unlabeled(unlabeled.x, unlabeled.mask, True),
    )
