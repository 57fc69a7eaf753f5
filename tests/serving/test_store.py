"""The database: both kinds, migrated, committed in groups, without a trace of what is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from serving_toys import Letters, Server
from sqlalchemy.engine import Connection

from kshot.errors import ArtifactError, ConfigError, RunError
from kshot.serving.served import ServedModel
from kshot.serving.server import open_store
from kshot.serving.settings import load_settings
from kshot.serving.store import access, journal, registry, tables
from kshot.serving.store.database import Database
from kshot.serving.store.migrate import migrate
from kshot.serving.store.rotation import reseal
from kshot.serving.vault import Vault, about_example, new_key, read_keys


def test_the_migrations_make_the_tables_that_the_code_speaks_of(url: str) -> None:
    database = Database(url)
    migrate(database)
    migrate(database)  # of what is up to date nothing comes
    with database.engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.METADATA) == []
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ArtifactError, match="of a newer version of kshot: its schema is 9999"):
        migrate(database)
    database.close()


def test_a_database_of_something_else_is_left_alone(url: str) -> None:
    database = Database(url)
    with database.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE tasks (a INTEGER)"))
    with pytest.raises(ArtifactError, match="holds tables of something else: give the server one of its own"):
        migrate(database)
    database.close()


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("nonsense", ConfigError, "expected a database's address such as sqlite:///kshot.db, got 'nonsense'"),
        ("mysql://a/b", ConfigError, "expected a database of SQLite or PostgreSQL, got 'mysql://a/b'"),
        ("postgresql://nobody@127.0.0.1:1/none", RunError, r"nobody@127.0.0.1:1/none cannot be reached: "),
        ("sqlite:////proc/none/kshot.db", RunError, "cannot be reached"),
    ],
)
def test_what_is_no_database(url: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Database(url)


def test_writes_that_wait_together_are_one_commit(database: Database) -> None:
    begun, let, commits = threading.Event(), threading.Event(), []
    sa.event.listen(database.engine, "commit", lambda connection: commits.append(1))

    def slow(connection: sa.Connection) -> str:
        begun.set()
        assert let.wait(30)
        return access.create_tenant(connection, "first")

    def bad(connection: sa.Connection) -> None:
        access.create_tenant(connection, "third")
        raise ValueError("after all not")

    first = database.write(slow)
    assert begun.wait(30)
    others = [
        database.write(lambda c: access.create_tenant(c, "second")),
        database.write(bad),
        database.write(lambda c: access.create_tenant(c, "second")),  # a name that is taken
        database.write(lambda c: access.create_tenant(c, "fourth")),
    ]
    let.set()
    assert first.result(30).startswith("tenant_")
    assert others[0].result(30)
    with pytest.raises(ValueError, match="after all not"):
        others[1].result(30)
    with pytest.raises(sa.exc.IntegrityError):
        others[2].result(30)
    assert others[3].result(30)
    assert len(commits) == 2, "the first, and all others together"
    with database.reading() as connection:
        names = connection.execute(sa.select(tables.tenants.c.name)).scalars().all()
    assert sorted(names) == ["first", "fourth", "second"], "of a change that failed nothing is there"


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_full_disk_takes_nothing_along_that_was_committed_with_it(database: Database) -> None:
    """SQLite ends the whole transaction by itself then: the others of the group are written again, one by one."""
    first, second = threading.Event(), threading.Event()

    def hold(connection: Connection) -> None:
        first.set()
        assert second.wait(30)

    def small(name: str) -> Callable[[Connection], str]:
        return lambda connection: access.create_tenant(connection, name)

    def large(connection: Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 3}")
        try:
            access.create_tenant(connection, "x" * 1_000_000)
        finally:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")

    held = database.write(hold)
    assert first.wait(30)
    writes = [database.write(small("before")), database.write(large), database.write(small("after"))]
    second.set()
    held.result()
    with pytest.raises(sa.exc.OperationalError, match="full"):
        writes[1].result()
    assert writes[0].result() and writes[2].result()
    with database.reading() as connection:
        names = set(connection.execute(sa.select(tables.tenants.c.name)).scalars())
    assert {"before", "after"} <= names


def test_a_model_is_promoted_whatever_it_was_called_before(database: Database) -> None:
    def add(digest: str, name: str) -> None:
        database.write(lambda c: registry.add(c, digest=digest, name=name, path="-", info={})).result()

    add("1" * 64, "mine")
    add("2" * 64, "next")
    database.write(lambda c: registry.promote(c, digest="2" * 64, name="mine", path="-", info={})).result()
    with database.reading() as connection:
        assert registry.current(connection)["mine"].digest == "2" * 64


def test_no_key_is_made_for_what_was_sealed_with_another(
    url: str, database: Database, model: ServedModel, letters: Letters, tmp_path: Path
) -> None:
    with Server(database, {"characters": model}, tmp_path).running() as server:
        server.create(letters.examples)
    elsewhere = tmp_path / "elsewhere.key"
    with pytest.raises(
        ConfigError, match=r"there is no key file .*elsewhere.key, and what is in the database was sealed"
    ):
        open_store(load_settings(None, {"database": url, "master_key": str(elsewhere)}, {}))
    assert not elsewhere.exists()


def test_use_is_added_up(database: Database) -> None:
    tenant = database.write(lambda c: access.create_tenant(c, "a")).result()
    for _ in range(2):
        database.write(lambda c: journal.use(c, "2026-11-30", {(tenant, "requests"): 2, (tenant, "ms"): 0.5})).result()
    with database.reading() as connection:
        assert journal.used(connection, tenant) == [
            {"day": "2026-11-30", "what": "ms", "count": 1.0},
            {"day": "2026-11-30", "what": "requests", "count": 4.0},
        ]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_no_byte_of_an_example_is_in_the_files(
    url: str, database: Database, model: ServedModel, letters: Letters, tmp_path: Path
) -> None:
    """Neither while it is there, as it is sealed; nor its ciphertext when it is gone."""
    marks = [bytes(range(b, b + 64)) for b in (0, 64)]  # rows of pixels that occur nowhere else
    examples = [{"x": [list(mark)] * 64, "label": f"mark{i}"} for i, mark in enumerate(marks)]

    def files() -> bytes:
        return b"".join(path.read_bytes() for path in sorted(tmp_path.glob("kshot.db*")))

    with Server(database, {"characters": model}, tmp_path, retention="raw").running() as server:
        task = server.create([*letters.examples, *examples, *examples])["id"]
        with database.reading() as connection:
            rows = connection.execute(sa.select(tables.examples.c.number, tables.examples.c.content)).all()
        sealed = {number: bytes(content) for number, content in rows}
        assert len(sealed) == 29
        present = files()
        assert all(content in present for content in sealed.values())
        assert not any(mark in present for mark in marks)
        assert server.http.delete(f"/v1/tasks/{task}/examples/27", headers=server.key).status_code == 200
        present = files()
        assert sealed[26] in present
        assert sealed[27][:40] not in present
        assert server.http.delete(f"/v1/tasks/{task}", headers=server.key).status_code == 204
        present = files()
        assert not any(content[:40] in present for content in sealed.values())


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_no_byte_of_an_example_is_in_postgresqls_files(
    database: Database, model: ServedModel, letters: Letters, tmp_path: Path
) -> None:
    """Of deleted rows it keeps ciphertext until a vacuum, in its write-ahead log for longer: sealed under a key that is
    gone once it was replaced."""
    marks = [bytes(range(b, b + 64)) for b in (0, 64)]
    examples = [{"x": [list(mark)] * 64, "label": f"mark{i}"} for i, mark in enumerate(marks)]
    with database.engine.begin() as connection:
        place = Path(connection.exec_driver_sql("SHOW data_directory").scalar_one())

    def files() -> bytes:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("CHECKPOINT")
        found = [path for folder in ("base", "pg_wal") for path in (place / folder).rglob("*") if path.is_file()]
        return b"".join(path.read_bytes() for path in found)

    with Server(database, {"characters": model}, tmp_path, retention="raw").running() as server:
        task = server.create([*letters.examples, *examples, *examples])["id"]
        with database.reading() as connection:
            rows = connection.execute(sa.select(tables.examples.c.number, tables.examples.c.content)).all()
        sealed = {number: bytes(content) for number, content in rows}
        assert server.http.delete(f"/v1/tasks/{task}/examples/27", headers=server.key).status_code == 200
        present = files()
        assert sealed[26] in present, "the files are the right ones"
        assert not any(mark in present for mark in marks)
        kept = server.http.get(f"/v1/tasks/{task}/examples", headers=server.key).json()["examples"]
        assert 27 not in [one["number"] for one in kept]
    path = tmp_path / "kshot.key"
    before = Vault.of_file(path)
    assert before.open(sealed[27], about_example(task, 27)), "whoever finds its row, and has the key"
    after = [new_key(), *read_keys(path)]
    while database.write(lambda connection: reseal(connection, Vault(after))).result():
        pass
    with pytest.raises(ArtifactError, match="cannot be opened"):
        Vault(after[:1]).open(sealed[27], about_example(task, 27))


def test_what_is_kept_of_examples(database: Database, model: ServedModel, letters: Letters, tmp_path: Path) -> None:
    forms: dict[str, Any] = {}
    for retention in ("adaptation", "raw", "none"):
        with Server(database, {"characters": model}, tmp_path, retention=retention).running() as server:
            task = server.create(letters.examples)["id"]
            with database.reading() as connection:
                rows = connection.execute(
                    sa.select(tables.examples.c.form).where(tables.examples.c.task == task)
                ).scalars()
                forms[retention] = list(rows)
            added = server.http.post(
                f"/v1/tasks/{task}/examples", json={"examples": letters.examples[:1]}, headers=server.key
            )
            assert server.predict(task, letters.query(0))
            if retention == "none":
                assert added.status_code == 409
                assert "were not kept (retention: none)" in added.json()["detail"]
            else:
                assert added.json()["examples"] == 26
        server.service.database = database
    assert forms == {"adaptation": ["features"] * 25, "raw": ["raw"] * 25, "none": []}
