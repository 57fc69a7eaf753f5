"""`kshot reproduce`: published numbers from committed configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kshot.cli.handling import RESUME
from kshot.cli.options import DataDir, Json, examples
from kshot.cli.output import Output
from kshot.errors import ConfigError, KshotError

EXAMPLES = examples(
    "kshot reproduce                                     # what there is",
    "kshot reproduce omniglot-protonet                   # train it, measure it, keep the result",
    "kshot reproduce --all                               # all that has no result yet, one after another",
    "kshot reproduce --table                             # published and ours, side by side",
)


def command(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A committed reproduction.")] = None,
    profile: Annotated[
        str, typer.Option(help="The budget: cpu, ten minutes on two cores, or full, the paper's.")
    ] = "cpu",
    everything: Annotated[
        bool, typer.Option("--all", help="Run all that have no result yet, then print the table.")
    ] = False,
    table: Annotated[bool, typer.Option("--table", help="Print the table of what was run.")] = False,
    seed: Annotated[int | None, typer.Option(help="In place of the configuration's.", show_default=False)] = None,
    tasks: Annotated[
        int | None,
        typer.Option(
            min=2, help="Test tasks instead of each row's: to try it out, nothing is kept.", show_default=False
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    out: Annotated[Path, typer.Option(help="Of the run folders; what was broken off there goes on.")] = Path(
        "runs/reproduce"
    ),
    results: Annotated[Path, typer.Option(help="Where the results are kept.")] = Path("reproductions"),
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Reproduce a published number: train a committed configuration, measure it, and say whether it is reached."""
    output = Output(as_json)
    with output.alone():
        from kshot.artifacts import check_place
        from kshot.evaluation import reproduction_table as tables
        from kshot.evaluation.reproduction import reproduce
        from kshot.evaluation.reproduction_spec import load, names

        if profile not in ("cpu", "full"):
            raise ConfigError(f"expected --profile cpu or full, got {profile!r}")
        if name is not None and (everything or table):
            raise ConfigError("a name, --all and --table are three different things to ask for: give one of them")
        if tasks is not None and name is None:
            raise ConfigError("--tasks is to try out one reproduction, of which nothing is kept: give its name")
        if name is None and not (everything or table):
            output.table(["name", "what", "paper"], [[n, load(n).title, load(n).paper] for n in names()])
            output.result([{"name": n, "title": load(n).title, "paper": load(n).paper} for n in names()])
            return
        if results.exists() and not results.is_dir():
            raise ConfigError(f"expected a folder for --results, got {results}, a file")
        if table and not results.is_dir():
            output.say(f"there are no results in {results.absolute()}: give their folder with --results")
        if not table and tasks is None:
            check_place(results / ".place")  # before hours of training, not after
        wanted = [name] if name is not None else []
        if everything:
            known = tables.entries(results, profile, seed=seed)
            wanted = [spec.name for spec, result in known if result is None and profile in spec.profiles]
        said: dict[str, object] = {"profile": profile, "seed": seed, "device": device}
        said |= {"tasks": tasks, "out": out, "results": results, "data-dir": data_dir}
        flags = "".join(f" --{flag} {value}" for flag, value in said.items() if value is not None)
        failed = []
        for one in wanted:
            context.meta[RESUME] = f"kshot reproduce {'--all' if everything else one}{flags} (which measures, too)"
            try:
                result = reproduce(
                    one,
                    profile,
                    seed=seed,
                    out=out,
                    results=results,
                    data_dir=data_dir,
                    device=device,
                    tasks=tasks,
                    say=output.say,
                )
            except KshotError as error:
                if not everything:
                    raise
                output.say(f"{one}: {error}")  # one without its data must not cost the others
                failed.append(one)
        if tasks is not None:
            output.result(result.to_dict())
            return
        found = tables.entries(results, profile, None if name is None else [name], seed=seed)
        output.table(tables.HEAD, tables.rows(found, profile))
        for line in tables.shortfalls(found):
            output.say(f"short: {line}.")
        for line in tables.differences([one for one in found if one[1] is not None]):
            output.say(f"from: {line}.")
        if name is None:
            output.say(f"in all {tables.spent(found)}.")
        output.result(tables.to_dict(found))
        if failed:
            raise KshotError(f"not reproduced: {', '.join(failed)}; the reasons are above")
