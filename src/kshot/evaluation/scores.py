"""A learner's scores on the tasks of a split, as an iterator of results; everything that evaluates is built on it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kshot import engine, metrics
from kshot.engine import FeatureCache
from kshot.episodes import Episodes, first_tensor
from kshot.errors import ConfigError
from kshot.learners.base import Learner, evaluating
from kshot.tasks.split import TaskSplit
from kshot.training.validation import EXAMPLES_AT_ONCE, check_fits

Change = Callable[[Episodes], Episodes]
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Scores:
    """The results of a batch of tasks.

    Attributes:
        first: number of its first task.
        episodes: the tasks, raw inputs.
        outputs: the learner's outputs for the queries, `[T, n, way]` logits, `[T, n, d]` values or logits of bits.
        values: the tasks' scores, float64 `[T]` on the CPU: accuracy, mean squared error or bit error.
        mode: of the engine, as it was chosen.
    """

    first: int
    episodes: Episodes
    outputs: Tensor
    values: Tensor
    mode: str


def iter_scores(
    learner: Learner,
    split: TaskSplit,
    tasks: int,
    *,
    seed: int = 1,
    first: int = 0,
    batch: int | None = None,
    mode: str = "auto",
    cache: FeatureCache | None = None,
    options: Mapping[str, Any] | None = None,
    change: Change | None = None,
) -> Iterator[Scores]:
    """Adapts the learner, in eval mode, to the tasks `first`, ..., `first + tasks - 1` of a split, and scores it.

    Args:
        learner: left as it is.
        split: where the tasks are sampled from. Whether the learner has seen its classes is not asked here.
        seed: of the tasks.
        batch: tasks at once; by default as many as `EXAMPLES_AT_ONCE` allows.
        mode: of the engine; `"auto"` takes the learner's own or measures.
        cache: features computed before with the same learner on the same pool.
        options: of the learner's `adapt`.
        change: what is done to the episodes first. Where it changes inputs it has to drop their ids.

    Raises:
        UnsupportedError: the learner cannot do tasks of this kind, way or shape.
        ConfigError: fewer than one task.
    """
    if tasks < 1:
        raise ConfigError(f"expected at least 1 task to score, got {tasks}")
    check_fits(learner, split, example_shape(split))
    cache = FeatureCache(learner) if cache is None else cache
    episode = split.support_size + split.query_size + split.unlabeled_size
    size = batch or max(1, min(256, EXAMPLES_AT_ONCE // max(1, episode)))
    device = device_of(learner)
    for start in range(first, first + tasks, size):
        count = min(size, first + tasks - start)
        with evaluating(learner):
            # Sampled on the CPU, where masks are cheap to look at, unless the learner is elsewhere.
            episodes = split.sample(count, seed=seed, first=start, device=None if device.type == "cpu" else device)
            episodes = (episodes if change is None else change(episodes)).widen(learner.way)
            chosen = predict_mode(learner, episodes, options) if mode == "auto" else mode
            outputs = engine.predict_queries(learner, episodes, chosen, cache=cache, **(options or {}))
        yield Scores(start - first, episodes, outputs, _score(learner, outputs, episodes), chosen)


def _score(learner: Learner, outputs: Tensor, episodes: Episodes) -> Tensor:
    return metrics.score(outputs, episodes.query, learner.outputs).cpu()


def score_tasks(learner: Learner, split: TaskSplit, tasks: int, **arguments: Any) -> Tensor:
    """The scores of tasks, float64 `[tasks]`; arguments as for `iter_scores`."""
    return torch.cat([scores.values for scores in iter_scores(learner, split, tasks, **arguments)])


def example_shape(split: TaskSplit) -> tuple[int, ...] | None:
    """The shape of one input of a split, where it is known."""
    shape = getattr(split, "example_shape", None)
    if shape is None and split._source is not None:
        shape = split._source.example_shape
    return None if shape is None else tuple(shape)


def device_of(learner: Learner) -> torch.device:
    """Where the learner's parameters are."""
    parameter = next(learner.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def predict_mode(learner: Learner, episodes: Episodes, options: Mapping[str, Any] | None = None) -> str:
    """The engine mode for predictions: native where there is one, else the training's own, else the faster one.

    Where it has to be measured, loop against vmap on a few tasks, the learner remembers it by shape. Compiling a graph
    takes longer than most evaluations: for a learner that was trained compiled, vmap stands in.
    """
    if learner.native:
        return "native"
    modes = [mode for mode in ("loop", "vmap") if mode in learner.modes]
    if len(modes) < 2 or len(episodes) < 2:
        return modes[0] if modes else "loop"
    trained = {"compile": "vmap"}.get(learner.provenance.get("mode", ""), learner.provenance.get("mode"))
    if trained in modes:
        return str(trained)
    shapes = (tuple(episodes.support.mask.shape[1:]), tuple(episodes.query.mask.shape[1:]))
    # Vmap's gain grows with the tasks that it gets at once.
    key = ("predict", *shapes, str(episodes.device), tuple(sorted((options or {}).items())))
    if key not in learner._modes:
        few = episodes[: min(8, len(episodes))]
        seconds = {mode: min(_seconds(learner, few, mode, options) for _ in range(2)) for mode in modes}
        learner._modes[key] = min(seconds, key=lambda mode: seconds[mode])
    return learner._modes[key]


def _seconds(learner: Learner, episodes: Episodes, mode: str, options: Mapping[str, Any] | None) -> float:
    start = time.perf_counter()
    with torch.random.fork_rng([]):
        outputs = engine.predict_queries(learner, episodes, mode, **(options or {}))
    if first_tensor(outputs).device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def chance(split: TaskSplit, tasks: int = 200) -> float:
    """The accuracy of guessing: one in the way, on average over `tasks` where that is uneven; NaN without classes."""
    if not split.way:
        return math.nan
    if isinstance(split.options.get("way"), int):
        return 1.0 / split.way
    ways = [split.sample(1, seed=1, first=task).query.classes.sum() for task in range(tasks)]
    return float((1.0 / torch.stack(ways).double()).mean())
