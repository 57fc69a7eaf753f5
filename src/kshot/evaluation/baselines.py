"""What a user would do without meta-learning, on the same episodes as the learner.

Every baseline's settings are chosen on `val` tasks of the learner's own data, before it sees a test task.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kshot.episodes import Episodes
from kshot.errors import ConfigError, UnsupportedError, suggest
from kshot.evaluation.conventional import baseline_source, conventional_network
from kshot.evaluation.methods import PRETRAINED, choose, methods, selection_episodes
from kshot.evaluation.scores import Progress, device_of
from kshot.learners.base import Learner
from kshot.metrics import METRICS, Interval, interval, paired_difference
from kshot.tasks.split import TaskSplit

BASELINES: dict[str, dict[str, str]] = {
    "classification": {
        "fine_tuned": "conventional network, fine-tuned",
        "linear_probe": "linear probe on its features",
        "nearest_centroid": "nearest centroid on its features",
        "from_scratch": "training from scratch",
    },
    "regression": {
        "fine_tuned": "network pretrained on all tasks, fine-tuned",
        "from_scratch": "training from scratch",
        "ridge": "ridge regression",
        "mean": "mean of the support",
    },
    "sequence": {},
}
"""The baselines of each kind of task, and what they are called in reports."""

NO_BASELINES = {
    "sequence": "the ordinary methods learn from labelled examples, and a sequence has none. Compare with another "
    "learner of sequences (an NTM with slots=0 is a plain LSTM)"
}
"""Why a kind of task has none."""


@dataclass
class Baseline:
    """A baseline's scores.

    Attributes:
        name, label: key of `BASELINES`, and what it is called.
        metric: `"accuracy"`, `"mse"` or `"bit_error"`.
        scores: float64 `[tasks]`.
        advantage: how much better the learner is on the same tasks; positive is better, whichever the metric.
        wins: share of the tasks on which the baseline is better than the learner.
        settings: what was chosen on `val` tasks.
        seconds: to adapt to a task and predict its queries.
    """

    name: str
    label: str
    metric: str
    scores: Tensor
    advantage: Interval
    wins: float
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self, per_task: bool = False) -> dict[str, Any]:
        """JSON-able."""
        result = {
            "label": self.label,
            **interval(self.scores).to_dict(),
            "learner_better_by": self.advantage.to_dict(),
            "wins": self.wins,
            "settings": self.settings,
            "seconds_per_task": self.seconds,
        }
        return result | {"per_task": self.scores.tolist()} if per_task else result


def check_names(baselines: bool | str | Sequence[str], kind: str) -> list[str]:
    """The names of the baselines asked for.

    Raises:
        ConfigError: one that tasks of this kind do not have.
    """
    known = BASELINES[kind]
    if isinstance(baselines, bool):
        return list(known) if baselines else []
    names = [baselines] if isinstance(baselines, str) else list(baselines)
    if names and kind in NO_BASELINES:
        raise ConfigError(
            f"expected no baselines for tasks of kind {kind}, got {', '.join(names)}: {NO_BASELINES[kind]}"
        )
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown baseline {name!r} for {kind}. {suggest(str(name), known)}")
    return [name for name in known if name in names]


def run_baselines(
    learner: Learner,
    split: TaskSplit,
    episodes: Episodes,
    scores: Tensor,
    names: Iterable[str],
    *,
    seed: int = 1,
    progress: Progress | None = None,
) -> tuple[dict[str, Baseline], list[str]]:
    """Runs baselines on episodes, the settings of each chosen on `val` tasks.

    Args:
        learner: that they stand beside.
        split: that the episodes come from.
        episodes: raw inputs.
        scores: the learner's, of the same episodes.
        names: keys of `BASELINES`.

    Returns:
        The baselines by name, and notes on what was left out.
    """
    names, metric = list(names), METRICS[split.kind]
    source, notes = baseline_source(learner, split)
    network = None
    if source is not None and "train" in source.splits and PRETRAINED & set(names):
        network, more = conventional_network(learner, source, progress=progress)
        notes += more
    selection = selection_episodes(source, split, device_of(learner), seed)
    if selection is None:
        notes.append("without val tasks, the baselines' settings were not chosen but fixed beforehand")
    else:
        way = max(episodes.way, selection.way)
        episodes, selection = episodes.widen(way), selection.widen(way)
    found: dict[str, Baseline] = {}
    for done, name in enumerate(names):
        if progress is not None:
            progress("baselines", done, len(names))
        try:
            candidates = methods(name, learner, split, network, episodes)
        except UnsupportedError as error:
            notes.append(f"{BASELINES[split.kind][name]} left out: {error}")
            continue
        if not candidates:
            continue
        method = choose(candidates, selection, metric)
        start = time.perf_counter()
        own = method.scores(episodes)
        found[name] = compare(
            name, split.kind, scores, own, method.settings, (time.perf_counter() - start) / len(episodes)
        )
    if progress is not None:
        progress("baselines", len(names), len(names))
    return found, notes


def compare(
    name: str, kind: str, learner: Tensor, baseline: Tensor, settings: Mapping[str, Any], seconds: float
) -> Baseline:
    """A baseline's scores beside the learner's, of the same tasks."""
    metric = METRICS[kind]
    better, worse = (learner, baseline) if metric == "accuracy" else (baseline, learner)
    return Baseline(
        name=name,
        label=BASELINES[kind][name],
        metric=metric,
        scores=baseline,
        advantage=paired_difference(better, worse),
        wins=float((worse > better).to(torch.float64).mean()),
        settings=dict(settings),
        seconds=seconds,
    )
