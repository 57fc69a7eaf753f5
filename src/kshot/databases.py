"""Addresses of databases: SQLite, which is a file, and PostgreSQL, which many machines reach."""

from __future__ import annotations

import re

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from kshot.errors import ConfigError


def shown(url: str) -> str:
    """An address as it may be shown: without its password; also one that is none, as far as it looks like one.

    >>> shown("postgresql://me:secret@host/sweeps")
    'postgresql://me:***@host/sweeps'
    """
    url = re.sub(r"([?&](?:ssl)?password=)[^&]*", r"\1***", url)
    # Up to the last @: a password in which nothing is escaped may hold others. What is in a path, as of
    # sqlite:///a:b@c, is none.
    return re.sub(r"^([^:/]*:/{1,2}[^:/]*:|[^:/]*:(?!/)).*@", r"\1***@", url, flags=re.DOTALL)


def address(url: str) -> URL:
    """A database's address, with the driver that it is reached by.

    Raises:
        ConfigError: it is none, or none of a database that the server runs on.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:  # ValueError: a port that is no number
        raise ConfigError(f"expected a database's address such as sqlite:///kshot.db, got {shown(url)!r}") from error
    if backend not in ("sqlite", "postgresql"):
        raise ConfigError(
            f"expected a database of SQLite or PostgreSQL, got {shown(url)!r}: say sqlite:///kshot.db, or "
            "postgresql+psycopg://user@host/name"
        )
    return parsed.set(drivername="postgresql+psycopg") if backend == "postgresql" else parsed
