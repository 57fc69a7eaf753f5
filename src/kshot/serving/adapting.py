"""Adaptations for several tenants at once: one pass through the backbone, one through the heads of each shape, and what
is found out on the way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from kshot import engine
from kshot.episodes import Examples, Input, Unlabeled, cat_inputs, first_tensor, map_input
from kshot.serving.calibration import reference
from kshot.serving.grouped import in_groups
from kshot.serving.held_out import HeldOut, held_out
from kshot.serving.served import ServedModel
from kshot.serving.suggesting import suggest_labels

SUGGESTED = 50
"""Examples without labels that are named in the order in which to label them: each costs a look at all others."""


@dataclass(frozen=True, eq=False)
class Order:
    """A support set to adapt to.

    Attributes:
        model: that shall adapt.
        x: the examples as the network sees them, `[n, *shape]`, those left out whose features are known; None: all.
        y: their classes, int64 `[n]`; -1 of those that have no label.
        way: classes.
        known: features of the other examples, `[k, ...]`.
        at: bool `[n]`, which examples those are.
        pool: examples of which it is to be said which to label next, as the network sees them; where there are none,
            those without labels are.
        options: of `learner.adapt`.
        check: whether examples are to be left out to learn how good the task is.
    """

    model: ServedModel
    x: Input | None
    y: Tensor
    way: int
    known: Tensor | None = None
    at: Tensor | None = None
    pool: Input | None = None
    options: dict[str, Any] = field(default_factory=dict)
    check: bool = True

    @property
    def size(self) -> int:
        """Examples to compute, and one for what else there is to do."""
        return 1 + sum(first_tensor(x).shape[0] for x in (self.x, self.pool) if x is not None)


@dataclass(frozen=True, eq=False)
class Adaptation:
    """A task, adapted.

    Attributes:
        adapted: what the learner's `adapt` returned.
        classes: bool `[way]`.
        features: of all examples, `[n, ...]`.
        embedding: of those with labels, `[m, d]`.
        reference: how far its examples lie from others of their class, which queries are measured by.
        held_out: what leaving examples out said; None where it was not asked for.
        suggested: places in the pool, the one to label first in front.
        seconds: of each stage, for all that were adapted together.
        together: how many those were.
    """

    adapted: Any
    classes: Tensor
    features: Input
    embedding: Tensor
    reference: float
    held_out: HeldOut | None
    suggested: list[int]
    seconds: dict[str, float]
    together: int = 1


def adapt_together(orders: Sequence[Order]) -> list[Adaptation | Exception]:
    """The adaptations of any support sets, in their order; an exception is its order's alone."""
    return in_groups(orders, lambda order: (id(order.model), tuple(sorted(order.options.items()))), _adapt)


@torch.no_grad()
def _adapt(orders: Sequence[Order]) -> list[Adaptation]:
    """Of one model, with the same options."""
    model, learner = orders[0].model, orders[0].model.adapter
    clock = _Clock()
    raw = [x for o in orders for x in (o.x,) if x is not None]
    raw += [x for o in orders for x in (o.pool,) if x is not None]
    parts = iter(_split(model.embed(learner, cat_inputs(raw))[0], raw) if raw else [])
    features = [_complete(o, None if o.x is None else next(parts)) for o in orders]
    pools = [None if o.pool is None else next(parts) for o in orders]
    clock.lap("features")
    supports, others = [], []
    for order, z in zip(orders, features, strict=True):
        has = order.y >= 0
        whole = bool(has.all())
        rest = None if whole else map_input(itemgetter(~has), z)
        support = Examples.of(z if whole else map_input(itemgetter(has), z), order.y[has], way=order.way)
        supports.append(_widened(support, learner.way, rest if learner.semi_supervised else None))
        others.append(rest)
    states = engine.adapt_tasks(learner, supports, **orders[0].options)
    clock.lap("adapt")
    found = []
    for i, (order, support, state) in enumerate(zip(orders, supports, states, strict=True)):
        own = _Clock(clock.seconds)
        embedding = first_tensor(support.x).flatten(1)
        checked, suggested = None, []
        if order.check:
            temperature = model.calibrated(len(embedding) / order.way).get("temperature", 1.0)
            checked = held_out(learner, support, temperature, order.options)
            own.lap("held_out")
        pool = others[i] if pools[i] is None else pools[i]
        if pool is not None:
            logits = engine.predict_tasks(learner, [state], map_input(lambda t: t.unsqueeze(0), pool))[0]
            suggested = suggest_labels(embedding, first_tensor(pool).flatten(1), logits, support.classes, SUGGESTED)
            own.lap("suggest")
        near = reference(embedding, support.y)
        found.append(
            Adaptation(
                state, support.classes, features[i], embedding, near, checked, suggested, own.seconds, len(orders)
            )
        )
    return found


def _complete(order: Order, z: Input | None) -> Input:
    """The features of all examples: those that are known, and those that were computed."""
    if order.known is None or order.at is None:
        assert z is not None
        return z
    if z is None:
        return order.known
    assert isinstance(z, Tensor)
    whole = z.new_empty(len(order.y), *z.shape[1:])
    whole[order.at], whole[~order.at] = order.known, z
    return whole


def _widened(support: Examples, way: int | None, unlabeled: Input | None) -> Examples:
    wide = support.widen(way)
    return wide if unlabeled is None else replace(wide, unlabeled=Unlabeled.of(unlabeled))


def _split(z: Input, like: Sequence[Input]) -> list[Input]:
    """`z` of all, apart again."""
    start, parts = 0, []
    for part in like:
        end = start + first_tensor(part).shape[0]
        parts.append(map_input(itemgetter(slice(start, end)), z))
        start = end
    return parts


class _Clock:
    """Seconds by stage."""

    def __init__(self, seconds: dict[str, float] | None = None) -> None:
        self.seconds = dict(seconds or {})
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
