"""Tenants and their keys. Every function runs within the caller's transaction."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.engine import Connection

from kshot.errors import ConfigError, suggest
from kshot.serving.store.rows import Principal, new_id, now
from kshot.serving.store.tables import keys, tasks, tenants

SCOPES = ("predict", "write", "admin")
"""What a key may allow: to ask adapted tasks; to make, change and delete them; to see the audit log, to export and to
erase the tenant."""

PREFIX = "ks_"

DEFAULT = "default"
"""The tenant of the first key, and everyone where there are no keys."""


def hash_key(secret: str) -> bytes:
    """SHA-256 of a key: of 256 random bits nobody finds the secret by trying, so that no slow hash is needed."""
    return hashlib.sha256(secret.encode()).digest()


def find_tenant(connection: Connection, name: str) -> str | None:
    """The id of the tenant of that name."""
    return connection.execute(select(tenants.c.id).where(tenants.c.name == name)).scalar_one_or_none()


def set_quotas(connection: Connection, tenant: str, quotas: Mapping[str, float]) -> dict[str, Any]:
    """What a tenant may have in place of what the settings say, beside what was said before; all of it.

    Args:
        tenant: its id.
        quotas: by name: tasks, examples, bytes, requests_per_second.
    """
    known = connection.execute(select(tenants.c.quotas).where(tenants.c.id == tenant)).scalar_one()
    whole = {**known, **quotas}
    connection.execute(update(tenants).where(tenants.c.id == tenant).values(quotas=whole))
    return whole


def create_tenant(
    connection: Connection, name: str, quotas: Mapping[str, Any] | None = None, id_: str | None = None
) -> str:
    """A new tenant's id, which may be given."""
    id_ = id_ or new_id("tenant")
    connection.execute(
        insert(tenants),
        {
            "id": id_,
            "name": name,
            "created": now(),
            "quotas": dict(quotas or {}),
            "tasks": 0,
            "examples": 0,
            "bytes": 0,
        },
    )
    return id_


def create_key(
    connection: Connection, tenant: str, name: str = "", scopes: Sequence[str] = ("predict", "write")
) -> tuple[str, str]:
    """A new key of a tenant: its id, and the secret, which is stored nowhere.

    Args:
        tenant: its name; made where there is none of that name.

    Raises:
        ConfigError: an unknown scope.
    """
    for scope in scopes:
        if scope not in SCOPES:
            raise ConfigError(f"expected scopes of {', '.join(SCOPES)}, got {scope!r}. {suggest(scope, SCOPES)}")
    owner = find_tenant(connection, tenant) or create_tenant(connection, tenant)
    id_, secret = new_id("key"), PREFIX + secrets.token_urlsafe(32)
    connection.execute(
        insert(keys),
        {
            "id": id_,
            "tenant": owner,
            "hash": hash_key(secret),
            "name": name,
            "scopes": list(scopes),
            "created": now(),
            "revoked": None,
        },
    )
    return id_, secret


def list_keys(connection: Connection, tenant: str | None = None) -> list[dict[str, Any]]:
    """All keys, or a tenant's (by name): everything but what they are."""
    query = select(keys, tenants.c.name.label("owner")).join(tenants).order_by(keys.c.created, keys.c.id)
    if tenant is not None:
        query = query.where(tenants.c.name == tenant)
    return [
        {
            "id": row.id,
            "tenant": row.owner,
            "name": row.name,
            "scopes": row.scopes,
            "created": row.created,
            "revoked": row.revoked,
        }
        for row in connection.execute(query)
    ]


def revoke_key(connection: Connection, id_: str) -> str | None:
    """The id of the tenant whose key it was; None where there is no such key that was not revoked before."""
    live = (keys.c.id == id_, keys.c.revoked.is_(None))
    tenant: str | None = connection.execute(select(keys.c.tenant).where(*live)).scalar_one_or_none()
    connection.execute(update(keys).where(*live).values(revoked=now()))
    return tenant


_PRINCIPALS = (  # made once, as every request asks for it
    select(keys.c.hash, keys.c.id, keys.c.tenant, keys.c.scopes, tenants.c.quotas)
    .join(tenants)
    .where(keys.c.hash.in_(bindparam("hashes", expanding=True)), keys.c.revoked.is_(None))
)


def principals(connection: Connection, hashes: Iterable[bytes]) -> dict[bytes, Principal]:
    """Who the keys with these hashes belong to, those left out that are unknown or revoked."""
    rows = connection.execute(_PRINCIPALS, {"hashes": list(hashes)})
    return {row.hash: Principal(row.id, row.tenant, tuple(row.scopes), row.quotas) for row in rows}


def holdings(connection: Connection, tenant: str) -> dict[str, int]:
    """What a tenant has stored: tasks, examples, bytes."""
    row = connection.execute(
        select(tenants.c.tasks, tenants.c.examples, tenants.c.bytes).where(tenants.c.id == tenant)
    ).one()
    return {"tasks": row.tasks, "examples": row.examples, "bytes": row.bytes}


def erase_tenant(connection: Connection, tenant: str) -> int:
    """Deletes a tenant with all that is its own; the number of its tasks."""
    number = len(connection.execute(select(tasks.c.id).where(tasks.c.tenant == tenant)).all())
    connection.execute(delete(tenants).where(tenants.c.id == tenant))
    return number
