"""The walk over a pipeline's steps: which to skip, which to do, and why."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kshot.cli.output import Output
from kshot.cli.project import Project
from kshot.cli.state import State, digest
from kshot.errors import ConfigError, suggest

VERSION = 1
"""Raised when a step does something else with the same inputs."""


@dataclass
class Context:
    """What a step knows.

    Attributes:
        project: all of project.yaml.
        out: the project's folder.
        output: where its words go.
        results: the results of the steps before.
        resume: whether this step was interrupted with the same inputs, so that what is there may be taken up.
        memory: what steps hand on within one walk, to spare loading it twice.
    """

    project: Project
    out: Path
    output: Output
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    resume: bool = False
    memory: dict[str, Any] = field(default_factory=dict)

    def say(self, line: str) -> None:
        self.output.say(f"    {line}")


@dataclass(frozen=True)
class Outcome:
    """What a step came to: a JSON-able result, which later steps depend on, a line that says it, and files in `out`."""

    result: dict[str, Any]
    line: str
    outputs: Sequence[str] = ()


@dataclass(frozen=True)
class Step:
    """A step of the pipeline.

    Attributes:
        name: what `--from` calls it.
        title: what it does.
        section: what of project.yaml (and of the files on disk) goes into it, JSON-able.
        needs: the steps whose results go into it.
        run: does it.
        again: why it is done though nothing has changed; None where it need not be.
    """

    name: str
    title: str
    section: Callable[[Context], Any]
    needs: tuple[str, ...]
    run: Callable[[Context], Outcome]
    again: Callable[[Context], str | None] = lambda _: None


def walk(steps: Sequence[Step], context: Context, *, start: str | None = None, force: bool = False) -> State:
    """Does what is to be done, and says what and why.

    Args:
        steps: in their order.
        context: of the project.
        start: do this step and all after it anew.
        force: do all of them anew.

    Raises:
        ConfigError: no step of the name `start`.
    """
    names = [step.name for step in steps]
    if start is not None and start not in names:
        raise ConfigError(f"there is no step {start!r} to begin from. {suggest(start, names)}")
    anew = set(names if force else names[names.index(start) :] if start else ())
    state = State(context.out / "pipeline.json")
    for number, step in enumerate(steps, 1):
        inputs = {"section": digest(VERSION, step.section(context))}
        inputs |= {name: digest(context.results[name]) for name in step.needs}
        record = state.finished(step.name)
        context.resume = step.name not in anew and state.interrupted(step.name, inputs)
        why = _why(record, inputs, context, step.name in anew) or step.again(context)
        head = f"[{number}/{len(steps)}] {step.title}"
        if record is not None and why is None:
            context.results[step.name] = record["result"]
            context.output.say(f"{head}: skipped, nothing that goes into it has changed since {record['at']}")
            continue
        context.output.say(f"{head}: {why or ''}")
        began = time.perf_counter()
        state.start(step.name, inputs)
        outcome = step.run(context)
        state.finish(
            step.name,
            inputs,
            seconds=time.perf_counter() - began,
            result=outcome.result,
            outputs=list(outcome.outputs),
        )
        context.results[step.name] = outcome.result
        context.say(outcome.line)
    return state


def _why(record: dict[str, Any] | None, inputs: dict[str, str], context: Context, asked: bool) -> str | None:
    """Why a step is done; None where it need not be."""
    if asked:
        return "done anew, as asked"
    if record is None:
        return "taken up where it stopped" if context.resume else "not done yet"
    changed = [name for name in inputs if record["inputs"].get(name) != inputs[name]]
    if changed:
        named = ["its section of the project" if name == "section" else f"the result of {name!r}" for name in changed]
        return f"{' and '.join(named)} changed"
    gone = [name for name in record["outputs"] if not (context.out / name).exists()]
    return f"{gone[0]} is gone" if gone else None
