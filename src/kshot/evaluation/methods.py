"""How each baseline is run, in which settings it is tried, and which of them is chosen on val tasks."""

from __future__ import annotations

import contextlib
import copy
import math
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
from kshot.evaluation.regressors import FineTunedRegressor, MeanPredictor, Ridge
from kshot.evaluation.scores import device_of, example_shape
from kshot.learners import FineTuning, JointTraining, LinearProbe, SimpleShot
from kshot.learners.base import Learner
from kshot.learners.conventional import ConventionalLearner
from kshot.models import Network
from kshot.randomness import seeded
from kshot.tasks.source import TaskSource
from kshot.tasks.split import TaskSplit

SELECTION_TASKS = 12
_AT_ONCE = 16
"""Tasks of a chunk where every task has a network of its own."""

PRETRAINED = frozenset({"fine_tuned", "linear_probe", "nearest_centroid"})
"""The baselines that stand on the conventional network."""

Settings = tuple[dict[str, Any], ...]


def _adam(*rates: tuple[float, tuple[int, ...]]) -> Settings:
    """Numbers of steps to try, by learning rate."""
    return tuple({"lr": lr, "steps": steps} for lr, numbers in rates for steps in numbers)


SETTINGS: dict[str, dict[str, Settings]] = {
    "classification": {
        "fine_tuned": _adam((0.001, (20, 10, 5)), (0.0001, (20, 10, 5))),
        "linear_probe": tuple({"normalise": n, "l2": l2} for n in ("cl2", "scale") for l2 in (0.01, 0.001, 0.1)),
        "nearest_centroid": ({"normalise": "cl2"}, {"normalise": "none"}),
        "from_scratch": _adam((0.001, (30, 10)), (0.01, (30, 10))),
    },
    "regression": {
        "fine_tuned": _adam((0.01, (30, 10, 5, 1)), (0.001, (30, 10, 5))),
        "from_scratch": _adam((0.01, (100, 30))),
        "ridge": ({"l2": 1.0}, {"l2": 0.1}, {"l2": 10.0}),
        "mean": ({},),
    },
}
"""What is tried of each baseline; the first is taken where there is nothing to choose by."""


@dataclass
class Method:
    """A baseline in one setting.

    Attributes:
        learner: what runs it, in eval mode.
        settings: what was chosen for it.
        cache: of features, where it has some.
    """

    learner: Learner
    settings: dict[str, Any] = field(default_factory=dict)
    cache: FeatureCache | None = None

    def scores(self, episodes: Episodes) -> Tensor:
        """Of every task: float64 `[tasks]`."""
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
            return torch.cat([self._scores(self.learner, chunk, mode) for chunk in episodes.chunks(_AT_ONCE)])

    def _scores(self, learner: Learner, episodes: Episodes, mode: str) -> Tensor:
        outputs = engine.predict_queries(learner, episodes, mode, cache=self.cache)
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
                return torch.cat(list(pool.map(work, episodes.chunks(2))))

    @property
    def device(self) -> torch.device:
        return device_of(self.learner)

    def mode(self, episodes: Episodes) -> str:
        """Per-task convolution weights are slow under vmap on a CPU (grouped convolutions); everything else gains."""
        if self.learner.native:
            return "native"
        convolutions = any(isinstance(m, nn.modules.conv._ConvNd) for m in self.learner.modules())
        return "loop" if convolutions and episodes.device.type == "cpu" else "vmap"


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
    if network is None and name in PRETRAINED:
        return []
    made = []
    for setting in SETTINGS[split.kind][name]:
        one = _make(name, setting, learner, split, network, episodes)
        made.append(Method(one.to(device_of(learner)).eval(), setting))
    if made[0].learner.native and made[0].learner.shares_features():
        # Heads on the network's features, which need to be computed once for all of them.
        cache = FeatureCache(made[0].learner)
        made = [replace(method, cache=cache) for method in made]
    return made


def _make(
    name: str,
    setting: Mapping[str, Any],
    learner: Learner,
    split: TaskSplit,
    network: Conventional | None,
    episodes: Episodes,
) -> Learner:
    if name == "ridge":
        return Ridge(**setting)
    if name == "mean":
        return MeanPredictor()
    if name == "from_scratch":
        return untrained(learner, split, episodes, **setting)
    assert network is not None
    if name == "fine_tuned" and split.kind == "regression":
        return FineTunedRegressor(network.network, **setting)
    kind = {"fine_tuned": FineTuning, "linear_probe": LinearProbe, "nearest_centroid": SimpleShot}[name]
    made: ConventionalLearner = kind(network.network.backbone, **setting)
    made.statistics = network.statistics
    return made


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
            return candidate
    return choose(candidates, selection, metrics.METRICS[split.kind]) if candidates else None


def untrained(learner: Learner, split: TaskSplit, episodes: Episodes, *, lr: float, steps: int) -> JointTraining:
    """The learner's architecture before any training; the field's usual one where that cannot be trained on a task."""
    classification = split.kind == "classification"

    def prepared(network: nn.Module) -> JointTraining:
        if classification:
            return JointTraining(network, episodes.way, steps, lr)
        values = int(episodes.query.y.shape[-1])
        return JointTraining(network if network.out_features == values else Network(network, values), None, steps, lr)

    with seeded(0):
        try:
            return prepared(fresh_network(learner, split))
        except UnsupportedError:  # batch statistics of a foreign kind
            return prepared(default_network(example_shape(split), regression=not classification))


def choose(candidates: Sequence[Method], selection: Episodes | None, metric: str) -> Method:
    """The candidate that is best on the selection tasks; without any, the first one."""
    if selection is None or len(candidates) == 1:
        return _uncached(candidates[0])

    def worth(candidate: Method) -> float:
        mean = float(candidate.scores(selection).mean())
        if math.isnan(mean):  # it diverged
            return -math.inf
        return mean if metric == "accuracy" else -mean

    # Of those that are equally good the quickest: what adapting costs is compared, too.
    return _uncached(max(candidates, key=lambda candidate: (worth(candidate), -candidate.settings.get("steps", 0))))


def _uncached(method: Method) -> Method:
    """Val and test examples may come from different pools, which number them alike."""
    return method if method.cache is None else replace(method, cache=FeatureCache(method.learner))


def selection_episodes(source: TaskSource | None, like: TaskSplit, device: torch.device, seed: int) -> Episodes | None:
    """`SELECTION_TASKS` val tasks that look like those of a split, as far as the val classes allow; None where there
    are none."""
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
    return val.sample(SELECTION_TASKS, seed=seed, device=None if device.type == "cpu" else device)
