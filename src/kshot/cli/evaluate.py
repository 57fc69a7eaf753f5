"""`kshot evaluate`: a learner on unseen tasks, beside the baselines on the same episodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kshot.cli.options import DataDir, Device, Json, Query, Shot, SkipBad, Way, examples
from kshot.cli.output import Output
from kshot.cli.progress import progress

if TYPE_CHECKING:
    from kshot.learners.base import Learner
    from kshot.tasks.split import TaskSplit

EXAMPLES = examples(
    "kshot evaluate runs/mine                            # the run's own test classes, which it has never seen",
    "kshot evaluate runs/mine --data my_images/ --json",
    "kshot evaluate characters --data digits --way 10 --shot 5 --tasks 200",
)


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, a saved learner, or a shipped one.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="A registered dataset, or the path of a folder, zip or CSV; by default what the run was trained on.",
            show_default=False,
        ),
    ] = None,
    way: Way = None,
    shot: Shot = None,
    query: Query = None,
    tasks: Annotated[int, typer.Option(min=2, help="Unseen tasks to evaluate on.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the tasks.")] = 1,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Inner-loop steps, of a learner that takes any.", show_default=False)
    ] = None,
    norm: Annotated[
        str | None,
        typer.Option(
            help="support: norm layers see the support alone (inductive); batch: the queries, too (transductive). Of a "
            "learner that adapts a whole network (MAML, Reptile, ...); by default as it was trained.",
            show_default=False,
        ),
    ] = None,
    stress: Annotated[bool, typer.Option("--stress", help="Also label noise, corruption, imbalance.")] = False,
    instances: Annotated[
        bool,
        typer.Option(
            "--instances",
            help="Also the accuracy at a class's 1st, 2nd, ... example, each asked before its label is seen, of a "
            "learner that reads its support (MANN, LSTMLearner).",
        ),
    ] = False,
    runs: Annotated[
        list[str] | None, typer.Option(help="With --stress: runs with other seeds, for the spread.")
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines/--no-baselines",
            help="Beside the ordinary methods. A run's first time trains their conventional network, once, for as many "
            "examples as the learner saw.",
        ),
    ] = True,
    allow_seen: Annotated[
        bool, typer.Option("--allow-seen", help="Score classes that the learner has seen, too, and say so.")
    ] = False,
    device: Device = None,
    data_dir: DataDir = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Evaluate a learner on unseen tasks: the score with its 95% interval, and the baselines on the same episodes."""
    output = Output(as_json)
    with output.alone(), progress() as report:
        from kshot.artifacts import from_pretrained
        from kshot.cli.splits import unseen_tasks
        from kshot.evaluation import by_instance, evaluate, recommend, unseen_split
        from kshot.evaluation import stress as run_stress
        from kshot.evaluation.instances import answers_while_it_reads
        from kshot.evaluation.text import show
        from kshot.metrics import interval

        learner = from_pretrained(run)
        where = place(device)
        learner = learner if where is None else learner.to(where)
        learner = learner if norm is None else with_norm(learner, norm)
        if instances:
            answers_while_it_reads(learner)  # told now, not after an evaluation that would be lost
        split = unseen_tasks(learner, data, way=way, shot=shot, query=query, data_dir=data_dir, skip_bad=skip_bad)
        found = evaluate(
            learner,
            split,
            tasks,
            seed=seed,
            baselines=baselines,
            options={} if steps is None else {"steps": steps},
            allow_seen=allow_seen,
            progress=report,
        )
        output.say(str(found))
        if found.baselines:
            output.say(recommend(list(found.baselines.values()), found.metric))
        result = found.to_dict()
        if norm is not None:
            result["norm"] = norm
        if instances:
            each = by_instance(learner, split, tasks, seed=seed, allow_seen=allow_seen).T
            found_at = [interval(values) for values in each]
            output.say("\nAccuracy at a class's example, before its label is seen:")
            output.table(["example", "accuracy %"], [[i, show(one, "accuracy")] for i, one in enumerate(found_at, 1)])
            result["by_instance"] = [one.to_dict() for one in found_at]
        if stress:
            tested, _ = unseen_split(learner, split, allow_seen=allow_seen)
            tried = run_stress(learner, tested, tasks=min(tasks, 200), seed=seed, runs=runs or (), progress=report)
            output.say(f"\n{tried}")
            result["stress"] = tried.to_dict()
        kept = keep(run, split, result)
        if kept is not None:
            output.say(f"Kept in {kept}.")
        output.result(result)


def keep(run: str, split: TaskSplit, result: dict[str, Any]) -> Path | None:
    """Writes an evaluation into its run, as `evaluation-DATA-WAYway-SHOTshot.json`; None where there is no run.

    One that was asked for differently (fewer tasks, without baselines) is never written over: the new one is numbered.
    """
    from kshot.cli.state import write_json

    folder = Path(run)
    if not (folder / "config.yaml").is_file():
        return None
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in split.source.name)
    unit = "steps" if split.kind == "sequence" else "points"
    tasks = f"{split.way}way-{split.shot}shot" if split.way else f"{split.shot}{unit}"
    stem, number = f"evaluation-{name}-{tasks}", 1
    path = folder / f"{stem}.json"
    while path.exists() and _asked(path.read_text(encoding="utf-8")) != _asked(json.dumps(result)):
        number += 1
        path = folder / f"{stem}-{number}.json"
    write_json(path, result)
    return path


def _asked(text: str) -> Any:
    """What an evaluation, in JSON, was asked for: the same again gives the same."""
    try:
        result = json.loads(text)
    except ValueError:
        return None
    if not isinstance(result, dict):
        return None
    return (
        result.get("settings"),
        result.get("n"),
        sorted(result.get("baselines", ())),
        "stress" in result,
        "by_instance" in result,
        result.get("norm"),
    )


def with_norm(learner: Learner, norm: str) -> Learner:
    """A learner that predicts with this kind of statistics.

    Raises:
        UnsupportedError: there is no such kind, or the learner has no choice.
    """
    from kshot.errors import UnsupportedError
    from kshot.learners.gradient import GradientLearner

    if norm not in ("support", "batch"):
        raise UnsupportedError(f"expected --norm to be support or batch, got {norm!r}")
    if not isinstance(learner, GradientLearner) or not learner.network.batch_statistics:
        raise UnsupportedError(
            f"this {type(learner).__name__} has no batch normalisation whose statistics could be others: leave out "
            "--norm, which is of learners that adapt a whole network (MAML, Reptile, ...) with norm layers"
        )
    return learner.with_norm(norm)  # type: ignore[arg-type]


def place(device: str | None) -> str | None:
    """A device by the name that a user gives it; None (where the learner is) for none given."""
    if device is None:
        return None
    from kshot.training.step import resolve_device

    return str(resolve_device(device))
