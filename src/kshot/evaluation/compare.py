"""`compare`: learners at an equal budget of training time, on the same tasks."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kshot.artifacts.atomic import atomic_file, check_place
from kshot.errors import ConfigError, KshotError, RunError
from kshot.evaluation.comparison import Compared, Comparison, LeftOut
from kshot.evaluation.contestants import Choice, Contestant, build, contestants
from kshot.evaluation.costs import adaptation_cost
from kshot.evaluation.evaluate import evaluate, settings
from kshot.evaluation.scores import Progress
from kshot.evaluation.timed import train_for
from kshot.tasks.source import TaskSource
from kshot.training.step import resolve_device

FORMAT = 1
"""Raised when the same settings mean something else: results of before are then not taken over."""

TEST_SEED = 1
"""Of the test tasks, whatever the seed of the training: repetitions are scored on the same ones."""


@dataclass(frozen=True)
class Asked:
    """What a comparison was asked for; see `compare`."""

    budget_seconds: float
    tasks: int
    val_tasks: int
    backbone: Any
    training: dict[str, Any]
    device: str

    def __post_init__(self) -> None:
        if not 0 < self.budget_seconds < float("inf"):
            raise ConfigError(f"expected a budget of more than 0 seconds of training, got {self.budget_seconds:g}")
        for name in ("tasks", "val_tasks"):
            if getattr(self, name) < 2:
                raise ConfigError(f"expected {name} to be at least 2, for an interval, got {getattr(self, name)}")


def compare(source: TaskSource, learners: Sequence[Choice] | None = None, **asked: Any) -> Comparison:
    """Compares learners: all are trained for the same time and adapt to the same unseen tasks; printing gives a table.

    Each learner is made and trained with its own defaults, as `kshot train` would, on train tasks that suit what it is
    (`kshot.evaluation.contestants`), with one backbone and one schedule for all. Selection is on the same val tasks,
    scores are of the same test tasks. What counts as training time is said in `kshot.evaluation.timed`.

    Args:
        source: with train, val and test tasks; those of val and test are what is asked of every learner.
        learners: names, `"maml,inner_lr=0.4"`, or `{"name": "maml", "inner_lr": 0.4}`; by default all of kshot's own
            and `kshot.learners.variants` (`fomaml`, `maml++`, `headtuning`).
            `training.lr=0.01` and `train.way=20` are arguments of that learner's `Trainer` and options of its train
            tasks.
        budget_seconds: of training for each, 60 by default.
        tasks: test tasks, 600 by default.
        val_tasks: val tasks of a validation, 100 by default.
        seed: of initialisation and training, 0 by default. Test tasks are the same for every seed.
        backbone: a name or a section of a configuration; by default one that fits the data.
        training: arguments of every `Trainer`, in place of the defaults: `lr`, `meta_batch`, `schedule`, ...
        device: "auto" by default.
        out: a folder that keeps each learner's result when it is done, and the learner; what is there of the same
            settings is not done again.
        progress: called with (what, done, of).

    Raises:
        ConfigError: an unknown learner or option, a budget that is not positive, or fewer than two tasks.
        TooFewClassesError: the source has no train, val or test tasks.
        UnsupportedError: none of the learners can do the tasks, or all failed; the reasons are named.
        RunError: `out` cannot be written to.
    """
    found = list(iter_compare(source, learners, **asked))
    return Comparison.of(found, source)


def iter_compare(
    source: TaskSource,
    learners: Sequence[Choice] | None = None,
    *,
    budget_seconds: float = 60.0,
    tasks: int = 600,
    val_tasks: int = 100,
    seed: int = 0,
    backbone: Any = None,
    training: Mapping[str, Any] | None = None,
    device: str = "auto",
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Iterator[Compared | LeftOut]:
    """The results of a comparison, one learner after the other as they are done; arguments as for `compare`."""
    given = {"seed": seed, **(training or {})}
    asked = Asked(float(budget_seconds), tasks, given.pop("val_tasks", val_tasks), backbone, given, device)
    for name in ("train", "val", "test"):
        getattr(source, name)  # raises where there is none
    resolve_device(device)
    chosen = contestants(learners, backbone, asked.training)
    folder = None if out is None else Path(out).expanduser()
    if folder is not None:
        check_place(folder / "results" / "place")
    content = content_digest(source) if folder is not None else ""
    return _results(chosen, source, asked, folder, content, progress)


def _results(
    chosen: Sequence[Contestant],
    source: TaskSource,
    asked: Asked,
    folder: Path | None,
    content: str,
    progress: Progress | None,
) -> Iterator[Compared | LeftOut]:
    for one in chosen:
        kept = None if folder is None else folder / "results" / f"{place(one, source, asked, content)}.json"
        before = None if kept is None else read(kept)
        if before is not None:
            yield before
            continue
        try:
            found = _compared(one, source, asked, None if kept is None else kept.stem, folder, progress)
        except RunError:  # nothing can be kept, of the others neither
            raise
        except (KshotError, MemoryError, torch.OutOfMemoryError) as error:
            # What this machine has no room for must not cost the results of the others.
            why = str(error) if isinstance(error, KshotError) else f"{type(error).__name__}: {str(error).strip()}"
            yield LeftOut(one.label, re.sub(r"^this \w+ ", "", " ".join(why.split())))
            continue
        if kept is not None:
            atomic_file(kept, json.dumps(found.to_dict(), ensure_ascii=False) + "\n")
        yield found


def _compared(
    one: Contestant, source: TaskSource, asked: Asked, stem: str | None, folder: Path | None, progress: Progress | None
) -> Compared:
    def report(what: str, done: int, of: int) -> None:
        if progress is not None:
            progress(f"{one.label}: {what}", done, of)

    built = build(one, source, asked.backbone, asked.training)
    timed = train_for(asked.budget_seconds, built, val_tasks=asked.val_tasks, device=asked.device, progress=report)
    learner, train = built.learner, built.source.train
    score = evaluate(learner, source.test, asked.tasks, seed=TEST_SEED, baselines=False, progress=report)
    _ = score.interval  # raises where a score is not finite
    cost = adaptation_cost(learner, source.test, seed=TEST_SEED)
    if folder is not None and stem is not None:
        learner.save_pretrained(folder / "learners" / stem)
    config = built.config.to_dict()
    return Compared(
        label=one.label,
        metric=score.metric,
        scores=[float(value) for value in score.scores],
        transductive=score.transductive,
        seconds=timed.seconds,
        steps=timed.steps,
        best_step=timed.best_step,
        mode=timed.mode,
        curve=[{"seconds": point.seconds, "step": point.step, **point.score.to_dict()} for point in timed.curve],
        adapt_seconds=cost.seconds,
        task_bytes=cost.bytes,
        peak_bytes=timed.peak_bytes,
        parameters=sum(p.numel() for p in learner.parameters()),
        learner=config["learner"],
        backbone=config.get("backbone"),
        training={
            **{name: config["training"][name] for name in ("meta_batch", "optimizer", "lr", "schedule", "seed")},
            "train_tasks": dict(train.options),
        },
        settings={
            **settings(source.test, seed=TEST_SEED, tasks_count=asked.tasks),
            "budget_seconds": asked.budget_seconds,
            "val_tasks": asked.val_tasks,
            "device": str(next(learner.parameters(), torch.zeros(0)).device),
            "threads": torch.get_num_threads(),
        },
    )


def place(one: Contestant, source: TaskSource, asked: Asked, content: str) -> str:
    """The name under which a result is kept: another one where anything was asked for differently."""
    what = [
        FORMAT,
        asdict(one),
        asdict(asked),
        {name: split.options for name, split in source.splits.items()},
        content,
    ]
    text = json.dumps(what, sort_keys=True, default=str)
    name = re.sub(r"[^a-z0-9]+", "-", str(one.learner["name"]).lower())
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def content_digest(source: TaskSource) -> str:
    """A digest of the examples and class names of a source; of generated tasks, of what they are generated by."""
    digest = hashlib.sha256(json.dumps({**source.spec, "data_dir": None}, sort_keys=True, default=str).encode())
    hashed: dict[int, torch.Tensor] = {}  # splits mostly share one table of examples
    for name, split in sorted(source.splits.items()):
        if split.pool is not None:
            key = id(split.pool.x)
            hashed.setdefault(key, split.pool.example_hashes())
            digest.update(json.dumps([name, split.pool.names]).encode())
            rows = [split.pool.rows(c) for c in range(len(split.pool))]
            digest.update(hashed[key][torch.cat(rows)].numpy().tobytes() if rows else b"")
    return digest.hexdigest()


def read(path: Path) -> Compared | None:
    """A result that was kept; None where there is none that can be read."""
    try:
        return Compared(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
