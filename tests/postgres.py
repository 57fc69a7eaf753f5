"""A PostgreSQL of the tests' own: a cluster in a temporary folder, reached over a socket in it."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

_numbers = itertools.count()


def binaries() -> Path | None:
    """The folder of initdb and pg_ctl; Debian keeps them out of the PATH."""
    for folder in [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]:
        if (folder / "initdb").is_file():
            return folder
    found = shutil.which("initdb")
    return None if found is None else Path(found).resolve().parent


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """The address of a running server, which ends with the block. Without PostgreSQL the test is skipped, and fails
    where KSHOT_REQUIRE_POSTGRES says that there is one."""
    given = os.environ.get("KSHOT_TEST_POSTGRES")
    if given:
        yield given
        return
    folder = binaries()
    if folder is None:
        reason = "PostgreSQL is not installed: expected initdb, as Debian's package postgresql has it"
        (pytest.fail if os.environ.get("KSHOT_REQUIRE_POSTGRES") else pytest.skip)(reason)
    home = Path(tempfile.mkdtemp(prefix="kshot-pg-", dir="/tmp"))  # a socket's path must be short
    # PostgreSQL refuses to run as root.
    owner = pwd.getpwnam("postgres") if os.getuid() == 0 else None
    if owner is not None:
        os.chown(home, owner.pw_uid, owner.pw_gid)

    def run(*words: str) -> None:
        command = [str(folder / words[0]), *words[1:]]
        as_owner: dict[str, Any] = (
            {} if owner is None else {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        )
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False, **as_owner)
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        run("initdb", "-D", str(home / "data"), "-U", "kshot", "--auth=trust", "--no-sync", "-E", "UTF8")
        options = f"-k {home} -c listen_addresses='' -c max_connections=60"
        run("pg_ctl", "-D", str(home / "data"), "-w", "-l", str(home / "log"), "-o", options, "start")
        try:
            yield f"postgresql://kshot@/postgres?host={home}"
        finally:
            run("pg_ctl", "-D", str(home / "data"), "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def new_database(base: str) -> str:
    """The address of an empty database in a cluster."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(base, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return base.replace("/postgres?", f"/{name}?")
