"""Starts the server: one process, or several that share a port."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.engine import Connection

from kshot.errors import ConfigError, KshotError, MissingExtraError, RunError
from kshot.serving.app import create_app
from kshot.serving.logs import logged
from kshot.serving.registering import calibrated, current_model
from kshot.serving.served import ServedModel
from kshot.serving.service import Service
from kshot.serving.settings import Settings
from kshot.serving.store import access, registry
from kshot.serving.store.database import Database, alone
from kshot.serving.store.migrate import migrate
from kshot.serving.store.tables import states
from kshot.serving.threads import compute_alone, in_a_thread_that_ends, threads_of
from kshot.serving.vault import Vault, in_use
from kshot.serving.workers import run_workers

_log = logging.getLogger("kshot.serving")


def load_models(settings: Settings) -> dict[str, ServedModel]:
    """The models that the settings name, each by `NAME=PATH` or by the last part of its path.

    Raises:
        ConfigError: none, or two of one name.
        ArtifactError: one is not there.
    """
    models: dict[str, ServedModel] = {}
    for given in settings.models:
        name, equals, path = given.partition("=")
        model = ServedModel.load(path if equals else given, name if equals else None)
        if model.name in models:
            raise ConfigError(f"two models are called {model.name}: say NAME={given} for one of them")
        models[model.name] = model
    if not models:
        raise ConfigError(
            "there is nothing to serve: name a run, kshot serve runs/mine, or a shipped learner, characters"
        )
    return models


def open_store(settings: Settings) -> tuple[Database, Vault]:
    """The database, brought to today's schema, and the vault that belongs to it."""
    database = Database(settings.database)
    migrate(database)
    with database.reading() as connection:
        filled = connection.execute(select(states.c.task).limit(1)).first() is not None
    if filled and not Path(settings.master_key).is_file():
        database.close()
        raise ConfigError(
            f"there is no key file {settings.master_key}, and what is in the database was sealed with one: put it "
            "there, or say master_key"
        )
    return database, Vault.of_file(settings.master_key)


def first_key(settings: Settings) -> str | None:
    """The secret of a key that is made for the tenant `default` where there is none at all yet."""
    if settings.authentication == "none":
        return None
    database, _ = open_store(settings)
    try:

        def change(connection: Connection) -> str | None:
            alone(connection)
            return None if access.list_keys(connection) else access.create_key(connection, access.DEFAULT, "first")[1]

        return database.write(change).result()
    finally:
        database.close()


def build(settings: Settings, models: Mapping[str, ServedModel] | None = None) -> Service:
    """A service as the settings describe it."""
    models = load_models(settings) if models is None else models
    database, vault = open_store(settings)
    for model in models.values():
        calibrated(database, model, settings.calibration)
    service = Service(settings, models, database, vault)
    with database.reading() as connection:
        promoted = registry.current(connection)
    for name, known in promoted.items():
        if name in service.models and known.digest != service.models[name].digest:
            _log.warning("another model was promoted, and is served", extra={"model": name, "path": known.path})
        if name in service.models and known.digest not in service.by_digest:
            service.adopt(current_model(known))
        elif name in service.models:
            service.models[name] = service.by_digest[known.digest]
    with database.reading() as connection:
        before = registry.replaced(connection)
    for known in before:
        if known.digest not in service.by_digest:
            try:
                service.keep(current_model(known))
            except KshotError as error:
                _log.warning("not loaded", extra={"model": known.name, "digest": known.digest, "reason": str(error)})
    service.measure()
    return service


def run(settings: Settings, models: Mapping[str, ServedModel] | None = None) -> None:
    """Serves until SIGTERM or Ctrl-C; then finishes what was begun.

    Raises:
        MissingExtraError: without the extra `serve`.
        RunError: the port cannot be had, or the workers do not come up.
    """
    try:
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("uvicorn", "serve") from error
    with logged(settings.log), contextlib.closing(_bound(settings)) as bound:
        if settings.workers == 1:
            _serve(settings, bound, models)
            return
        # Once for all of them: the schema and the calibration, and the errors there may be in either.
        in_a_thread_that_ends(partial(_calibrate, settings, models), threads_of(settings))
        run_workers(partial(_serve_alone, settings), bound, settings.workers)


def _calibrate(settings: Settings, models: Mapping[str, ServedModel] | None) -> None:
    database, _ = open_store(settings)
    for model in (load_models(settings) if models is None else models).values():
        calibrated(database, model, settings.calibration)
    database.close()


def _bound(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
        bound.listen(2048)  # who comes before the models are loaded waits
    except OSError as error:
        bound.close()
        raise RunError(
            f"{settings.host}:{settings.port} cannot be listened on ({error.strerror or error}): another server may be "
            "there; --port 0 takes a free one"
        ) from None
    bound.set_inheritable(True)
    return bound


def _serve_alone(settings: Settings, bound: socket.socket) -> None:
    """In a process of its own."""
    with logged(settings.log):
        _serve(settings, bound)


def _serve(settings: Settings, bound: socket.socket, models: Mapping[str, ServedModel] | None = None) -> None:
    with in_use(Path(settings.master_key)):  # before it is read
        _serve_with_key(settings, bound, models)


def _serve_with_key(settings: Settings, bound: socket.socket, models: Mapping[str, ServedModel] | None = None) -> None:
    import uvicorn

    from kshot.serving.protocol import protocol

    compute_alone()
    service = in_a_thread_that_ends(partial(build, settings, models), threads_of(settings))
    gc.collect()
    gc.freeze()  # torch, the models and the routes stay: no collection need walk through them again
    config = uvicorn.Config(
        create_app(service),
        http=protocol(settings.limits),
        log_config=None,
        access_log=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=30,
        server_header=False,
        limit_concurrency=None,
    )
    # uvicorn ends gracefully at a signal, and then raises it again for whoever else would have had it: nobody.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            host, port = bound.getsockname()[:2]
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            _log.info("serving", extra={"url": url, "pid": os.getpid()})
            uvicorn.Server(config).run(sockets=[bound])
    finally:
        signal.signal(signal.SIGTERM, before)
        service.database.close()
