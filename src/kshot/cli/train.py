"""`kshot train`: meta-train a learner from a configuration and flags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kshot.cli import settings
from kshot.cli.handling import RESUME
from kshot.cli.options import DataDir, Device, Json, Query, Shot, SkipBad, Way, examples
from kshot.cli.output import Output
from kshot.cli.processes import together
from kshot.errors import ConfigError, RunError
from kshot.processes import place
from kshot.yaml_keys import assign, put

if TYPE_CHECKING:
    from kshot.learners.base import Learner
    from kshot.training import TrainResult

EXAMPLES = examples(
    "kshot train --learner protonet --data my_images/ --way 5 --shot 1 --steps 500 --out runs/mine",
    "kshot train omniglot-protonet --set training.lr=5e-4      # a configuration that ships with kshot",
    "kshot train my.yaml --seed 1 --out runs/seed1",
    "kshot train --resume runs/mine",
    "kshot train --init runs/mine --data asked/ --replay 0.5 --out runs/next",
)


def command(
    context: typer.Context,
    config: Annotated[
        str | None,
        typer.Argument(metavar="[CONFIG]", help="A YAML file, a run folder, or the name of a shipped configuration."),
    ] = None,
    learner: Annotated[
        str | None,
        typer.Option(help="protonet, maml, ridgenet, snail, ...: any of kshot.learners.", show_default=False),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="conv4, resnet12, mlp; by default one that fits the data.", show_default=False)
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="A registered dataset, or the path of a folder, zip or CSV.", show_default=False),
    ] = None,
    way: Way = None,
    shot: Shot = None,
    query: Query = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Outer steps.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; by default runs/DATA-LEARNER.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key of the configuration: a.b=c.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of initialisation and tasks.", show_default=False)] = None,
    device: Device = None,
    init: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with its learner on other data.", show_default=False)
    ] = None,
    replay: Annotated[
        float | None,
        typer.Option(help="With --init: the share of tasks that are of that run's own data.", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run where it stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove the run in --out first.")] = False,
    data_dir: DataDir = None,
    skip_bad: SkipBad = False,
    as_json: Json = False,
) -> None:
    """Meta-train a learner. Defaults < CONFIG < environment (KSHOT_TRAINING__LR=...) < flags."""
    output = Output(as_json, silent=place().rank > 0)
    with output.alone(), together():
        flags: dict[str, Any] = {}
        bad: list[str] = []
        named = {
            "learner.name": learner,
            "backbone.name": backbone,
            "data.name": data,
            "data.way": way,
            "data.shot": shot,
            "data.query": query,
            "data.data_dir": None if data_dir is None else str(data_dir.expanduser().absolute()),
            "data.skip_bad": skip_bad or None,
            "training.steps": steps,
            "training.seed": seed,
            "training.device": device,
            "out": None if out is None else str(out),
        }
        for path, value in named.items():
            if value is not None:
                put(flags, path, value)
        sets = set_ or []
        if resume and config is not None and begun_in_python(Path(config)):
            run_folder = config
            context.meta[RESUME] = f"kshot train --resume {run_folder}"
            result = go_on(run_folder, flags, sets, data_dir)
        else:
            if init is not None:
                flags = go_on_from(init, replay, flags)
            elif replay is not None:
                raise ConfigError("expected --replay beside --init RUN, whose data is replayed: or say data.replay")
            resolved = resolve(config, flags, sets, resume=resume)
            run_folder = resolved["out"]
            context.meta[RESUME] = f"kshot train --resume {run_folder}"
            result, bad = train(resolved, output, resume=resume, overwrite=overwrite)
        val = None if result.val is None else result.val.to_dict()
        if val is not None:
            output.say(f"Selected on val tasks: step {result.best_step} of {result.steps}.")
        output.say(f"The learner is in {run_folder}/learner. Next: kshot evaluate {run_folder}")
        output.result(
            {
                "run": str(run_folder),
                "steps": result.steps,
                "best_step": result.best_step,
                "val": val,
                "seconds": result.seconds,
                "examples": result.examples,
                "mode": result.mode,
                "bad_files": bad,
            }
        )


def train(
    config: dict[str, Any], output: Output, *, resume: bool = False, overwrite: bool = False
) -> tuple[TrainResult, list[str]]:
    """Checks and prints a configuration, builds what it describes, and trains it.

    Returns:
        What came of it, and the files of the data that were left out, since they cannot be decoded.

    Raises:
        KshotError: whatever is wrong with the configuration, the data or the run folder.
    """
    import yaml

    from kshot.training.config import build_learner, build_source, build_trainer, parse_config
    from kshot.training.config import resolve as fill_in

    checked = parse_config(config)
    source = build_source(checked)
    learner = build_learner(checked, source)
    trainer = build_trainer(checked, learner, source, resume=resume, overwrite=overwrite)
    full = fill_in(checked, source).to_dict()
    output.say(yaml.safe_dump(full, sort_keys=False, allow_unicode=True, width=100).rstrip())
    return trainer.fit(), list(source.info.get("bad_files") or [])


def go_on_from(init: str, replay: float | None, flags: dict[str, Any]) -> dict[str, Any]:
    """The flags, with what a run says whose learner shall be trained further: how it reads examples, how its tasks
    look, and what they were made of.

    Args:
        init: the run, or a saved learner.
        replay: the share of tasks of its own data; of that which is not to be forgotten (`not_to_forget`).

    Raises:
        ConfigError: a learner is named as well; nothing says what it was trained on.
    """
    from kshot.artifacts import from_pretrained
    from kshot.learners import all_learners
    from kshot.tasks.replay import gathered_folder, not_to_forget

    if "learner" in flags or "backbone" in flags:
        raise ConfigError("expected --init RUN or --learner, got both: the learner is the run's")
    learner = from_pretrained(init)
    spec = learner.provenance.get("source") or {}
    name = next((key for key, cls in all_learners().items() if cls is type(learner)), None)
    if name is None:
        raise ConfigError(f"{init}: its {type(learner).__name__} is no learner of kshot's: go on with it in Python")
    data = {key: spec[key] for key in ("way", "shot", "query") if key in spec} | flags.get("data", {})
    if "name" in data:
        data["options"] = {**on_other_data(learner, str(data["name"])), **data.get("options", {})}
    if replay is not None:
        old = not_to_forget(spec)
        if "name_or_path" not in old:
            raise ConfigError(f"{init}: nothing says what it was trained on, to be replayed: say data.replay")
        folder = gathered_folder(old)
        if folder is not None:
            raise ConfigError(
                f"{init} was trained on {folder}, which was gathered from a server: what of it is still "
                "stored there is in the next gathering, and the rest is not to come back. Leave out --replay"
            )
        sampling = ("way", "shot", "query", "sampling", "train", "val", "test", "replay", "data_dir")
        data["replay"] = {**{k: v for k, v in old.items() if k not in sampling}, "share": replay}
    path = str(Path(init).expanduser().absolute()) if Path(init).expanduser().exists() else init
    return {**flags, "init": path, "learner": {"name": name}, "data": data}


def on_other_data(learner: Learner, data: str) -> dict[str, Any]:
    """Options of data that a learner was not trained on, so that it is read as the learner's own was."""
    return {"transform": learner.transform.to_dict()} if is_path(data) and learner.transform is not None else {}


def begun_in_python(run: Path) -> bool:
    """Whether a run was begun by `kshot.Trainer`, whose configuration describes a learner by its class."""
    learner = settings.read(run).get("learner") if (run / "config.yaml").is_file() else None
    return not isinstance(learner, dict) or "class" in learner if learner is not None else False


def go_on(run: str, flags: dict[str, Any], sets: list[str], data_dir: Path | None) -> TrainResult:
    """Resumes a run that was begun in Python; only what concerns its training may be given.

    Raises:
        ConfigError: another flag was given, or the run needs the script that began it.
    """
    from kshot.training.config import resume_run

    others = [key for key in flags if key not in ("training", "data")] + [
        key for key in flags.get("data", {}) if key != "data_dir"
    ]
    if others:
        raise ConfigError(f"{run} was begun in Python and goes on as it is: leave out {', '.join(sorted(others))}")
    given = [f"training.{key}={value}" for key, value in flags.get("training", {}).items()]
    return resume_run(run, [*given, *sets], data_dir=data_dir).fit()


def resolve(config: str | None, flags: dict[str, Any], sets: Any = (), *, resume: bool = False) -> dict[str, Any]:
    """The configuration that the layers make: file < environment < flags.

    Raises:
        ConfigError: neither a file nor data; a file that is none.
        RunError: there is no run to resume.
    """
    base: dict[str, Any] = {}
    if config is not None:
        if resume and not Path(config).exists() and config not in settings.shipped():
            raise RunError(f"there is no run {config} to resume: expected a folder that kshot train wrote")
        base = settings.read(config)
        if Path(config).is_dir():
            base["out"] = str(config)
    merged = settings.merge(base, settings.from_environment())
    merged = settings.merge(merged, flags)
    merged = settings.merge(merged, assign({}, sets, "--set "))
    for section in ("learner", "backbone", "data"):
        if isinstance(merged.get(section), str):
            merged[section] = {"name": merged[section]}  # `learner: maml` is short for it
    if not isinstance(merged.get("data"), dict) or "name" not in merged["data"]:
        raise ConfigError(
            "expected a configuration, or --data: a registered dataset (kshot data list) or the path of a folder, zip "
            f"or CSV. Shipped configurations: {', '.join(settings.shipped())}"
        )
    merged["learner"] = {"name": "protonet", **(merged.get("learner") or {})}
    data = merged["data"] = dict(merged["data"])
    if Path(str(data["name"])).expanduser().exists() and is_path(str(data["name"])):
        data["name"] = str(Path(data["name"]).expanduser().absolute())  # a run is resumed from anywhere
    if not merged.get("out"):
        merged["out"] = f"runs/{Path(str(data['name'])).stem}-{merged['learner']['name']}"
    return merged


def is_path(data: str) -> bool:
    """Whether `data` names a user's own files rather than a registered dataset or a family of functions."""
    from kshot.cli.splits import identify

    return identify(data)[1] is not None
