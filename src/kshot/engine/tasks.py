"""From one task to a meta-batch.

`loop` runs the tasks one after another and is the reference. `vmap` runs the same single-task code on all of them at
once; `compile` compiles that; `native` hands the whole meta-batch to hooks that take leading dimensions. The
conformance suite asserts that a learner's modes give the same losses and meta-gradients.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from kshot.engine.compiled import Compiled
from kshot.engine.features import FeatureCache, in_single_precision, with_features
from kshot.engine.fits import check_kind, check_support_size, check_target_size, check_way, kind_of
from kshot.engine.hooks import Hooks, as_module
from kshot.engine.lengths import few_lengths, trimmed
from kshot.episodes import Episodes, Examples
from kshot.errors import UnsupportedError, suggest
from kshot.models.switch import single_task

MODES = ("loop", "vmap", "compile", "native")


def check_mode(learner: Hooks, mode: str) -> None:
    """Raises `UnsupportedError` for a mode that does not exist or that the learner does not declare."""
    if mode not in MODES:
        raise UnsupportedError(
            f"expected an engine mode of {', '.join(MODES)} or auto, got {mode!r}. {suggest(mode, MODES)}"
        )
    if mode == "native" and not learner.native:
        raise UnsupportedError(
            f"{type(learner).__name__} takes one task at a time: use loop, vmap or compile, not native"
        )
    if mode != "native" and mode not in learner.modes:
        raise UnsupportedError(
            f"{type(learner).__name__} declares the engine modes {', '.join(learner.modes)}, not {mode}"
        )


TaskFunction = Callable[..., Any]
"""Of one task's support and query, and its class ids where they are asked for."""


def map_tasks(
    learner: Hooks, function: TaskFunction, episodes: Episodes, mode: str, chunk: int | None = None, key: Any = None
) -> Any:
    """Applies a single-task function of (support, query) to every task and stacks the results.

    Args:
        function: returns a pytree of tensors. One with a third argument `class_ids` gets these, too, `[way]`.
        mode: one of `MODES`.
        chunk: tasks at once, where memory asks for it.
        key: names the function among the learner's compiled ones (compile only).
    """
    check_mode(learner, mode)
    arguments = task_arguments(function, episodes)
    if mode == "loop":
        with single_task.set():
            results = [function(*(a[t] for a in arguments)) for t in range(len(episodes))]
        return pytree.tree_map(lambda *values: torch.stack(values), *results)
    if mode == "compile":
        function = compiled(learner, function, key)
    elif mode == "vmap":
        function = torch.vmap(function, randomness="different")
    if chunk is None or chunk >= len(episodes):
        return function(*arguments)
    parts = [function(*(a[i : i + chunk] for a in arguments)) for i in range(0, len(episodes), chunk)]
    return pytree.tree_map(lambda *values: torch.cat(values), *parts)


def tighten(examples: Examples) -> Examples:
    """Notes where no example is padding, so that hooks may skip the masking (on a CPU, where looking is free)."""
    if examples.padded and examples.device.type == "cpu" and bool(examples.mask.all()) and bool(examples.classes.all()):
        return replace(examples, padded=False)
    return examples


def task_arguments(function: TaskFunction, episodes: Episodes) -> tuple[Any, ...]:
    """What a single-task function gets of the episodes, all tasks stacked."""
    arguments: tuple[Any, ...] = (tighten(episodes.support), tighten(episodes.query))
    if _takes_class_ids(getattr(function, "__func__", function)):
        arguments += (episodes.class_ids,)
    return arguments


@functools.lru_cache(maxsize=256)
def _takes_class_ids(function: TaskFunction) -> bool:
    return "class_ids" in inspect.signature(function).parameters


def compiled(learner: Hooks, function: TaskFunction, key: Any) -> Compiled:
    """The function's graphs, which the learner keeps by the function's name; without one they are used once."""
    cache: dict[Any, Compiled] = learner.__dict__.setdefault("_compiled", {})
    if key is None or key not in cache:
        cache[key] = Compiled(as_module(learner), function)
    return cache[key]


def fitted(learner: Hooks, episodes: Episodes) -> Episodes:
    """The episodes with room for as many classes as a fixed head has.

    Raises:
        UnsupportedError: they have more, more support or other targets than the learner takes, or are of another kind.
    """
    support, have = episodes.support, "these episodes have"
    check_kind(learner, kind_of(support), "these episodes are")
    check_way(learner, episodes.way, have)
    if learner.max_support is not None and support.size > learner.max_support:  # counting is not free on a GPU
        check_support_size(
            learner, int(support.mask.sum(-1).max()) if support.padded and len(episodes) else support.size, have
        )
    check_target_size(learner, support.y.shape[-1], have)
    return episodes.widen(learner.way)


def task_losses(learner: Hooks, episodes: Episodes, mode: str, chunk: int | None = None) -> Tensor:
    """The objective of every task of a meta-batch of raw inputs, `[T]`, differentiable in the learner's parameters.

    Under `torch.autocast` the features that tasks share are in half precision, and what is done with them is not: heads
    solve, subtract and divide, which takes next to no time and does not bear it.
    """
    ready, precise = prepared(learner, episodes, mode)
    with precise:
        losses: Tensor = map_tasks(learner, learner.objective, ready, mode, chunk, key="objective")
    return losses


def prepared(learner: Hooks, episodes: Episodes, mode: str) -> tuple[Episodes, contextlib.AbstractContextManager[Any]]:
    """The episodes as the objective takes them, of features and without padding that no task needs; and the precision
    that it runs in."""
    check_mode(learner, mode)
    fits = fitted(learner, episodes)
    if mode == "compile":
        fits = few_lengths(fits, learner.__dict__.setdefault("_lengths", (set(), set())))
    ready = with_features(learner, trimmed(fits, rounded=mode == "compile"))
    device = episodes.device.type
    if torch.is_autocast_enabled(device) and learner.shares_features():
        return in_single_precision(ready), torch.autocast(device, enabled=False)
    return ready, contextlib.nullcontext()


def predict_queries(
    learner: Hooks,
    episodes: Episodes,
    mode: str = "loop",
    chunk: int | None = None,
    *,
    cache: FeatureCache | None = None,
    **options: Any,
) -> Any:
    """Adapts to every support set and predicts every query, without an outer gradient.

    Args:
        episodes: raw inputs.
        cache: computes the features of an example that occurs in many tasks once.
        options: handed on to `adapt` (inner steps, say).

    Returns:
        The learner's outputs, `[T, n_query, way]` logits, `[T, n_query, d]` values or logits of bits.
    """

    def run(support: Examples, query: Examples) -> Any:
        return learner.predict_with_mask(learner.adapt(support, **options), query)

    with torch.no_grad():
        wide = trimmed(fitted(learner, episodes), queries=False)
        featured = with_features(learner, wide) if cache is None else cache(wide)
        output = map_tasks(learner, run, featured, mode, chunk, key=("predict", tuple(sorted(options.items()))))
    # A head of more classes than the tasks have answers for those alone.
    return output[..., : episodes.way] if learner.outputs == "logits" else output
