"""`kshot keys`: who may ask a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kshot.cli.handling import Group
from kshot.cli.options import Json, examples
from kshot.cli.output import Output
from kshot.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from kshot.serving.store.database import Database

app = typer.Typer(
    cls=Group,
    help="Keys of a server's tenants: create, list, revoke; what a tenant may have: quota; the master key: rotate.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog=examples("kshot keys create acme", "kshot keys list", "kshot keys revoke key_0123456789abcdef01234567"),
)

Url = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar="KSHOT_SERVE_DATABASE",
        help="The server's: sqlite:///kshot.db or postgresql://user@host/name.",
        show_default=False,
    ),
]
File = Annotated[Path | None, typer.Option("--settings", help="The server's settings file.", show_default=False)]


@app.command(
    "create", epilog=examples("kshot keys create acme", "kshot keys create acme --scope predict --name reader")
)
def create(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Made where there is none of that name.")],
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    scope: Annotated[
        list[str] | None, typer.Option(help="predict, write, admin; once for each.", show_default="predict, write")
    ] = None,
    database: Url = None,
    settings: File = None,
    as_json: Json = False,
) -> None:
    """Create a key of a tenant, and print it: it is stored nowhere."""
    from kshot.serving.store import access, journal

    output = Output(as_json)
    if not tenant.strip():
        raise ConfigError(f"expected the name of a tenant, got {tenant!r}")
    with _database(database, settings, new=True) as opened:

        def change(connection: Connection) -> tuple[str, str]:
            made = access.create_key(connection, tenant, name, scope or ("predict", "write"))
            owner = access.find_tenant(connection, tenant)
            journal.note(connection, "key.create", tenant=str(owner), key=made[0])
            return made

        id_, secret = opened.write(change).result()
    output.say(f"{id_} of tenant {tenant}. Shown this once:")
    output.say(secret)
    output.result({"id": id_, "tenant": tenant, "key": secret})


@app.command("list", epilog=examples("kshot keys list", "kshot keys list --tenant acme --json"))
def list_(
    tenant: Annotated[str | None, typer.Option(help="Of this one alone.", show_default=False)] = None,
    database: Url = None,
    settings: File = None,
    as_json: Json = False,
) -> None:
    """List keys: whose they are and what they allow, never what they are."""
    from datetime import datetime, timezone

    from kshot.serving.store import access

    output = Output(as_json)
    with _database(database, settings) as opened, opened.reading() as connection:
        found = access.list_keys(connection, tenant)

    def moment(seconds: float | None) -> str:
        return "" if seconds is None else datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M")

    output.table(
        ["id", "tenant", "name", "scopes", "created", "revoked"],
        [
            [k["id"], k["tenant"], k["name"], ",".join(k["scopes"]), moment(k["created"]), moment(k["revoked"])]
            for k in found
        ],
    )
    output.result(found)


@app.command("revoke", epilog=examples("kshot keys revoke key_0123456789abcdef01234567"))
def revoke(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Of the key (kshot keys list).")],
    database: Url = None,
    settings: File = None,
) -> None:
    """Revoke a key: the next request with it is refused."""
    from kshot.serving.store import access, journal

    def change(connection: Connection) -> bool:
        tenant = access.revoke_key(connection, id_)
        if tenant is not None:
            journal.note(connection, "key.revoke", tenant=tenant, key=id_)
        return tenant is not None

    with _database(database, settings) as opened:
        if not opened.write(change).result():
            raise ConfigError(f"there is no key {id_} that is not revoked: kshot keys list says which there are")
    Output().say(f"{id_} is revoked")


@app.command("quota", epilog=examples("kshot keys quota acme --tasks 100 --requests-per-second 50"))
def quota(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Its name.")],
    tasks: Annotated[int | None, typer.Option(min=0, help="Stored at once.", show_default=False)] = None,
    examples: Annotated[int | None, typer.Option(min=0, help="Over all tasks.", show_default=False)] = None,
    bytes_: Annotated[int | None, typer.Option("--bytes", min=0, help="Of examples.", show_default=False)] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            "--requests-per-second", min=0.001, help="On average, of each worker its part.", show_default=False
        ),
    ] = None,
    database: Url = None,
    settings: File = None,
    as_json: Json = False,
) -> None:
    """Say what a tenant may have, in place of the server's quotas; without options, show it."""
    from kshot.serving.store import access, journal

    given = {"tasks": tasks, "examples": examples, "bytes": bytes_, "requests_per_second": rate}
    said = {name: value for name, value in given.items() if value is not None}

    def change(connection: Connection) -> dict[str, Any] | None:
        id_ = access.find_tenant(connection, tenant)
        if id_ is None:
            return None
        if said:
            journal.note(connection, "quota", tenant=id_, quotas=said)
        return access.set_quotas(connection, id_, said)

    with _database(database, settings) as opened:
        found = opened.write(change).result()
    if found is None:
        raise ConfigError(f"there is no tenant {tenant!r}: kshot keys list says which there are")
    output = Output(as_json)
    own = ", ".join(f"{name} {value:,}" for name, value in found.items()) or "none of its own"
    output.say(f"Quotas of {tenant}: {own}; else those of the server's settings")
    output.result({"tenant": tenant, "quotas": found})


@app.command("rotate", epilog=examples("kshot keys rotate", "kshot keys rotate --begin", "kshot keys rotate --finish"))
def rotate(
    begin: Annotated[
        bool, typer.Option("--begin", help="Only add the new key to the file: restart all servers then.")
    ] = False,
    finish: Annotated[bool, typer.Option("--finish", help="Seal with the key that --begin added.")] = False,
    database: Url = None,
    settings: File = None,
) -> None:
    """Replace the master key: all that is stored is sealed with a new one, and the old one is gone.

    The server is stopped for it; or it is done in two steps: --begin, a restart of all servers with the new key file,
    --finish.
    """
    from kshot.serving.settings import load_settings
    from kshot.serving.store.rotation import reseal
    from kshot.serving.vault import Vault, in_use, new_key, read_keys, write_keys

    if begin and finish:
        raise ConfigError("expected --begin or --finish, got both: leave both out for all of it at once")
    path = Path(load_settings(settings).master_key)
    keys = read_keys(path)
    if not (begin or finish):
        with in_use(path, alone=True):  # let go at once: to serve with it takes a start, which reads the file as it is
            pass
    if finish and len(keys) == 1:
        raise ConfigError(f"there is one master key in {path} alone, which everything is sealed with: --begin first")
    if not finish:
        keys = [new_key(), *keys]
        write_keys(path, keys)
    if begin:
        Output().say(f"{path} has a new key. Restart all servers with it, then: kshot keys rotate --finish")
        return
    vault, rows = Vault(keys), 0
    with _database(database, settings) as opened:
        while done := opened.write(lambda connection: reseal(connection, vault)).result():
            rows += done
        opened.erase()
    write_keys(path, keys[:1])
    Output().say(f"{rows:,} rows are sealed with the new key, the only one in {path}")


@contextmanager
def _database(url: str | None, settings: Path | None, *, new: bool = False) -> Iterator[Database]:
    """The server's database; with `new` also one that there is not yet."""
    from kshot.databases import address
    from kshot.serving.settings import load_settings
    from kshot.serving.store.database import Database
    from kshot.serving.store.migrate import migrate

    asked = load_settings(settings, {"database": url}).database
    parsed = address(asked)
    if not new and parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).is_file():
        raise ConfigError(
            f"there is no database {parsed.database}: run this where the server does, or say --database or --settings"
        )
    opened = Database(asked)
    try:
        migrate(opened)
        yield opened
    finally:
        opened.close()
