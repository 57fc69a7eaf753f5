"""The steps of a pipeline: what goes into each, and what it does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from kshot.cli.choice import choose_learner, learner_section
from kshot.cli.deploying import asked_each_time, check_deploy, deploy, deploy_section, monitor
from kshot.cli.parts import RUN, learner_of, run_config, source_of
from kshot.cli.progress import progress
from kshot.cli.splits import identify
from kshot.cli.state import digest, write_json
from kshot.cli.walk import Context, Outcome, Step
from kshot.errors import DatasetNotFoundError

BASELINE = "baseline"
"""The folder of the conventional network in the project's."""


# ---------------------------------------------------------------- 1. define tasks


def define_tasks(context: Context) -> Outcome:
    from kshot import datasets, tasks

    asked = context.project.tasks
    name, path = identify(asked.data)
    if path is not None and not path.exists():
        if "/" not in asked.data and not path.suffix:
            datasets.entry(asked.data)  # raises, with the nearest name
        raise DatasetNotFoundError(f"there is no file or folder {path}: correct data: in the project's tasks")
    config = run_config(context)  # raises where the rest of the project says something unknown
    check_deploy(context)
    line = f"{asked.way}-way {asked.shot}-shot tasks with {asked.query} queries a class, made of {asked.data}"
    if name in tasks.SEQUENCES:
        line = f"sequences of the family {name}"
    elif name in tasks.FAMILIES:
        line = f"functions of the family {name}, {asked.shot} support and {asked.query} query points"
    return Outcome({"data": config.data.model_dump(exclude={"data_dir", "skip_bad"})}, line)


# ---------------------------------------------------------------- 2. gather data


def data_section(context: Context) -> Any:
    return [context.project.data.model_dump(), fingerprint(context)]


def fingerprint(context: Context) -> Any:
    """Names, sizes and times of the files that the data is read from."""
    from kshot import datasets, tasks

    name, path = identify(context.project.tasks.data)
    if name in tasks.GENERATED:
        return None
    if path is not None:
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    else:
        folder = datasets.resolve_data_dir(context.project.data.data_dir) / name
        files = [folder / n for f in datasets.entry(name).files for n in (f.name, *f.instead) if (folder / n).is_file()]
    return digest([[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files])


def gather_data(context: Context) -> Outcome:
    from kshot import datasets, tasks

    name, path = identify(context.project.tasks.data)
    data_dir = context.project.data.data_dir
    if path is None and name not in tasks.GENERATED and context.project.data.download:
        datasets.get(name, data_dir)
    source = source_of(context)
    found: dict[str, Any] = {"splits": {}, "content": {}, "bad_files": len(source.info.get("bad_files") or [])}
    for split, of in source.splits.items():
        if of.pool is not None:
            found["splits"][split] = {"classes": len(of.pool), "examples": of.pool.examples}
            rows = [of.pool.rows(c) for c in range(len(of.pool))]
            hashes = of.pool.example_hashes()
            found["content"][split] = digest(
                [[n, hashes[r].tolist()] for n, r in zip(of.pool.names, rows, strict=True)]
            )
    parts = [f"{split} {n['classes']:,} classes, {n['examples']:,} examples" for split, n in found["splits"].items()]
    bad = f"; {found['bad_files']} unreadable files left out" if found["bad_files"] else ""
    return Outcome(found, ("; ".join(parts) or f"{source.name} are generated, nothing to gather") + bad)


# ---------------------------------------------------------------- 4. train the baseline


def baseline_section(context: Context) -> Any:
    training = context.project.training
    budget = {key: training.get(key) for key in ("steps", "meta_batch", "accumulate")}
    return [context.project.baseline.model_dump(), context.project.backbone, budget]


def train_baseline(context: Context) -> Outcome:
    if not context.project.baseline.train:
        return Outcome({"trained": False}, "left out, as the project says")
    from kshot.evaluation import conventional_network
    from kshot.training.config import build_learner
    from kshot.training.step import count_examples

    source = source_of(context)
    config = run_config(context, context.results["learner"]["learner"])
    learner = build_learner(config, source)
    folder = (context.out / BASELINE).absolute()
    # Kept as the baselines of a run are, with the classes that it is trained on.
    classes = {name: list(split.pool.names) for name, split in source.splits.items() if split.pool is not None}
    write_json(folder / "splits.json", {"source": source.spec, **classes})
    # Uneven tasks have no fixed number of examples: the mean of some stands for it.
    sample = source.train.sample(32, seed=config.training.seed)
    tasks = config.training.steps * config.training.meta_batch * config.training.accumulate
    budget = round(count_examples(sample) / 32 * tasks)
    learner.provenance = {"source": source.spec, "examples": budget, "run": str(folder)}
    with progress() as report:
        found, notes = conventional_network(learner, source, progress=report)
    for note in notes:
        context.say(note)
    line = f"a network trained conventionally on {budget:,} examples, as many as the meta-training will see"
    key = str(found.info.get("key"))
    return Outcome({"trained": True, "examples": budget, "key": key}, line, [f"{BASELINE}/baselines"])


# ---------------------------------------------------------------- 5. meta-train


def train_section(context: Context) -> Any:
    return [context.project.backbone, {k: v for k, v in context.project.training.items() if k != "device"}]


def meta_train(context: Context) -> Outcome:
    from kshot.artifacts.learner import digest as learner_digest
    from kshot.training.config import build_trainer

    run = context.out / RUN
    if run.exists() and not context.resume:
        old = set_aside(run)
        context.say(f"the run of before is kept in {old}")
    config = run_config(context, context.results["learner"]["learner"])
    result = build_trainer(config, source=source_of(context), out=str(run), resume=context.resume).fit()
    kept = context.out / BASELINE / "baselines"
    if kept.is_dir() and not (run / "baselines").exists():
        shutil.copytree(kept, run / "baselines")  # where evaluations look for it
    val = None if result.val is None else float(result.val.mean)
    best = result.best_step
    found = {"learner": learner_digest(result.learner), "steps": result.steps, "best_step": best, "val": val}
    line = f"{result.steps:,} steps in {result.seconds:.0f} s; step {best} was selected on val tasks; in {run}"
    return Outcome(found, line, [f"{RUN}/learner"])


def set_aside(run: Path) -> Path:
    """Renames a run folder to the first free run.1, run.2, ..."""
    number = 1
    while (old := run.with_name(f"{run.name}.{number}")).exists():
        number += 1
    run.rename(old)
    return old


# ---------------------------------------------------------------- 6. validate


def evaluation_of(context: Context) -> Any:
    """The learner on unseen tasks; made again, with the same tasks, where only the report is."""
    from kshot.evaluation import evaluate

    if "evaluation" not in context.memory:
        asked = context.project.validate_
        learner, source = learner_of(context), source_of(context)
        with progress() as report:
            context.memory["evaluation"] = evaluate(
                learner,
                source.test,
                asked.tasks,
                seed=asked.seed,
                baselines=context.project.baseline.train,
                progress=report,
            )
    return context.memory["evaluation"]


def validate(context: Context) -> Outcome:
    found = evaluation_of(context)
    result = found.to_dict()
    write_json(context.out / "validation.json", result)
    for line in str(found).splitlines():
        context.say(line)
    kept = {"scores": digest([float(score) for score in found.scores]), "mean": float(found.interval.mean)}
    return Outcome(kept, f"written to {context.out / 'validation.json'}", ["validation.json"])


# ---------------------------------------------------------------- 7. report


def write_report(context: Context) -> Outcome:
    from kshot.evaluation import full_report

    asked = context.project.validate_
    with progress() as report:
        written = full_report(
            learner_of(context),
            source_of(context),
            context.out,
            tasks=asked.tasks,
            seed=asked.seed,
            evaluation=evaluation_of(context),
            baselines=context.project.baseline.train,
            with_stress=context.project.report.stress,
            progress=report,
        )
    advice = f"{written.audit.recommendation} " if written.audit is not None else ""
    return Outcome({"html": str(written.html)}, f"{advice}Open {written.html}", ["report.html", "report.json"])


STEPS = (
    Step("tasks", "Define tasks", lambda c: c.project.tasks.model_dump(), (), define_tasks),
    Step("data", "Gather data", data_section, ("tasks",), gather_data),
    Step("learner", "Choose the learner", learner_section, ("tasks", "data"), choose_learner),
    Step("baseline", "Train the baseline", baseline_section, ("tasks", "data", "learner"), train_baseline),
    Step("train", "Meta-train", train_section, ("tasks", "data", "learner"), meta_train),
    Step(
        "validate",
        "Validate on unseen tasks",
        lambda c: c.project.validate_.model_dump(),
        ("data", "baseline", "train"),
        validate,
    ),
    Step("report", "Report", lambda c: c.project.report.model_dump(), ("train", "validate"), write_report),
    Step("deploy", "Deploy", deploy_section, ("data", "train"), deploy),
    Step("monitor", "Monitor", lambda c: c.project.monitor.model_dump(), ("deploy",), monitor, asked_each_time),
)
