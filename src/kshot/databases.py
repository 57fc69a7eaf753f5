"""Addresses of databases: SQLite, which is a file, and PostgreSQL, which many machines reach."""

from __future__ import annotations

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from kshot.errors import ConfigError


def address(url: str) -> URL:
    """A database's address, with the driver that it is reached by.

    Raises:
        ConfigError: it is none, or none of a database that the server runs on.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError(f"expected a database's address such as sqlite:///kshot.db, got {url!r}") from error
    if backend not in ("sqlite", "postgresql"):
        raise ConfigError(
            f"expected a database of SQLite or PostgreSQL, got {url!r}: say sqlite:///kshot.db, or "
            "postgresql+psycopg://user@host/name"
        )
    return parsed.set(drivername="postgresql+psycopg") if backend == "postgresql" else parsed
