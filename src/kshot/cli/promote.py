"""`kshot promote`: a refined learner takes the place of the served one, if it is better and has not forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kshot.cli.options import Json, examples
from kshot.cli.output import Output
from kshot.errors import ConfigError, RunError

EXAMPLES = examples(
    "kshot promote runs/next --over runs/mine --data asked/               # only says whether it may",
    "kshot promote runs/next --over runs/mine --data asked/ --name mine --database sqlite:///kshot.db",
    "kshot promote runs/mine --back --name mine --database sqlite:///kshot.db     # the old one again",
)


def command(
    candidate: Annotated[str, typer.Argument(metavar="CANDIDATE", help="The run that is to be served.")],
    over: Annotated[str | None, typer.Option(help="The run that is served now.", show_default=False)] = None,
    data: Annotated[
        str | None,
        typer.Option(help="What was asked of late (kshot data from-server): its test classes.", show_default=False),
    ] = None,
    back: Annotated[
        bool, typer.Option("--back", help="CANDIDATE was served before, and is again: nothing is compared.")
    ] = False,
    tasks: Annotated[int, typer.Option(min=2, help="Unseen tasks of each kind.")] = 600,
    way: Annotated[
        int | None, typer.Option(min=2, help="Classes a task; as the served run's.", show_default=False)
    ] = None,
    shot: Annotated[int | None, typer.Option(min=1, help="Examples a class; likewise.", show_default=False)] = None,
    query: Annotated[int | None, typer.Option(min=1, help="Queries a class; likewise.", show_default=False)] = None,
    tolerance: Annotated[float, typer.Option(help="Points of accuracy that the old tasks may lose.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the tasks.")] = 1,
    name: Annotated[
        str | None, typer.Option(help="The name that it is served by; by default that of --over.", show_default=False)
    ] = None,
    database: Annotated[
        str | None, typer.Option(help="The server's: where it is noted. Without, nothing is.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare a refined run with the one that is served, on new and on old unseen tasks; serve it if it may be.

    It may if it is better on the new tasks, with an interval above zero, and loses no more than the tolerance on the
    old. A running server finds it within seconds, adapts its tasks anew, and keeps the old model for rollback: of a
    task, to a version before (POST /v1/tasks/TASK/rollback), and of all that is served by a name (--back).
    """
    from kshot.artifacts import load_learner
    from kshot.cli.train import on_other_data
    from kshot.evaluation.promotion import promotion
    from kshot.tasks import load
    from kshot.tasks.replay import not_to_forget

    output = Output(as_json)
    if back:
        if over is not None or data is not None or name is None or database is None:
            raise ConfigError("expected --name and --database beside --back, and neither --over nor --data")
        _serve(output, candidate, name, database, back=True)
        output.result({"candidate": candidate, "name": name, "back": True})
        return
    if over is None or data is None:
        raise ConfigError("expected --over RUN, the one that is served now, and --data, what was asked of late")
    with output.alone():
        served, digest = load_learner(over)
        refined, _ = load_learner(candidate)
        spec = served.provenance.get("source") or {}
        if "name_or_path" not in spec:
            raise ConfigError(f"{over}: nothing says what it was trained on, so that nobody can tell what is forgotten")
        asked = {key: value for key, value in (("way", way), ("shot", shot), ("query", query)) if value is not None}
        sizes = {key: spec[key] for key in ("way", "shot", "query") if key in spec} | asked
        new = load(data, **sizes, **on_other_data(served, data)).test
        found = promotion(
            refined,
            served,
            new,
            load(**{**not_to_forget(spec), **asked}).test,
            tasks=tasks,
            seed=seed,
            tolerance=tolerance / 100,
        )
        output.table(
            ["accuracy", "served", "candidate", "difference"],
            [
                ["new tasks", f"{found.new[0]:.2%}", f"{found.new[1]:.2%}", f"{found.gain:+.2%}"],
                ["old tasks", f"{found.old[0]:.2%}", f"{found.old[1]:.2%}", f"{found.change:+.2%}"],
            ],
        )
        output.say("± is half of the 95% interval over tasks, of the differences task by task.")
        output.result({"candidate": candidate, "over": over, **found.to_dict()})
        if not found.promoted:
            raise RunError(f"{candidate} is not promoted: {'; '.join(found.problems)}")
        if database is None:
            output.say(f"{candidate} may take the place of {over}: say --database to have it served")
            return
        name = name or Path(over).name
        _serve(output, candidate, name, database, over=digest)
        from kshot.databases import shown

        how = f"kshot promote {over} --back --name {name} --database {shown(database)}"
        output.say(f"{over} stays for rollback: {how}")


def _serve(output: Output, candidate: str, name: str, database: str, **how: Any) -> None:
    from kshot.serving.registering import serve_from_now_on

    problem = serve_from_now_on(database, candidate, name, **how)
    output.say(f"{candidate} is served as {name} from now on")
    if problem:
        output.say(f"Nothing is known of its confidence, nor of drift: {problem}")
