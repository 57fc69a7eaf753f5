"""How each baseline is run, in which settings it is tried, and which of them is chosen on val tasks."""

from __future__ import annotations

import contextlib
import copy
import queue
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from kshot import engine, metrics
from kshot.engine import FeatureCache
from kshot.episodes import Episodes
from kshot.errors import KshotError, UnsupportedError
from kshot.evaluation.conventional import Conventional, baseline_source, default_network, fresh_network
from kshot.evaluation.heads import FeatureHead, LinearProbe, MeanPredictor, NearestCentroid, Ridge
from kshot.evaluation.networks import FineTuned, FromScratch
from kshot.evaluation.scores import device_of, example_shape
from kshot.learners.base import Learner
from kshot.randomness import seeded
from kshot.tasks.source import TaskSource
from kshot.tasks.split import TaskSplit

SELECTION_TASKS = 12
_AT_ONCE = 16
"""Tasks of a chunk where every task has a network of its own."""

Grid = dict[float, tuple[int, ...]]
"""Numbers of steps to try, by learning rate."""

FINE_TUNING: dict[str, Grid] = {
    "classification": {0.001: (5, 10, 20), 0.0001: (5, 10, 20)},
    "regression": {0.01: (1, 5, 10, 30), 0.001: (5, 10, 30)},
}
SCRATCH: dict[str, Grid] = {
    "classification": {0.001: (10, 30), 0.01: (10, 30)},
    "regression": {0.01: (30, 100)},
}
PENALTIES = (0.01, 0.001, 0.1)


@dataclass
class Method:
    """A baseline in one setting, or in several numbers of steps at once.

    Attributes:
        learner: what runs it.
        options: of its `adapt`; `steps` may be several numbers.
        settings: how to call the choice.
        cache: of features, where it has some.
    """

    learner: Learner
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    cache: FeatureCache | None = None

    def scores(self, episodes: Episodes) -> Tensor:
        """Of every task, and of every number of steps: float64 `[tasks]` or `[steps, tasks]`."""
        episodes = episodes.widen(self.learner.way)
        mode = self.mode(episodes)
        if mode == "native":
            if self.cache is not None:
                with torch.no_grad():
                    self.cache(episodes)  # on all cores; what the head itself does is too small for more than one
            with _one_core():
                return self._scores(self.learner, episodes, mode)
        if mode == "loop" and episodes.device.type == "cpu":
            return self._side_by_side(episodes)
        with _one_core():
            return torch.cat([self._scores(self.learner, chunk, mode) for chunk in episodes.chunks(_AT_ONCE)], dim=-1)

    def _scores(self, learner: Learner, episodes: Episodes, mode: str) -> Tensor:
        outputs = engine.predict_queries(learner, episodes, mode, cache=self.cache, **self.options)
        if "steps" in self.options:
            outputs = outputs.movedim(1, 0)
        return metrics.score(outputs, episodes.query).cpu()

    def _side_by_side(self, episodes: Episodes) -> Tensor:
        """Tasks in a loop, a core each: a batch of a handful of examples is too small to be shared between cores.

        Every thread has a copy of the network, since a functional call swaps a module's parameters for its length.
        """
        with _one_core() as cores:  # threads that begin now take it over
            if cores == 1:
                return self._scores(self.learner, episodes, "loop")
            free: queue.SimpleQueue[Learner] = queue.SimpleQueue()
            for _ in range(cores):
                free.put(copy.deepcopy(self.learner))

            def work(chunk: Episodes) -> Tensor:
                learner = free.get()
                try:
                    return self._scores(learner, chunk, "loop")
                finally:
                    free.put(learner)

            with ThreadPoolExecutor(cores) as pool:
                return torch.cat(list(pool.map(work, episodes.chunks(2))), dim=-1)

    @property
    def device(self) -> torch.device:
        return device_of(self.learner)

    def mode(self, episodes: Episodes) -> str:
        """Per-task convolution weights are slow under vmap on a CPU (grouped convolutions); everything else gains."""
        if self.learner.native:
            return "native"
        convolutions = any(isinstance(m, nn.modules.conv._ConvNd) for m in self.learner.modules())
        return "loop" if convolutions and episodes.device.type == "cpu" else "vmap"

    def chosen(self, steps: int | None) -> Method:
        """The same with one number of steps."""
        if steps is None:
            return self
        return Method(self.learner, self.options | {"steps": (steps,)}, self.settings | {"steps": steps}, self.cache)


@contextlib.contextmanager
def _one_core() -> Iterator[int]:
    """Lets torch's operations use one core for the length of a block; yields how many they used before."""
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield cores
    finally:
        torch.set_num_threads(cores)


def methods(
    name: str, learner: Learner, split: TaskSplit, network: Conventional | None, episodes: Episodes
) -> list[Method]:
    """A baseline in every setting that is tried, the most ordinary one first; none where it needs what is not there.

    Raises:
        UnsupportedError: the learner's architecture cannot be trained so.
    """
    device, classification = device_of(learner), split.kind == "classification"
    if name == "ridge":
        return [Method(Ridge(), {"l2": l2}, {"l2": l2}) for l2 in (1.0, 0.1, 10.0)]
    if name == "mean":
        return [Method(MeanPredictor())]
    if name == "from_scratch":
        return _over(SCRATCH[split.kind], untrained(learner, split, episodes).to(device))
    if network is None:
        return []
    if name == "fine_tuned":
        own = network.network.backbone if classification else network.network
        return _over(FINE_TUNING[split.kind], FineTuned(own, classification, network.scale).to(device))
    kind: type[FeatureHead] = LinearProbe if name == "linear_probe" else NearestCentroid
    tried: list[dict[str, Any]] = [{"l2": l2} for l2 in PENALTIES] if name == "linear_probe" else [{}]
    heads = [kind(network.network.backbone, network.centre, network.scale, unit).to(device) for unit in (True, False)]
    cache = FeatureCache(heads[0])  # of the network's features, which is what all of them start from
    return [Method(head, options, {"unit_length": head.unit, **options}, cache) for head in heads for options in tried]


def _over(grid: Grid, learner: Learner) -> list[Method]:
    return [Method(learner, {"lr": lr, "steps": steps}, {"lr": lr}) for lr, steps in grid.items()]


def best_method(
    name: str,
    learner: Learner,
    split: TaskSplit,
    network: Conventional | None,
    *,
    seed: int = 1,
    settings: Mapping[str, Any] | None = None,
) -> Method | None:
    """A baseline in the setting that does best on val tasks like those of the split; None where it is not to be had.

    Args:
        settings: what was chosen before: it is not chosen again.
    """
    source, _ = baseline_source(learner, split)
    selection = selection_episodes(source, split, device_of(learner), seed)
    example = split.sample(1, seed=seed)
    way = max(example.way, 0 if selection is None else selection.way)
    selection = None if selection is None else selection.widen(way)
    try:
        candidates = methods(name, learner, split, network, example.widen(way))
    except UnsupportedError:
        return None
    for candidate in candidates if settings else ():
        assert settings is not None
        if candidate.settings.items() <= settings.items():
            return candidate.chosen(settings.get("steps"))
    return choose(candidates, selection, metrics.METRICS[split.kind]) if candidates else None


def untrained(learner: Learner, split: TaskSplit, episodes: Episodes) -> FromScratch:
    """The learner's architecture before any training; the field's usual one where that cannot be trained on a task."""
    classification = split.kind == "classification"

    def prepared(network: nn.Module) -> FromScratch:
        values = int(episodes.query.y.shape[-1])
        if classification:
            return FromScratch(network, episodes.way)
        return FromScratch(network, None if network.out_features == values else values, classification=False)

    with seeded(0):
        try:
            return prepared(fresh_network(learner, split))
        except UnsupportedError:  # batch statistics of a foreign kind
            return prepared(default_network(example_shape(split), regression=not classification))


def choose(candidates: Sequence[Method], selection: Episodes | None, metric: str) -> Method:
    """The candidate, and its number of steps, that is best on the selection tasks; without any, the first one."""
    first = candidates[0]
    steps = first.options.get("steps", (None,))
    if selection is None:
        return _uncached(first.chosen(steps[-1]))
    best, reached = first.chosen(steps[-1]), -float("inf")
    for candidate in candidates:
        steps = candidate.options.get("steps", (None,))
        means = candidate.scores(selection).reshape(len(steps), -1).mean(1)
        for count, mean in zip(steps, means.tolist(), strict=True):
            value = mean if metric == "accuracy" else -mean
            if value > reached:
                best, reached = candidate.chosen(count), value
    return _uncached(best)


def _uncached(method: Method) -> Method:
    """Val and test examples may come from different pools, which number them alike."""
    return method if method.cache is None else replace(method, cache=FeatureCache(method.learner))


def selection_episodes(
    source: TaskSource | None, like: TaskSplit, device: torch.device, seed: int, tasks: int = SELECTION_TASKS
) -> Episodes | None:
    """Val tasks that look like those of a split, as far as the val classes allow; None where there are none."""
    if source is None or "val" not in source.splits or source.kind != like.kind:
        return None
    val = source.val
    try:
        same = {
            name: value
            for name, value in like.options.items()
            if name in val.options or name in ("way", "shot", "query")
        }
        if like.kind == "classification" and isinstance(same.get("query"), int):
            same["query"] = min(same["query"], 5)  # enough to choose by
        val = val.replace(**(same if like.kind == "classification" else {"shot": like.shot, "query": like.query}))
    except KshotError:  # fewer or smaller classes than the test split: then its own way and shot
        pass
    return val.sample(tasks, seed=seed, device=None if device.type == "cpu" else device)
