"""What is known of a model before any tenant's task: how confident it may be, and how far queries lie from a support
that they belong to. Measured once on tasks of classes that it was not trained on, and kept in the database."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kshot import engine
from kshot.engine.fits import check_support_size
from kshot.episodes import Episodes
from kshot.errors import ConfigError, DataError, KshotError, UnsupportedError
from kshot.functional import mask_logits, squared_distance
from kshot.serving.served import ServedModel
from kshot.tasks.split import TaskSplit

TASKS = 150
SHOTS = (1, 2, 5, 10)
TARGET = 0.95
"""The share of right answers, among those that are given, that the threshold is set for."""


def calibrate(model: ServedModel, split: TaskSplit, tasks: int = TASKS, seed: int = 0) -> dict[str, Any]:
    """Temperature, threshold and distances on a split's tasks of several shots, on which all three depend.

    Args:
        model: whose adapter does it.
        split: of classes that it was not trained on: `val`.
        tasks: how many of each shot; half of them set the temperature, the other half the threshold.
        seed: of the tasks.
    """
    found: dict[str, Any] = {"tasks": tasks, "split": split.name, "target": TARGET, "shots": {}}
    for shot in SHOTS:
        try:
            check_support_size(model.learner, split.way * shot)
            found["shots"][str(shot)] = _calibrate(model, split.replace(shot=shot), tasks, seed)
        except (DataError, UnsupportedError, ConfigError):
            continue  # classes with fewer examples, a learner of shorter supports, tasks of no single shot
    return found


def _calibrate(model: ServedModel, split: TaskSplit, tasks: int, seed: int) -> dict[str, Any]:
    logits: list[Tensor] = []
    targets: list[Tensor] = []
    far: list[Tensor] = []
    references: list[float] = []
    for start in range(0, tasks, 25):
        episodes = split.sample(min(25, tasks - start), seed=seed, first=start)
        found, right, distances, spreads = _measure(model, episodes)
        logits, targets = [*logits, *found], [*targets, *right]
        far, references = [*far, *distances], [*references, *spreads]
    half = max(1, len(logits) // 2)
    temperature = fit_temperature(torch.cat(logits[:half]), torch.cat(targets[:half]))
    probabilities = (torch.cat(logits[-half:]) / temperature).softmax(-1)
    confidence, predicted = probabilities.max(-1)
    correct = predicted == torch.cat(targets[-half:])
    return {
        "temperature": temperature,
        "threshold": fit_threshold(confidence, correct),
        "accuracy": float(correct.double().mean()),
        "drift": fit_distances(far, references),
    }


@torch.no_grad()
def _measure(model: ServedModel, episodes: Episodes) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[float]]:
    """Of real queries, task by task: logits, targets, distances to the support, and what its examples say of these."""
    learner = model.adapter
    outputs = engine.predict_queries(learner, episodes, engine.stacked_mode(learner))
    outputs = mask_logits(outputs, episodes.query.classes)
    featured = engine.with_features(learner, episodes)
    logits, targets, far, references = [], [], [], []
    for t in range(len(episodes)):
        support, query = featured[t].support, featured[t].query
        logits.append(outputs[t][query.mask])
        targets.append(query.y[query.mask])
        inside = support.x[support.mask].flatten(1)  # type: ignore[index]
        far.append(log_distances(query.x[query.mask].flatten(1), inside))  # type: ignore[index]
        references.append(reference(inside, support.y[support.mask]))
    return logits, targets, far, references


def fit_distances(far: Sequence[Tensor], references: Sequence[float]) -> dict[str, float]:
    """How far queries lie from the supports that they belong to: `mean + slope * reference`, by least squares, and what
    they vary by around it.

    Args:
        far: task by task the logarithms of its queries' distances.
        references: of each task (`reference`).
    """
    means = torch.stack([one.double().mean() for one in far])
    known = torch.tensor(references, dtype=torch.float64)
    varies = float(known.var()) if len(known) > 2 else 0.0
    slope = max(0.0, float(((known - known.mean()) * (means - means.mean())).sum())) / (len(known) - 1)
    slope = slope / varies if varies > 0 else 0.0
    left = means - slope * known
    within = float(torch.stack([one.double().var() for one in far]).mean())
    queries = sum(len(one) for one in far) / len(far)
    spread = float((left - left.mean()).square().sum()) / max(1, len(left) - (2 if slope else 1))
    return {
        "mean": float(left.mean()),
        "slope": slope,
        "within": within,
        # What the means vary by beyond what so many queries make of one mean.
        "between": max(0.0, spread - within / queries),
    }


def log_distances(x: Tensor, support: Tensor) -> Tensor:
    """The logarithm of each example's distance to the nearest support example, `[n]`."""
    return squared_distance(x, support).min(-1).values.clamp(min=1e-12).log() / 2


def reference(support: Tensor, y: Tensor) -> float:
    """The mean of the same over the support examples that have another of their class, each to the nearest of these; 0
    where none has. A support whose classes vary much is one whose queries lie far."""
    between = squared_distance(support, support)
    between = between.masked_fill(y.unsqueeze(0) != y.unsqueeze(1), math.inf).fill_diagonal_(math.inf)
    near = between.min(-1).values
    near = near[near < math.inf]
    return float((near.clamp(min=1e-12).log() / 2).mean()) if len(near) else 0.0


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature whose softmax has the least cross entropy (Guo et al. 2017, sec. 4.2): convex in its inverse, so
    that a golden-section search over its logarithm finds it."""
    low, high, ratio = math.log(0.02), math.log(50.0), (math.sqrt(5) - 1) / 2

    def loss(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / math.exp(log_temperature), targets))

    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = loss(a), loss(b)
    for _ in range(40):
        if at_a < at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = loss(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = loss(b)
    return math.exp((low + high) / 2)


def fit_threshold(confidence: Tensor, right: Tensor, target: float = TARGET) -> float:
    """The lowest confidence above which a share of `target` is right; that above which all are, where there is none."""
    order = confidence.argsort(descending=True)
    shares = right[order].double().cumsum(0) / torch.arange(1, len(order) + 1)
    enough = (shares >= target).nonzero()
    return float(confidence[order[int(enough[-1])]]) if len(enough) else float(confidence.max())


def calibration_of(model: ServedModel, tasks: int = TASKS) -> tuple[dict[str, Any], str]:
    """What `calibrate` finds on the val tasks of what a model was trained on; or nothing, and why."""
    from kshot.tasks import load

    spec = model.learner.provenance.get("source")
    if not isinstance(spec, dict) or "name_or_path" not in spec:
        return {}, "what it was trained on is not recorded"
    try:
        source = load(**spec)
        if "val" not in source.splits:
            return {}, "its data has no val classes"
        return calibrate(model, source.splits["val"], tasks), ""
    except KshotError as error:
        return {}, f"its data cannot be loaded ({error})"
