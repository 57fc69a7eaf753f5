"""`kshot serve`: the adaptation server."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from kshot.cli.options import examples
from kshot.errors import ConfigError

EXAMPLES = examples(
    "kshot serve runs/mine                                    # an SQLite file in this folder, a key printed once",
    "kshot serve characters --no-auth --port 9000             # to try it out, on this machine alone",
    "kshot serve runs/a runs/b --settings server.yaml --workers 4",
)

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def command(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN...", help="Runs, saved learners or shipped names; NAME=RUN to call it so."),
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(help="A YAML file with any setting (docs: serving).", show_default=False)
    ] = None,
    database: Annotated[
        str | None, typer.Option(help="sqlite:///kshot.db or postgresql://user@host/name.", show_default=False)
    ] = None,
    host: Annotated[str | None, typer.Option(help="Where to listen; 127.0.0.1.", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="8000; 0 for a free one.", show_default=False)] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that answer at this port; 1.", show_default=False)
    ] = None,
    retention: Annotated[
        str | None,
        typer.Option(help="Of examples: adaptation (what adapting again needs), raw or none.", show_default=False),
    ] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Ask for no keys; on a loopback address only.")] = False,
    log: Annotated[str | None, typer.Option(help="json or text.", show_default=False)] = None,
) -> None:
    """Serve meta-learned models: post a few labelled examples, get a working model back."""
    from kshot.serving.server import first_key, load_models, run
    from kshot.serving.settings import load_settings
    from kshot.serving.threads import in_a_thread_that_ends, threads_of

    flags: dict[str, object] = {
        "models": runs or None,
        "database": database,
        "host": host,
        "port": port,
        "workers": workers,
        "retention": retention,
        "authentication": "none" if no_auth else None,
        "log": log,
    }
    found = load_settings(settings, flags)
    if found.authentication == "none" and found.host not in LOOPBACK:
        raise ConfigError(
            f"without keys the server listens on a loopback address alone, not on {found.host}: leave --no-auth out, "
            "or say --host 127.0.0.1"
        )
    models = in_a_thread_that_ends(partial(load_models, found), threads_of(found))
    secret = first_key(found)
    if secret is not None:
        typer.echo(f"The first key of tenant default, shown this once: {secret}", err=True)
        typer.echo(f"  export KSHOT_KEY={secret}", err=True)
    run(found, models)
