"""`kshot bench`: kshot and its peers on the same work, in the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kshot.cli.options import Json, examples
from kshot.cli.output import Output
from kshot.errors import ConfigError, UnsupportedError, suggest

EXAMPLES = examples(
    "kshot bench                                         # what there is",
    "kshot bench sinusoid-5                              # kshot, higher, torchopt, JAX and a plain loop in turn",
    "kshot bench --all --out bench/                      # everything, kept with its plot",
    "kshot bench --table --out bench/                    # what was kept",
)


def command(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Workloads.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All workloads, one after another.")] = False,
    table: Annotated[bool, typer.Option("--table", help="Print what is kept in --out; runs nothing.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="CONTENDER", help="Only these beside the reference; once for each.", show_default=False),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contender.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.01, help="Length of a turn, about.")] = 1.0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of torch; by default as many as it takes.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to keep results in, NAME.json and a plot.", show_default=False)
    ] = None,
    require: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Fail where less than this share of a goal is reached, or nobody can say: 0.5.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure kshot against its peers: the same work in the same run, its answers compared before anything is timed.

    Peers that are not installed are left out and named: pip install 'kshot[bench]' brings them.
    """
    output = Output(as_json)
    with output.alone():
        from kshot.bench.workloads import workloads

        known = workloads()
        for name in names or ():
            if name not in known:
                raise ConfigError(f"there is no workload {name!r}. {suggest(name, known)}")
        if names and everything:
            raise ConfigError("names and --all are two different things to ask for: give one of them")
        if table and out is None:
            raise ConfigError("--table prints what is kept: give its folder with --out")
        if not (names or everything or table):
            output.table(["name", "what"], [[name, make().title] for name, make in known.items()])
            output.result([{"name": name, "title": make().title} for name, make in known.items()])
            return
        wanted = list(names or known)
        failed: list[str] = []
        if table and out is not None:
            results = _kept(output, out, wanted)
        else:
            if threads is not None:
                import torch

                torch.set_num_threads(threads)
            results, failed = _measure(output, _having(wanted, only), only, rounds, seconds, out)
        output.result(results)  # whatever else there is to say: it was measured
        if require is not None:
            failed += _missed(results, require)
        if failed:
            raise UnsupportedError("; ".join(failed))


def _having(wanted: list[str], only: list[str] | None) -> list[str]:
    """The workloads that have one of some contenders.

    Raises:
        ConfigError: none of them has a contender of such a name.
    """
    from kshot.bench.workloads import workloads

    if not only:
        return wanted
    # Known once they are set up, which is little beside measuring them.
    names = {name: [contender.name for contender in workloads()[name]().contenders()] for name in wanted}
    known = dict.fromkeys(contender for found in names.values() for contender in found)
    for name in only:
        if name not in known:
            where = wanted[0] if len(wanted) == 1 else "these workloads"
            raise ConfigError(
                f"there is no contender {name!r} in {where}. {suggest(name, known)} All: {', '.join(known)}"
            )
    return [name for name, found in names.items() if set(only) & set(found)]


def _kept(output: Output, out: Path, wanted: list[str]) -> dict[str, Any]:
    """The results in a folder, printed."""
    from kshot.bench import report

    results = report.load(out, report.names(wanted))
    for name, result in results.items():
        _print(output, name, result)
    if not results:
        output.say(f"there are no results in {out}")
    return results


def _measure(
    output: Output, wanted: list[str], only: list[str] | None, rounds: int, seconds: float, out: Path | None
) -> tuple[dict[str, Any], list[str]]:
    """What came of each workload on each device there is, printed and kept; and why of some nothing came."""
    import torch

    from kshot.artifacts import check_place
    from kshot.bench import report
    from kshot.bench.machine import describe, measure_ceilings
    from kshot.bench.run import cannot, run
    from kshot.bench.workloads import workloads

    if out is not None:  # before minutes of measuring, not after
        check_place(out / ".place")
        report.load(out, report.names(workloads()))
    results: dict[str, Any] = {}
    failed, ceilings, machines = [], {}, {}
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        ceilings[device] = measure_ceilings(device=device)
        machines[device] = {**describe(device), "ceilings": ceilings[device].to_dict()}
        output.say(report.machine(machines[device]))
    for name, device in [(name, device) for name in wanted for device in devices]:
        workload = workloads()[name]()
        if device == "cuda" and not workload.on_gpu:
            continue
        workload.device = torch.device(device)
        key = name if device == "cpu" else f"{name}.{device}"
        try:
            found = run(workload, ceilings[device], rounds=rounds, seconds=seconds, only=only, say=output.say)
        except Exception as error:
            why = str(error) if isinstance(error, UnsupportedError) else cannot(error)
            if why is None:
                raise
            failed.append(f"{key}: {why}")  # the others are worth having
            output.say(failed[-1])
            continue
        results[key] = {**found, "machine": machines[device], "rounds": rounds}
        if out is not None:
            report.save(results[key], out, key)
        _print(output, key, results[key])
    kept = {} if out is None else report.load(out, report.names(workloads()))
    if out is not None and kept:
        (out / "bench.png").write_bytes(report.picture(kept))
        output.say(f"kept in {out}, the plot of all that is there in {out / 'bench.png'}")
    return results, failed


def _missed(results: dict[str, Any], share: float) -> list[str]:
    """What to say where a goal is missed by more than a share of it, or could not be judged."""
    from kshot.bench import report

    missed = [f"{name}: {line}" for name, result in results.items() for line in report.missed(result, share)]
    return [f"less than {share:g} of what was asked: {'; '.join(missed)}"] if missed else []


def _print(output: Output, name: str, result: dict[str, Any]) -> None:
    from kshot.bench import report

    output.say()
    output.say(f"{name}: {result['title']}")
    head, body = report.rows(result)
    output.table(head, body)
    for line in report.goals(result):
        output.say(line)
