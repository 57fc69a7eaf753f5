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
        typer.Option(min=0.0, help="Fail where less than this share of a goal is reached: 0.5.", show_default=False),
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
        results = _measure(output, list(names or known), table, only, rounds, seconds, threads, out)
        if require is not None:
            _check(results, require)


def _measure(
    output: Output,
    wanted: list[str],
    table: bool,
    only: list[str] | None,
    rounds: int,
    seconds: float,
    threads: int | None,
    out: Path | None,
) -> dict[str, Any]:
    import torch

    from kshot.artifacts import check_place
    from kshot.bench import report
    from kshot.bench.machine import describe, measure_ceilings
    from kshot.bench.run import run
    from kshot.bench.workloads import workloads

    if threads is not None:
        torch.set_num_threads(threads)
    if out is not None and not table:
        check_place(out / ".place")  # before minutes of measuring, not after
    results = report.load(out, report.names(wanted)) if table and out is not None else {}
    if not table:
        failed, ceilings, machines = [], {}, {}
        devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        for device in devices:
            ceilings[device] = measure_ceilings(device=device)
            machines[device] = {**describe(device), "ceilings": ceilings[device].to_dict()}
            what = machines[device].get("gpu") if device == "cuda" else machines[device]["cpu"]
            output.say(
                f"{what}: a matrix product reaches {ceilings[device].flops / 1e9:,.0f} GFLOP/s, a copy "
                f"{ceilings[device].bytes / 1e9:,.0f} GB/s"
            )
        for name, device in [(name, device) for name in wanted for device in devices]:
            workload = workloads()[name]()
            if device == "cuda" and not workload.on_gpu:
                continue
            workload.device = torch.device(device)
            key = name if device == "cpu" else f"{name}.{device}"
            try:
                found = run(workload, ceilings[device], rounds=rounds, seconds=seconds, only=only, say=output.say)
            except UnsupportedError as error:  # the others are worth having
                failed.append(f"{key}: {error}")
                output.say(failed[-1])
                continue
            results[key] = {**found, "machine": machines[device], "rounds": rounds}
            if out is not None:
                report.save(results[key], out, key)
            _print(output, key, results[key])
        if out is not None:
            kept = report.load(out, report.names(workloads()))
            (out / "bench.png").write_bytes(report.picture(kept))
            output.say(f"kept in {out}, the plot of all that is there in {out / 'bench.png'}")
        if failed:
            raise UnsupportedError("; ".join(failed))
    else:
        for name, result in results.items():
            _print(output, name, result)
        if not results:
            output.say(f"there are no results in {out}")
    output.result(results)
    return results


def _check(results: dict[str, Any], share: float) -> None:
    """Raises UnsupportedError where a goal is missed by more than a share of it."""
    from kshot.bench import report

    missed = [f"{name}: {line}" for name, result in results.items() for line in report.missed(result, share)]
    if missed:
        raise UnsupportedError(f"less than {share:g} of what was asked: {'; '.join(missed)}")


def _print(output: Output, name: str, result: dict[str, Any]) -> None:
    from kshot.bench import report

    output.say()
    output.say(f"{name}: {result['title']}")
    head, body = report.rows(result)
    output.table(head, body)
    for line in report.goals(result):
        output.say(line)
