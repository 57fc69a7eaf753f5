"""Runs a reproduction: trains what its configuration says, measures its rows, keeps the result beside the published
numbers."""

from __future__ import annotations

import datetime
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from kshot.artifacts import from_pretrained
from kshot.artifacts.atomic import atomic_file
from kshot.errors import KshotError
from kshot.evaluation.measures import Measured, measure
from kshot.evaluation.reproduction_spec import FOLDER, Row, Specification, load
from kshot.evaluation.scores import device_of
from kshot.learners.base import Learner, count_parameters
from kshot.metrics import LOWER_IS_BETTER
from kshot.tasks.source import TaskSource
from kshot.training.config import build_learner, build_source, build_trainer
from kshot.training.environment import environment
from kshot.training.schema import RunConfig
from kshot.training.step import resolve_device

UNTRAINED_TASKS = 200
"""The most tasks that an untrained network is measured on: enough to tell 20 points."""

Say = Callable[[str], None]


@dataclass
class Outcome:
    """One row, measured.

    Attributes:
        setting, published, interval: as in the row.
        ours: percent, or a squared error as it is.
        half_width: of its 95% interval over tasks.
        tasks: how many.
        metric: `"accuracy"`, `"mse"`, `"bit_error"`, `"nll"` or `"points"` (a difference).
        goal: in words.
        reached: None where there is nothing to be reached.
        transductive: whether predictions depended on the other queries.
        untrained: the same of the learner untrained, where the goal asks for it, on the first `UNTRAINED_TASKS` tasks.
    """

    setting: str
    published: float | None
    interval: float | None
    ours: float
    half_width: float | None
    tasks: int
    metric: str
    goal: str
    reached: bool | None
    transductive: bool
    untrained: float | None = None


@dataclass
class Result:
    """A reproduction's rows, and what it took.

    Attributes:
        name, title, paper, profile, digest, seed: what was run.
        outcomes: its rows.
        training: seconds, steps, meta_batch, best_step, examples; parameters of the learner; engine mode; environment;
            before, the seconds of the reproductions that it uses.
        paper_budget, differs: what the paper trained for, and what else is not as there.
        environment: versions, machine, commit, of the measurement; those of the training are in
            `training["environment"]`.
        date: when it was finished.
        measuring: seconds of the measurement; None where they were not taken.
        log: file of the training's metrics, beside the result.
    """

    name: str
    title: str
    paper: str
    profile: str
    digest: str
    seed: int
    outcomes: list[Outcome]
    training: dict[str, Any]
    paper_budget: str
    differs: str
    environment: dict[str, Any]
    date: str
    measuring: float | None = None
    log: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Result:
        known = {field.name for field in fields(Outcome)}
        outcomes = [Outcome(**{k: v for k, v in one.items() if k in known}) for one in content["outcomes"]]
        return cls(**{**content, "outcomes": outcomes})


def reproduce(
    specification: Specification | str,
    profile: str = "cpu",
    *,
    seed: int | None = None,
    out: str | Path = "runs/reproduce",
    results: str | Path = FOLDER,
    data_dir: str | Path | None = None,
    device: str = "auto",
    tasks: int | None = None,
    say: Say = print,
) -> Result:
    """Trains (or takes up, or finds trained) what a reproduction describes, measures it, and keeps the result.

    Args:
        specification: a committed one's name, or one of your own.
        profile: the budget, `"cpu"` or `"full"`.
        seed: in place of the configuration's.
        out: of the run folders, one for each configuration: a run that was broken off goes on.
        results: where `NAME.PROFILE.json` and the log of the training are kept.
        data_dir: where local copies of the data lie.
        device: to train on.
        tasks: to measure on, in place of each row's number: to try it out, nothing is kept.
        say: is told what is being done.

    Raises:
        ConfigError: no such reproduction or profile.
        KshotError: the data is not there, or the training failed.
    """
    spec = load(specification) if isinstance(specification, str) else specification
    config = spec.run_config(profile, seed)
    digest = spec.digest(profile, seed)
    learner, source, training = trained(spec, profile, seed, out=out, data_dir=data_dir, device=device, say=say)
    outcomes, elsewhere, begin = [], 0.0, time.perf_counter()
    for row in spec.rows_of(profile):
        other = None
        if row.against is not None:
            say(f"{row.setting}: against {row.against}")
            before = time.perf_counter()
            other = trained(load(row.against), profile, seed, out=out, data_dir=data_dir, device=device, say=say)[0]
            elsewhere += time.perf_counter() - before
        found = measure(learner, source, row, tasks or row.count, other)
        untrained = None
        if row.above_untrained is not None:
            few = min(tasks or row.count, UNTRAINED_TASKS)
            untrained = measure(_untrained(config, source, learner), source, row, few, None)
        outcomes.append(judge(row, found, untrained))
        say(f"{spec.title}, {row.setting}: {_show(outcomes[-1])}")
    result = Result(
        name=spec.name,
        title=spec.title,
        paper=spec.paper,
        profile=profile,
        digest=digest,
        seed=config.training.seed,
        outcomes=outcomes,
        training=training,
        paper_budget=spec.paper_budget,
        differs=spec.differs,
        environment=_environment(device_of(learner)),
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        measuring=round(time.perf_counter() - begin - elsewhere, 1),
    )
    if tasks is not None:
        return result
    stem = result_stem(spec, profile, seed)
    folder = Path(results)
    folder.mkdir(parents=True, exist_ok=True)
    metrics = run_folder(spec if spec.like is None else load(spec.like), profile, seed, out) / "metrics.jsonl"
    if metrics.is_file():
        result.log = f"{stem}.metrics.jsonl"
        shutil.copyfile(metrics, folder / result.log)
    atomic_file(folder / f"{stem}.json", json.dumps(result.to_dict(), indent=1) + "\n")
    return result


def trained(
    spec: Specification,
    profile: str,
    seed: int | None,
    *,
    out: str | Path,
    data_dir: str | Path | None = None,
    device: str = "auto",
    say: Say = print,
) -> tuple[Learner, TaskSource, dict[str, Any]]:
    """The learner of a reproduction, trained now where it is not yet; its tasks; and what the training took."""
    if spec.like is not None:
        other = load(spec.like)
        like, _, took = trained(other, profile, seed, out=out, data_dir=data_dir, device=device, say=say)
        config = spec.run_config(profile, seed)
        source = build_source(config, data_dir)
        learner = _untrained(config, source, like)
        learner.load_state_dict(like.state_dict())
        return learner, source, {**took, "seconds": 0.0, "before": took["seconds"] + took.get("before", 0.0)}
    folders, before = {}, 0.0
    for name in spec.uses.values():
        other = load(name)
        _, _, took = trained(other, profile, seed, out=out, data_dir=data_dir, device=device, say=say)
        before += took["seconds"] + took.get("before", 0.0)
        folders[name] = str(run_folder(other, profile, seed, out))
    config = spec.run_config(profile, seed, folders)
    source = build_source(config, data_dir)
    folder = run_folder(spec, profile, seed, out)
    done = folder / "training.json"
    if done.is_file():
        say(f"{spec.name}: trained already, in {folder}")
        learner = from_pretrained(folder).to(resolve_device(device))
        return learner, source, json.loads(done.read_text(encoding="utf-8"))
    say(f"{spec.name}: {config.training.steps} steps, in {folder}")
    learner = build_learner(config, source)
    result = build_trainer(config, learner, source, out=str(folder), resume=True, device=device).fit()
    training = {
        "seconds": round(result.seconds, 1),
        "steps": result.steps,
        "best_step": result.best_step,
        "meta_batch": config.training.meta_batch,
        "examples": result.examples,
        "parameters": count_parameters(learner),
        "mode": result.mode,
        "val": None if result.val is None else result.val.to_dict(),
        "environment": _environment(device_of(learner)),
        **({"before": round(before, 1)} if before else {}),
    }
    atomic_file(done, json.dumps(training, indent=1) + "\n")
    return learner, source, training


def run_folder(spec: Specification, profile: str, seed: int | None, out: str | Path) -> Path:
    """Where a reproduction trains: another configuration, another folder."""
    return Path(out) / f"{spec.name}-{profile}-{spec.digest(profile, seed, rows=False)}"


def result_stem(spec: Specification, profile: str, seed: int | None) -> str:
    """The name of a result, without its ending; another seed than the configuration's is part of it."""
    return f"{spec.name}.{profile}" + ("" if seed is None else f".seed{seed}")


def read_result(spec: Specification, profile: str, results: str | Path, seed: int | None = None) -> Result | None:
    """The kept result, or None.

    Raises:
        KshotError: the file is not one of a result.
    """
    path = Path(results) / f"{result_stem(spec, profile, seed)}.json"
    if not path.is_file():
        return None
    try:
        return Result.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise KshotError(f"{path} is not the result of a reproduction ({error}): remove it and run it again") from error


def judge(row: Row, found: Measured, untrained: Measured | None) -> Outcome:
    """A measured row beside what it should reach."""
    ours, half = found.percent
    one = Outcome(
        setting=row.setting,
        published=row.published,
        interval=row.interval,
        ours=ours,
        half_width=half,
        tasks=found.interval.n,
        metric=found.metric,
        goal="",
        reached=None,
        transductive=found.transductive,
        untrained=None if untrained is None else untrained.percent[0],
    )
    return judged(row, one)


def judged(row: Row, one: Outcome) -> Outcome:
    """An outcome beside what its row says by now, whatever that was when it was measured."""
    ours, half = one.ours, one.half_width or 0.0
    difference = row.measure in ("unlabelled", "against")  # more is better
    sign = -1 if one.metric in LOWER_IS_BETTER and not difference else 1
    goal, reached = "", None
    if row.above_untrained is not None and one.untrained is not None:
        goal = f"{row.above_untrained:g} points above untrained ({one.untrained:.1f})"
        reached = sign * (ours - one.untrained) >= row.above_untrained
    elif row.within is not None and row.published is not None:
        goal = f"within {row.within:g} points"
        reached = sign * (ours - row.published) >= -row.within
    elif row.at_least is not None:
        goal = f"above {row.at_least:g}, with its interval" if difference else f"at least {row.at_least:g}"
        # A difference has to be told from that number: its whole interval lies above.
        reached = ours - half > row.at_least if difference else ours >= row.at_least
    elif row.at_most is not None:
        goal = f"at most {row.at_most:g}"
        reached = ours <= row.at_most
    elif row.published is not None:
        goal = "published, inside its interval" if row.interval is not None else "published, within our interval"
        reached = sign * (ours - row.published) >= -(half if row.interval is None else row.interval)
    return replace(one, published=row.published, interval=row.interval, goal=goal, reached=reached)


def _environment(device: torch.device) -> dict[str, Any]:
    return {key: value for key, value in environment(device).items() if key != "command"}


def _untrained(config: RunConfig, source: TaskSource, like: Learner) -> Learner:
    learner = build_learner(config, source).eval()
    learner.transform, learner.provenance = like.transform, like.provenance
    parameter = next(like.parameters(), None)
    return learner if parameter is None else learner.to(parameter.device)


def _show(one: Outcome) -> str:
    published = "" if one.published is None else f", published {one.published:g}"
    verdict = "" if one.reached is None else f", {one.goal}: {'reached' if one.reached else 'not reached'}"
    return f"{one.ours:.2f} ± {one.half_width:.2f}{published}{verdict}"
