"""The last steps of a pipeline: its learner is served, and what comes of that is looked at."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kshot.artifacts.atomic import atomic_file, atomic_folder
from kshot.cli.parts import RUN, learner_of, source_of
from kshot.cli.state import write_json
from kshot.cli.walk import Context, Outcome
from kshot.errors import ConfigError, RunError, UnsupportedError

PLACE = "deploy"
"""The folder of what is served, in the project's."""

KEPT = ("learner", "splits.json", "seen.safetensors", "config.yaml")
"""What of a run is copied to where it is served from: the learner, and what it has seen."""


# ---------------------------------------------------------------- 8. deploy


def check_deploy(context: Context) -> None:
    """Raises ConfigError where the project asks for a server that there cannot be, before anything is trained."""
    if context.project.deploy.deploy and _can_serve():
        settings_of(context)


def deploy_section(context: Context) -> Any:
    return [context.project.deploy.model_dump(), _can_serve()]


def deploy(context: Context) -> Outcome:
    """Puts a copy of the learner where servers take it from, unless it is worse than the one that they serve."""
    asked = context.project.deploy
    if not asked.deploy:
        return Outcome({"deployed": False}, "left out, as the project says")
    if not _can_serve():
        return Outcome({"deployed": False}, "left out: a server needs more, pip install 'kshot[serve]'")
    from kshot.artifacts.learner import digest as learner_digest
    from kshot.serving.registering import serve_from_now_on, served
    from kshot.serving.settings import load_settings

    place = (context.out / PLACE).absolute()
    place.mkdir(parents=True, exist_ok=True)
    name = asked.name or Path(context.project.out).name
    settings = settings_of(context)
    learner = learner_of(context)
    digest = learner_digest(learner)
    known = served(settings["database"], name)
    note, found = "", {"deployed": True, "name": name, "digest": digest, "over": None}
    if known is not None and known.digest != digest:
        note, found["over"] = _beside(context, known.path), known.digest
    release = place / "models" / digest[:16]
    with atomic_folder(release) as folder:
        folder.mkdir(exist_ok=True)
        for part in KEPT:
            source = context.out / RUN / part
            if source.is_dir():
                shutil.copytree(source, folder / part)
            elif source.is_file():
                shutil.copy2(source, folder / part)
    try:
        serve_from_now_on(settings["database"], release, name, tasks=load_settings(None, settings, {}).calibration)
    except UnsupportedError as error:
        shutil.rmtree(release)
        return Outcome({"deployed": False}, f"left out: {error}")
    file = place / "server.yaml"
    _write_settings(file, {"models": [f"{name}={release}"], **settings})
    line = f"{note}served as {name}: kshot serve --settings {context.out / PLACE / 'server.yaml'}"
    return Outcome(found, line, [f"{PLACE}/server.yaml", f"{PLACE}/models/{release.name}"])


def settings_of(context: Context) -> dict[str, Any]:
    """The server's settings but for its models; its database and its master key lie in the project's folder unless
    the project says otherwise.

    Raises:
        ConfigError: a setting that there is not, or that the project says itself.
    """
    from kshot.databases import address
    from kshot.serving.settings import load_settings

    asked, place = context.project.deploy, (context.out / PLACE).absolute()
    if own := {"models", "database"} & set(asked.settings):
        raise ConfigError(f"deploy.settings: {', '.join(sorted(own))}: the project says so elsewhere, leave it out")
    settings = {
        "database": asked.database or f"sqlite:///{place / 'kshot.db'}",
        "master_key": str(place / "kshot.key"),
        **asked.settings,
    }
    address(settings["database"])
    try:
        load_settings(None, settings, {})
    except ConfigError as error:
        raise ConfigError(f"deploy.settings: {error}") from None
    return settings


def _beside(context: Context, path: str) -> str:
    """That the learner is no worse than the one that is served, in words.

    Raises:
        RunError: it is.
    """
    from kshot.artifacts import from_pretrained
    from kshot.evaluation.promotion import compared, points

    asked, tolerance = context.project.validate_, context.project.deploy.tolerance
    _, _, change = compared(
        learner_of(context), from_pretrained(path), source_of(context).test, tasks=asked.tasks, seed=asked.seed
    )
    if 100 * change.mean < -tolerance:
        raise RunError(
            f"it is worse than the one that is served, by {points(change)} on the same unseen tasks, and is not "
            f"deployed: raise deploy.tolerance, {tolerance:g} points, if that is meant"
        )
    return f"{points(change)} beside the one that was served, on the same unseen tasks; "


def _write_settings(path: Path, settings: dict[str, Any]) -> None:
    import yaml

    atomic_file(path, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def _can_serve() -> bool:
    return all(find_spec(name) is not None for name in ("sqlalchemy", "fastapi", "uvicorn"))


# ---------------------------------------------------------------- 9. monitor


def asked_each_time(context: Context) -> str | None:
    server = context.project.monitor.server
    return None if server is None else f"{server} is asked each time"


def monitor(context: Context) -> Outcome:
    """Asks a server how its tasks do: drift, confidence, accuracy of what was judged."""
    asked = context.project.monitor
    if asked.server is None:
        return Outcome({"server": None}, "nothing is asked: say monitor.server once it runs")
    from kshot.client import Client

    with Client(asked.server) as client:
        models = client.models()
        tasks = [{**task, "health": client.health(task["id"])} for task in client.tasks(asked.tasks)]
    found = summary(tasks)
    write_json(context.out / "monitor.json", {"server": asked.server, "models": models, **found, "each": tasks})
    if tasks:
        context.output.table(
            ["task", "name", "model", "queries", "unsure", "drift", "right"], [row(task) for task in tasks[:20]]
        )
    many = "task" if found["tasks"] == 1 else "tasks"
    line = f"{found['tasks']} {many}, {found['queries']:,} queries, {found['drifting']} drifting"
    if found["judged"]:
        line += f", {found['right']:.1%} of {found['judged']:,} judged answers right"
    name, digest = context.results["deploy"].get("name"), context.results["deploy"].get("digest")
    if digest is not None and not any(model["digest"] == digest for model in models):
        context.say(
            f"the server does not serve {name} as it was deployed: it will within seconds, if it has that database"
        )
    if found["drifting"]:
        settings = context.out / PLACE / "server.yaml"
        context.say(
            "what is asked differs from what was shown. Refine the learner on it (deploy.settings: retention: raw "
            f"keeps it): kshot data from-server --settings {settings} --out asked/, then kshot train --init "
            f"{context.out / RUN} --data asked/ --replay 0.5 --out runs/next, then kshot promote"
        )
    return Outcome(found, f"{line}; in {context.out / 'monitor.json'}", ["monitor.json"])


def summary(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """All tasks in a few numbers."""
    healths = [task["health"] for task in tasks]
    judged = [health["feedback"] for health in healths if health["feedback"] is not None]
    answers = sum(one["answers"] for one in judged)
    return {
        "tasks": len(tasks),
        "queries": sum(health["queries"] for health in healths),
        "drifting": sum(bool(health["drift"] and health["drift"]["alarm"]) for health in healths),
        "judged": answers,
        "right": sum(one["accuracy"] * one["answers"] for one in judged) / answers if answers else None,
    }


def row(task: dict[str, Any]) -> list[Any]:
    health = task["health"]
    drift, judged = health["drift"], health["feedback"]
    return [
        task["id"],
        task["name"] or "",
        task["model"],
        health["queries"],
        "" if health["abstained"] is None else f"{health['abstained']:.1%}",
        "" if drift is None else f"{drift['score']:+.2f}{' ALARM' if drift['alarm'] else ''}",
        "" if judged is None else f"{judged['accuracy']:.1%} of {judged['answers']}",
    ]
