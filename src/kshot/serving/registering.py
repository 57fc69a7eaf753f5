"""Models that come to be served: calibrated once, and written down in the database for all servers that share it."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

from kshot.errors import ConfigError, KshotError
from kshot.serving.calibration import TASKS, calibration_of
from kshot.serving.served import ServedModel
from kshot.serving.store import registry
from kshot.serving.store.database import Database
from kshot.serving.store.migrate import migrate

_log = logging.getLogger("kshot.serving")


def calibrated(database: Database, model: ServedModel, tasks: int) -> None:
    """Gives a model its calibration: as it was measured before, or by measuring it now, once for each digest."""
    with database.reading() as connection:
        known = registry.find(connection, model.digest)
    if known is None or not known["calibration"]:
        _log.info("calibrating", extra={"model": model.name})
        found, problem = calibration_of(model, tasks)
        if problem:
            _log.warning("not calibrated", extra={"model": model.name, "reason": problem})
        asked = None if known is None else partial(registry.learn, digest=model.digest, info={"calibration": found})
        known = {"calibration": found}
        add = partial(registry.add, digest=model.digest, name=model.name, path=model.path, info=known)
        database.write(asked or add).result()
    model.calibration = known["calibration"]


def current_model(known: registry.Known) -> ServedModel:
    """The model of a row of the registry.

    Raises:
        KshotError: it cannot be loaded, or is another one by now.
    """
    model = ServedModel.load(known.path, known.name)
    if model.digest != known.digest:
        raise KshotError(f"the model in {known.path} is not the one that was promoted: promote it again")
    model.calibration = known.info.get("calibration", {})
    return model


def served(url: str, name: str) -> registry.Known | None:
    """The model that the servers of a database serve by a name; None where there is none yet.

    Args:
        url: of the database, which is made where there is none.
        name: of the model.
    """
    database = Database(url)
    try:
        migrate(database)
        with database.reading() as connection:
            return registry.current(connection).get(name)
    finally:
        database.close()


def serve_from_now_on(
    url: str, path: str | Path, name: str, *, tasks: int = TASKS, over: str | None = None, back: bool = False
) -> str:
    """Makes a model the one of its name that the servers of a database serve; those that run find it within seconds.

    Args:
        url: of the database.
        path: of a run or a saved learner; or a shipped name.
        name: that clients call it by.
        tasks: that it is calibrated on.
        over: the digest of the model that it is to take the place of; None: of whichever there is, if there is one.
        back: whether it was served by this name before.

    Returns:
        Why it is not calibrated, so that nothing is known of its confidence and of drift; nothing where it is.

    Raises:
        ConfigError: nothing of that name is served, or another model than `over`; or it never was, though it is to be
            served again.
        UnsupportedError: the learner cannot be served.
    """
    here = Path(path).expanduser()
    model = ServedModel.load(here.absolute() if here.exists() else path, name)
    database = Database(url)
    try:
        migrate(database)
        with database.reading() as connection:
            names, before = registry.current(connection), registry.of_digest(connection, model.digest)
        if back and (before is None or before.name != name):
            raise ConfigError(
                f"{path} was never served as {name} by the servers of {url}, so that there is no going back to it: "
                "promote it (--over, --data)"
            )
        if over is not None and name not in names:
            there = ", ".join(sorted(names)) or "none"
            raise ConfigError(f"the servers of {url} know no model {name!r}, but {there}: say --name")
        if over is not None and names[name].digest != over:
            raise ConfigError(
                f"another model is served as {name} by now, the one in {names[name].path}: compare with that (--over)"
            )
        found, problem = (before.info.get("calibration") if before else None) or {}, ""
        if not found:  # one that was served before is known, though its data may be gone
            found, problem = calibration_of(model, tasks)
        info: dict[str, Any] = {"calibration": found}
        database.write(
            lambda connection: registry.promote(connection, digest=model.digest, name=name, path=model.path, info=info)
        ).result()
        return problem
    finally:
        database.close()
