"""`kshot quickstart`: the first five minutes. A model learns to learn, is measured, and is taught a task from files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kshot.cli import settings
from kshot.cli.handling import RESUME
from kshot.cli.options import examples
from kshot.cli.output import Output
from kshot.cli.progress import progress

if TYPE_CHECKING:
    from kshot.evaluation import Evaluation
    from kshot.learners.base import Learner
    from kshot.tasks.source import TaskSource

EXAMPLES = examples("kshot quickstart", "kshot quickstart --fast --out runs/try      # a smaller one, to see it work")

TASKS, BASELINE_TASKS, DIGITS_TASKS = 600, 100, 200
FAST = 50
"""A fast one has that much fewer outer steps, and as many fewer tasks within reason."""


def command(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option(help="The run folder; a finished one is kept, and the next free name taken.")
    ] = Path("runs/quickstart"),
    config: Annotated[str, typer.Option(help="What to train: a YAML file, or a shipped configuration.")] = "quickstart",
    fast: Annotated[bool, typer.Option("--fast", help="A fraction of the training and of the tasks.")] = False,
) -> None:
    """Watch a model learn to learn: train, compare on unseen tasks, teach it a new one from files. Offline, minutes."""
    output = Output()
    out, resume = place(out)
    context.meta[RESUME] = " ".join(
        [
            f"kshot quickstart --out {out}",
            *(["--fast"] if fast else []),
            *([f"--config {config}"] * (config != "quickstart")),
        ]
    )
    began = time.perf_counter()

    def headline(text: str) -> None:
        minutes, seconds = divmod(int(time.perf_counter() - began), 60)
        output.say(f"\n[{minutes}:{seconds:02d}] {text}")

    resolved = settings.read(config)
    if fast:
        training = resolved["training"]
        steps = max(4, training["steps"] // FAST)
        resolved["training"] = {**training, "steps": steps, "val_every": None, "val_tasks": 20}
    resolved["out"] = str(out)

    headline("1. Meta-training: learning to tell characters apart from one example each.")
    learner, source = meta_train(resolved, output, resume=resume)

    headline("2. On scripts that it has never seen, beside what one would do without meta-learning.")
    evaluation = compare(learner, source, output, fast=fast)

    headline("3. The same learner, not trained any further, on real handwriting: scikit-learn's digits.")
    try_digits(learner, output, fast=fast)

    headline("4. A task taught from files: a folder with one picture of each character, then new pictures.")
    teach(out, source, output)

    headline("5. The report.")
    report = write_report(learner, source, out, evaluation, fast=fast)
    output.say(f"Open {report}: scores and intervals, baselines, which tasks are hard, how many labels it saves.")
    output.say("Next:")
    for what, does in (
        (f"kshot adapt {out} --support MY_FOLDER/", "your own characters: a folder with a subfolder per class"),
        ("kshot train --data MY_IMAGES/ --way 5 --shot 1", "a learner for your own kind of images"),
        ("kshot init && kshot pipeline", "all of it as a project, step by step"),
    ):
        output.say(f"  {what.ljust(48)}  {does}")
    minutes, seconds = divmod(int(time.perf_counter() - began), 60)
    output.say(f"Done in {minutes} min {seconds} s.")


def place(out: Path) -> tuple[Path, bool]:
    """The run folder, and whether a quickstart that was interrupted there is taken up; a finished one is left alone."""
    number, free = 1, out
    while (free / "report.html").is_file():
        number += 1
        free = out.with_name(f"{out.name}-{number}")
    return free, (free / "checkpoints").is_dir()


def meta_train(resolved: dict[str, Any], output: Output, *, resume: bool) -> tuple[Learner, TaskSource]:
    """Trains what the configuration describes."""
    from kshot.training.config import build_source, build_trainer, parse_config

    config = parse_config(resolved, "the quickstart's configuration")
    source = build_source(config)
    trainer = build_trainer(config, source=source, resume=resume)
    name = type(trainer.learner).__name__
    for split, what in (("train", "to learn from"), ("val", "to select on"), ("test", "never seen until step 2")):
        pool = source.splits[split].pool
        of = scripts_of((source.info.get("scripts") or {}).get(split))
        if pool is not None:
            output.say(f"  {split}: {len(pool):,} characters{of}, {pool.examples:,} pictures: {what}")
    steps = config.training.steps
    output.say(f"  {name}, {steps:,} steps; in each it has to tell {source.train.way} characters apart.")
    result = trainer.fit()
    selected = "" if result.val is None else f"; on val tasks {100 * float(result.val.mean):.1f}% of the pictures right"
    output.say(f"  {result.examples:,} pictures in {result.seconds:.0f} s{selected}. Saved in {config.out}/learner.")
    return result.learner, source


def scripts_of(counts: dict[str, int] | None) -> str:
    """The scripts that most of a split's characters are of."""
    total = sum((counts or {}).values())
    main = [name.title() for name, n in sorted((counts or {}).items(), key=lambda pair: -pair[1]) if n > total / 20]
    return f" of {' and '.join(main)} script" if main else ""


def compare(learner: Learner, source: TaskSource, output: Output, *, fast: bool) -> Evaluation:
    """Scores beside all baselines, on the same episodes."""
    from kshot.evaluation import evaluate

    output.say("  The baselines' network gets the same pictures, as many of them, and ordinary training.")
    with progress() as report:
        found = evaluate(
            learner,
            source.test,
            40 if fast else TASKS,
            baselines=("linear_probe", "nearest_centroid") if fast else True,
            baseline_tasks=4 if fast else BASELINE_TASKS,
            progress=report,
        )
    _indented(output, str(found))
    return found


def try_digits(learner: Learner, output: Output, *, fast: bool) -> None:
    """Scores on the real digits."""
    from kshot.cli.splits import unseen_tasks
    from kshot.evaluation import evaluate

    split = unseen_tasks(learner, "digits", way=5, shot=1, query=15)
    with progress() as report:
        found = evaluate(
            learner,
            split,
            20 if fast else DIGITS_TASKS,
            baselines=("linear_probe", "nearest_centroid"),
            baseline_tasks=4 if fast else BASELINE_TASKS,
            progress=report,
        )
    _indented(output, str(found))


def teach(out: Path, source: TaskSource, output: Output) -> None:
    """What `kshot adapt` and `kshot predict` do, on pictures of unseen characters."""
    from kshot.artifacts import from_pretrained, load_adapted
    from kshot.cli.adapt import adapt_files
    from kshot.cli.example_files import write_task
    from kshot.cli.predict import lines, predict_files

    pool = source.test.pool
    if pool is None or not pool.is_image or pool.x.shape[1] != 1:
        output.say("  Left out: this configuration's data are no drawings to write files of.")
        return
    folder, task = out / "task", out / "task.safetensors"
    files = write_task(pool, folder, way=5, shot=1, query=3)
    output.say(f"  $ kshot adapt {out} --support {folder}/support --out {task}")
    began = time.perf_counter()
    model = adapt_files(from_pretrained(out), folder / "support")
    model.save(task)
    spent = 1000 * (time.perf_counter() - began)
    output.say(f"  adapted to {len(model.labels)} classes in {spent:.0f} ms, loading included")
    output.say(f"  $ kshot predict {task} {folder}/new/*.png")
    rows = predict_files(load_adapted(task), files)
    shown = lines([{**row, "file": Path(row["file"]).name} for row in rows], 2)
    right = 0
    for row, line in zip(rows, shown, strict=True):
        correct = Path(row["file"]).stem.rpartition("-")[0] == row["label"]
        right += correct
        output.say(f"    {'right' if correct else 'wrong'}  {line}")
    output.say(f"  {right} of {len(rows)} right, from one example of each class.")


def write_report(learner: Learner, source: TaskSource, out: Path, evaluation: Evaluation, *, fast: bool) -> Path:
    """The HTML report of the run."""
    from dataclasses import replace

    from kshot.evaluation import BUDGETS, full_report

    budget = BUDGETS["quick"]
    if fast:
        budget = replace(budget, measure_tasks=10, shots=(1, 2), ceiling=(200, 5), baseline_tasks=4)
    with progress() as report:
        written = full_report(learner, source, out, budget=budget, evaluation=evaluation, progress=report)
    assert written.html is not None
    return written.html


def _indented(output: Output, text: str) -> None:
    for line in text.splitlines():
        output.say(f"  {line}".rstrip())
