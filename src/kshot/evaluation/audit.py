"""The audit: what a single number on unseen tasks does not show.

Meta-overfitting (training tasks much better than unseen ones), memorisation (predictions that do not come from the
support), negative transfer (tasks on which a baseline is better), and what more training classes would gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from kshot.engine import FeatureCache
from kshot.episodes import Episodes
from kshot.errors import KshotError
from kshot.evaluation.baselines import Baseline
from kshot.evaluation.evaluate import Evaluation
from kshot.evaluation.scaling import Scaling
from kshot.evaluation.scores import chance, score_tasks
from kshot.evaluation.subsets import rolled_labels
from kshot.evaluation.text import columns, number, show, title
from kshot.learners.base import Learner
from kshot.metrics import METRICS, PERCENT, Interval, difference, interval, paired_difference
from kshot.tasks.source import TaskSource
from kshot.tasks.split import TaskSplit
from kshot.tasks.unlabeled import UNLABELED_OPTIONS, Unlabelling

SURE = 3.29 / 1.96
"""Half-widths of a 95% interval that make one of 99.9%: an alarm has to be rare where nothing is wrong, and of two
probes at 95% one in twenty would ring."""


@dataclass(frozen=True)
class Probe:
    """A question about memorisation.

    Attributes:
        name: of the probe.
        score: what was measured.
        expected: in words.
        passed: whether the measurement agrees with it.
        meaning: what that says, a sentence.
    """

    name: str
    score: Interval
    expected: str
    passed: bool
    meaning: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "score": self.score.to_dict(),
            "expected": self.expected,
            "passed": self.passed,
            "meaning": self.meaning,
        }


@dataclass
class Audit:
    """What the audit found.

    Attributes:
        metric: `"accuracy"`, `"mse"` or `"bit_error"`.
        splits: the score on tasks of `train`, `val` and `test` classes, all of the test tasks' way, shot and query.
        gap: how much better training tasks go than unseen ones; positive is overfitting, whichever the metric.
        verdict: what the gap says, a sentence.
        probes: of memorisation.
        transfer: by baseline: the share of the tasks on which it is better, and by how much the learner is on average.
        recommendation: what to use, a sentence or two.
        scaling: the score over the number and the diversity of training classes, where that was asked for.
        notes: what a reader has to know.
    """

    metric: str
    splits: dict[str, Interval]
    gap: Interval | None
    verdict: str
    probes: list[Probe]
    transfer: dict[str, dict[str, Any]]
    recommendation: str
    scaling: Scaling | None = None
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "splits": {name: value.to_dict() for name, value in self.splits.items()},
            "gap": None if self.gap is None else self.gap.to_dict(),
            "verdict": self.verdict,
            "probes": [probe.to_dict() for probe in self.probes],
            "transfer": self.transfer,
            "recommendation": self.recommendation,
            "scaling": None if self.scaling is None else self.scaling.to_dict(),
            "notes": self.notes,
        }

    def __str__(self) -> str:
        rows = [["tasks of", title(self.metric)]]
        rows += [[f"{name} classes", show(value, self.metric)] for name, value in self.splits.items()]
        lines = [*columns(rows), self.verdict]
        if self.probes:
            rows = [["probe", title(self.metric), "expected", ""]]
            rows += [
                [p.name, show(p.score, self.metric), p.expected, "as expected" if p.passed else "NOT AS EXPECTED"]
                for p in self.probes
            ]
            lines += ["", *columns(rows), *(p.meaning for p in self.probes if not p.passed)]
        if self.transfer:
            rows = [["baseline", "better on"]]
            rows += [[name, f"{100 * entry['wins']:.0f}% of tasks"] for name, entry in self.transfer.items()]
            lines += ["", *columns(rows)]
        lines += ["", self.recommendation]
        if self.scaling is not None:
            lines += ["", str(self.scaling)]
        return "\n".join([*lines, *(f"Note: {note}." for note in self.notes)])


def audit(
    learner: Learner,
    source: TaskSource,
    *,
    split: TaskSplit | None = None,
    tasks: int = 200,
    seed: int = 1,
    evaluation: Evaluation | None = None,
    scaling: Scaling | None = None,
    caches: dict[int, FeatureCache] | None = None,
) -> Audit:
    """Audits a learner.

    Args:
        source: what it was trained on, for its training and validation tasks.
        split: the unseen tasks; by default `source.test`.
        tasks: for each measurement.
        seed: of the tasks.
        evaluation: of the learner on `split`, with baselines; for the negative transfer.
        scaling: see `kshot.evaluation.scale`, which retrains the learner.
        caches: of the learner's features, by `id` of the pool's examples; see `kshot.evaluation.cache_for`.
    """
    unseen = source.test if split is None else split
    metric = METRICS[unseen.kind]
    caches = {} if caches is None else caches
    notes: list[str] = []
    scores = {}
    for name in ("train", "val", "test"):
        part = unseen if name == "test" else _alike(source, name, unseen, notes)
        if part is not None:
            scores[name] = score_tasks(learner, part, tasks, seed=seed, cache=cache_for(caches, learner, part))
    gap = None
    if "train" in scores:
        gap = (
            difference(scores["train"], scores["test"])
            if metric == "accuracy"
            else difference(scores["test"], scores["train"])
        )
    transfer = {b.label: {"wins": b.wins, "learner_better_by": b.advantage.to_dict()} for b in _baselines(evaluation)}
    return Audit(
        metric=metric,
        splits={name: interval(values) for name, values in scores.items()},
        gap=gap,
        verdict=_verdict(gap, metric),
        probes=memorisation(learner, unseen, tasks=tasks, seed=seed, cache=cache_for(caches, learner, unseen)),
        transfer=transfer,
        recommendation=recommend(_baselines(evaluation), metric),
        scaling=scaling,
        notes=notes,
    )


def cache_for(caches: dict[int, FeatureCache], learner: Learner, split: TaskSplit) -> FeatureCache:
    """The learner's features on a split's pool, shared by splits that share their examples and by no others."""
    key = 0 if split.pool is None else split.pool.x.data_ptr()
    return caches.setdefault(key, FeatureCache(learner))


def memorisation(
    learner: Learner, split: TaskSplit, *, tasks: int = 200, seed: int = 1, cache: FeatureCache | None = None
) -> list[Probe]:
    """Whether predictions come from the support at all.

    Without support a classifier can only guess. With the support's labels permuted its predictions have to follow the
    permutation: as good as before against the permuted labels. A learner of functions or sequences gets another task's
    support instead and has to do worse for it.
    """
    metric = METRICS[split.kind]
    arguments: dict[str, Any] = {"seed": seed, "cache": FeatureCache(learner) if cache is None else cache}
    usual = score_tasks(learner, split, tasks, **arguments)
    if metric != "accuracy":
        swapped = score_tasks(learner, split, tasks, change=swap_support, **arguments)
        worse = paired_difference(swapped, usual)
        return [
            Probe(
                "another task's support",
                interval(swapped),
                f"worse than {number(float(usual.mean()), metric)}",
                worse.low > 0,
                "Predictions do not depend on which task the support is of: the learner answers from memory."
                if worse.low <= 0
                else "Predictions depend on the support.",
            )
        ]
    without = interval(score_tasks(learner, split, tasks, change=empty_support, **arguments))
    guess = chance(split)
    permuted = score_tasks(learner, split, tasks, change=permute_labels, **arguments)
    follow = paired_difference(usual, permuted)
    ignored = without.mean - max(SURE * without.half_width, 0.01) > guess
    followed = follow.mean - max(SURE * follow.half_width, 0.01) <= 0
    return [
        Probe(
            "no support",
            without,
            f"chance, {100 * guess:.1f}",
            not ignored,
            "It does better than chance without any support: something tells it the labels, or tasks are all alike."
            if ignored
            else "Without support it can only guess.",
        ),
        Probe(
            "permuted labels",
            interval(permuted),
            f"as without, {100 * float(usual.mean()):.1f}",
            followed,
            "Predictions follow the support's labels."
            if followed
            else "Predictions do not follow the permuted labels: it knows these classes, or prefers some labels.",
        ),
    ]


def empty_support(episodes: Episodes) -> Episodes:
    """The same tasks with every support example masked, its label and input gone, and nothing unlabelled either."""
    episodes = episodes.without_unlabeled()
    old = episodes.support
    support = replace(old.map(torch.zeros_like), classes=old.classes, padded=True)
    ids = None if episodes.support_ids is None else torch.full_like(episodes.support_ids, -1)
    return replace(episodes, support=support, support_ids=ids)


def permute_labels(episodes: Episodes) -> Episodes:
    """The same tasks with the classes renamed, in support and query alike: every class gets another's label."""
    return replace(episodes, support=rolled_labels(episodes.support), query=rolled_labels(episodes.query))


def swap_support(episodes: Episodes) -> Episodes:
    """Each task with the support of the one before."""
    return replace(episodes, support=episodes.support.map(lambda t: t.roll(1, 0))).without_ids()


def recommend(baselines: Sequence[Baseline], metric: str, often: float = 0.2) -> str:
    """What to use, from the paired comparisons: a sentence or two.

    Args:
        often: share of the tasks from which on lost ones are worth a word.
    """
    if not baselines:
        return "No baselines were run beside the learner: nothing can be said about when it is better not to use it."
    best = min(baselines, key=lambda b: b.advantage.mean)
    by = (
        f"{100 * abs(best.advantage.mean):.1f} points"
        if metric in PERCENT
        else f"an MSE of {abs(best.advantage.mean):.3g}"
    )
    share = f"{100 * best.wins:.0f}% of the tasks"
    if best.advantage.high < 0:
        return (
            f"Do not use this learner here: '{best.label}' is better by {by} on average, on {share}. "
            "Train the learner longer or on more classes, or use that baseline."
        )
    if best.advantage.low <= 0:
        return (
            f"No measurable difference to '{best.label}' on {len(best.scores)} tasks (it is better on {share}): "
            "use whichever is cheaper, or evaluate on more tasks."
        )
    if best.wins >= often:
        return (
            f"Use the learner: on average it is better than every baseline, than '{best.label}' by {by}. But that one "
            f"is better on {share}: where labels allow it, hold some out and compare both on the task at hand."
        )
    return (
        f"Use the learner: it is better than every baseline, than '{best.label}', the best of them, by {by}; "
        f"that one is better on {share}."
    )


def _alike(source: TaskSource, name: str, like: TaskSplit, notes: list[str]) -> TaskSplit | None:
    """A split of the source with the way, shot and query of another one."""
    if name not in source.splits:
        return None
    split = source.splits[name]
    try:
        if like.kind == "regression":
            return split.replace(shot=like.shot, query=like.query)
        if like.kind == "sequence":
            return split.replace(**like.options)
        asked = {key: value for key, value in like.options.items() if key in ("way", "shot", "query")}
        # Unlabelled examples as there, too. Where only a share of the training examples is labelled, all are used here.
        default = Unlabelling()
        for key in UNLABELED_OPTIONS:
            if key in like.options or key in split.options:
                asked[key] = like.options.get(key, getattr(default, key))
        if "augment" in split.options:
            asked["augment"] = None  # the unseen tasks show images as they are
        if split.has_labels:
            return split.replace(**asked)
        # How much better seen classes go than unseen ones is told by true classes, whatever the learner was trained on.
        asked.pop("augment", None)
        return split.replace(labels="given", **asked)
    except KshotError as error:
        notes.append(f"{name} tasks left out, their classes do not allow such tasks ({error})")
        return None


def _verdict(gap: Interval | None, metric: str) -> str:
    if gap is None:
        return "There are no training tasks to compare the unseen ones with."
    shown = show(gap, metric, sign=True) + (" points" if metric in PERCENT else "")
    if gap.low <= 0:
        return f"Training tasks are not measurably better than unseen ones ({shown}): no sign of meta-overfitting."
    large = gap.mean > 0.05 if metric in PERCENT else True
    if large:
        more = "More training classes would help most."
        return f"Training tasks are better than unseen ones by {shown}: meta-overfitting. {more}"
    return f"Training tasks are better than unseen ones by {shown}: a small gap."


def _baselines(evaluation: Evaluation | None) -> list[Baseline]:
    return [] if evaluation is None else list(evaluation.baselines.values())
