"""`evaluate`: a learner's score on unseen tasks with its interval, and the baselines on the same episodes."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kshot import metrics
from kshot.engine import FeatureCache
from kshot.episodes import concatenate
from kshot.errors import ConfigError, UnsupportedError, suggest
from kshot.evaluation.baselines import NO_BASELINES, Baseline, check_names, run_baselines
from kshot.evaluation.scores import Progress, Scores, chance, device_of, iter_scores
from kshot.evaluation.text import columns, show, title
from kshot.evaluation.unseen import unseen_split
from kshot.functional import mask_logits
from kshot.learners.base import Learner
from kshot.metrics import METRICS, Calibration, Interval, interval
from kshot.tasks.split import TaskSplit
from kshot.tasks.unlabeled import UNLABELED_OPTIONS
from kshot.training.step import resolve_device


@dataclass
class Evaluation:
    """What an evaluation found; printing it gives a table.

    Attributes:
        learner: the learner's name.
        metric: `"accuracy"`, of which more is better; `"mse"` or `"bit_error"`, of which less is.
        scores: of each task, float64 `[T]`.
        class_ids: classes of each task, indices into `class_names`, `[T, way]`, -1 where there is none.
        class_names: of the split that was evaluated on.
        transductive: whether a prediction may depend on the other queries.
        baselines: by name, on the first tasks.
        calibration: of the class probabilities.
        settings: data, split, way, shot, query, seed, adapt options, engine mode: what it takes to repeat it.
        notes: what a reader has to know besides.
        seconds: spent on the learner's scores, sampling included.
    """

    learner: str
    metric: str
    scores: Tensor
    class_ids: Tensor
    class_names: tuple[str, ...]
    transductive: bool
    baselines: dict[str, Baseline] = field(default_factory=dict)
    calibration: Calibration | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def interval(self) -> Interval:
        """The mean score with its 95% interval over tasks."""
        return interval(self.scores)

    @property
    def per_task(self) -> list[dict[str, Any]]:
        """The score and the class names of each task."""
        return [{"score": float(score), "classes": self.names_of(t)} for t, score in enumerate(self.scores)]

    def names_of(self, task: int) -> list[str]:
        """The names of a task's classes."""
        return [self.class_names[c] for c in self.class_ids[task].tolist() if 0 <= c < len(self.class_names)]

    def to_dict(self, per_task: bool = False) -> dict[str, Any]:
        """JSON-able: everything, with `per_task` also the tasks one by one."""
        result: dict[str, Any] = {
            "learner": self.learner,
            "metric": self.metric,
            **self.interval.to_dict(),
            "transductive": self.transductive,
            "baselines": {name: baseline.to_dict(per_task) for name, baseline in self.baselines.items()},
            "settings": self.settings,
            "notes": self.notes,
            "seconds": self.seconds,
        }
        if self.calibration is not None:
            result["calibration"] = {
                "expected_calibration_error": self.calibration.error,
                "confidence": list(self.calibration.confidence),
                "accuracy": list(self.calibration.accuracy),
                "count": list(self.calibration.count),
            }
        if per_task:
            result["per_task"] = self.per_task
        return result

    def __str__(self) -> str:
        asked = self.settings
        lines = [f"{self.learner} on {len(self.scores):,} unseen tasks of {asked['data']} ({asked['tasks']})", ""]
        first = next(iter(self.baselines.values()), None)
        name = f"{self.learner}, transductive" if self.transductive else self.learner
        rows = [["", title(self.metric)], [name, show(self.interval, self.metric)]]
        if first is not None:
            rows[0] += [f"first {len(first.scores)} tasks", "learner better by"]
            rows[1] += [show(interval(self.scores[: len(first.scores)]), self.metric), ""]
            for baseline in self.baselines.values():
                rows.append(
                    [
                        baseline.label,
                        "",
                        show(interval(baseline.scores), self.metric),
                        show(baseline.advantage, self.metric, sign=True),
                    ]
                )
        lines += columns(rows)
        lines += ["", "± is half of the 95% interval over tasks; other training seeds vary on top of it."]
        if self.transductive:
            lines.append(
                "Transductive: predictions depend on the other queries; not comparable with inductive numbers."
            )
        if self.metric == "accuracy":
            lines.append(f"Guessing: {100 * asked['chance']:.2f}.")
        if self.metric == "bit_error":
            lines.append("Guessing: 50, of bits that are as often one as zero.")
        if self.calibration is not None:
            lines.append(f"Expected calibration error: {100 * self.calibration.error:.2f} points.")
        lines += [f"Note: {note}." for note in self.notes]
        return "\n".join(lines)


def evaluate(
    learner: Learner,
    split: TaskSplit,
    tasks: int = 1000,
    *,
    seed: int = 1,
    baselines: bool | Sequence[str] = True,
    baseline_tasks: int = 100,
    batch: int | None = None,
    mode: str = "auto",
    device: str | torch.device | None = None,
    options: Mapping[str, Any] | None = None,
    allow_seen: bool = False,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Scores a learner on unseen tasks, beside the baselines on the first of the same episodes.

    The baselines are what a user would do without meta-learning, from the learner's own training classes: a network
    trained on them conventionally, at the budget that the learner had, then fine-tuned, probed, or used for nearest
    centroids; and training from scratch. Their settings are chosen on `val` tasks. The network is trained once and kept
    in the learner's run.

    Args:
        learner: left as it is, and put back into its mode.
        split: `source.test` usually. On the learner's own data its run's recorded test classes are used; on other data,
            classes whose content the learner has seen are refused.
        tasks: how many; the interval shrinks with their square root.
        seed: of the tasks.
        baselines: all of them, none, or some by name (`kshot.evaluation.BASELINES`).
        baseline_tasks: on how many of the first tasks they run.
        batch: tasks at once; by default what fits.
        mode: engine mode; `"auto"` takes the fastest for predicting.
        device: by default the learner's; on another device a copy of it is evaluated.
        options: of the learner's `adapt`, `{"steps": 10}` say.
        allow_seen: score classes that the learner has seen, too, with a note that says so.
        cache: features of the learner computed before, on the same pool.
        progress: called with (what, done, of).

    Raises:
        OverlappingSplitsError: the learner has seen classes of the split.
        UnsupportedError: it cannot do tasks of this kind, way or shape, or does not take the options.
        ConfigError: fewer than two tasks, or an unknown baseline.
    """
    if tasks < 2:
        raise ConfigError(f"expected at least 2 tasks for an interval, got {tasks}")
    names = check_names(baselines, split.kind)
    here, there = device_of(learner), device_of(learner) if device is None else resolve_device(device)
    if there.type != here.type or there.index not in (None, here.index):
        learner, cache = copy.deepcopy(learner).to(there), None
    split, notes = unseen_split(learner, split, allow_seen=allow_seen)
    start = time.perf_counter()
    values, ids, kept, confident = [], [], [], []
    reserved = min(tasks, baseline_tasks) if names else 0
    chosen = mode
    for scores in iter_scores(
        learner, split, tasks, seed=seed, batch=batch, mode=mode, cache=cache, options=check_options(learner, options)
    ):
        values.append(scores.values)
        chosen = scores.mode
        ids.append(scores.episodes.class_ids.cpu())
        if scores.first < reserved:
            kept.append(scores.episodes[: reserved - scores.first])
        if learner.outputs == "logits":
            confident.append(_confidence(scores))
        if progress is not None:
            progress("unseen tasks", scores.first + len(scores.values), tasks)
    seconds = time.perf_counter() - start
    result = Evaluation(
        learner=type(learner).__name__,
        metric=METRICS[split.kind],
        scores=torch.cat(values),
        class_ids=torch.cat(ids),
        class_names=split.pool.names if split.pool is not None and split.has_labels else (),
        transductive=learner.transductive,
        calibration=_calibration(confident),
        settings=settings(split, seed=seed, options=options, mode=chosen) | {"tasks_count": tasks},
        notes=notes,
        seconds=seconds,
    )
    if baselines and not names:
        result.notes.append(f"no baselines: {NO_BASELINES[split.kind]}")
    if names:
        found, more = run_baselines(
            learner,
            split,
            concatenate(kept) if len(kept) > 1 else kept[0],
            result.scores[:reserved],
            names,
            seed=seed,
            progress=progress,
        )
        result.baselines.update(found)
        result.notes += more
    return result


def settings(split: TaskSplit, **others: Any) -> dict[str, Any]:
    """What tasks were sampled, JSON-able."""
    if split.kind == "regression":
        tasks = f"{split.name}, {split.shot} support and {split.query} query points"
    elif split.kind == "sequence":
        tasks = ", ".join([split.name, *(f"{name} {_span(value)}" for name, value in split.options.items())])
    elif "max_support" in split.options:
        tasks = f"{split.name}, Meta-Dataset's sampling, up to {split.way}-way"
    else:
        way, shot, query = (_span(split.options.get(name, getattr(split, name))) for name in ("way", "shot", "query"))
        tasks = f"{split.name}, {way}-way {shot}-shot, {query} queries a class"
    extra = {name: split.options[name] for name in UNLABELED_OPTIONS if split.options.get(name)}
    if "unlabeled" in extra:
        tasks += f", {extra['unlabeled']} unlabelled"
        tasks += f", {extra['distractors']} distractor classes" if "distractors" in extra else ""
    return {
        "data": split._source.name if split._source is not None else "unnamed data",
        "tasks": tasks,
        "split": split.name,
        "way": split.way,
        "shot": split.shot,
        "query": split.query,
        **extra,
        "chance": chance(split) if split.way else None,
        "source": split._source.spec if split._source is not None else {},
        **{name: dict(value) if isinstance(value, Mapping) else value for name, value in others.items()},
    }


def _span(value: Any) -> str:
    return f"{value[0]} to {value[-1]}" if isinstance(value, (tuple, list)) else str(value)


def check_options(learner: Learner, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options of `adapt`, as they are.

    Raises:
        UnsupportedError: one that the learner does not take.
    """
    for name in options or {}:
        if name not in learner.adapt_options:
            known = learner.adapt_options
            hint = suggest(name, known) if known else "It takes none."
            raise UnsupportedError(f"{type(learner).__name__}.adapt takes no option {name!r}. {hint}")
    return dict(options or {})


def _calibration(parts: list[tuple[Tensor, Tensor]]) -> Calibration | None:
    if not parts:
        return None
    return metrics.calibration_of(torch.cat([c for c, _ in parts]), torch.cat([right for _, right in parts]))


def _confidence(scores: Scores) -> tuple[Tensor, Tensor]:
    """Of every real query: the probability of the class that was predicted, and whether it was right."""
    query = scores.episodes.query
    confidence, predicted = mask_logits(scores.outputs, query.classes).softmax(-1).max(-1)
    return confidence[query.mask].cpu(), (predicted == query.y)[query.mask].cpu()
