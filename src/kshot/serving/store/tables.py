"""The tables of a server's database. Examples in them are sealed, and what was adapted to them; the names of tasks and
of classes, and what was said of them, are not.

::

    tenants 1-n keys                      who may ask
    tenants 1-n tasks 1-n versions        what a task was and is: which examples, which model, what was found out
                      1-1 states          the adapted state of the version that is served
                      1-n examples
                      1-n feedback        queries whose true label came later
    models                                what was served, and is
    answers                               to requests with an Idempotency-Key
    audit, usage, health                  who did what; what it cost; how the queries look

Times are seconds since 1970, UTC. Names of constraints are given, so that migrations can speak of them.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)
from sqlalchemy.types import JSON

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite counts rows by itself in an INTEGER key alone.
_Number = BigInteger().with_variant(Integer, "sqlite")


def _tenant(*, index: bool = False) -> Column[str]:
    return Column("tenant", String(32), ForeignKey("tenants.id", ondelete="CASCADE"), nullable=False, index=index)


def _task() -> Column[str]:
    return Column("task", String(32), ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False)


tenants = Table(
    "tenants",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created", Float, nullable=False),
    Column("quotas", JSON, nullable=False),  # what differs from the server's
    # What the tenant has: counted in the transaction that changes it, so that a quota needs no scan.
    Column("tasks", BigInteger, nullable=False, default=0),
    Column("examples", BigInteger, nullable=False, default=0),
    Column("bytes", BigInteger, nullable=False, default=0),
)

keys = Table(
    "keys",
    METADATA,
    Column("id", String(32), primary_key=True),
    _tenant(index=True),
    Column("hash", LargeBinary(32), nullable=False, unique=True),  # SHA-256 of a secret of 256 random bits
    Column("name", Text, nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created", Float, nullable=False),
    Column("revoked", Float),
)

models = Table(
    "models",
    METADATA,
    Column("digest", String(64), primary_key=True),
    Column("name", Text, nullable=False, index=True),
    Column("path", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("current", Boolean, nullable=False),  # of the models of its name the one that new tasks get
    Column("info", JSON, nullable=False),
)

tasks = Table(
    "tasks",
    METADATA,
    Column("id", String(32), primary_key=True),
    _tenant(),
    Column("name", Text),
    Column("model", Text, nullable=False),  # its name, whichever of its digests is current
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("version", Integer, nullable=False),  # the one that is served
    Column("last_version", Integer, nullable=False),
    Column("last_example", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("options", JSON, nullable=False),  # of its adaptations: steps
    Index("ix_tasks_tenant_created", "tenant", "created", "id"),  # a page of a tenant's tasks
    Index("ix_tasks_model", "model"),
)

versions = Table(
    "versions",
    METADATA,
    _task(),
    Column("number", Integer, nullable=False),
    Column("created", Float, nullable=False),
    Column("reason", String(16), nullable=False),  # create | add | delete | rollback | promote
    Column("digest", String(64), nullable=False),  # of the model
    Column("members", Text, nullable=False),  # numbers of its examples: "1-24,26"
    Column("info", JSON, nullable=False),
    PrimaryKeyConstraint("task", "number"),
)

states = Table(
    "states",
    METADATA,
    Column("task", String(32), ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("digest", String(64), nullable=False, index=True),  # those of an earlier model are to be adapted again
    Column("content", LargeBinary, nullable=False),
)

examples = Table(
    "examples",
    METADATA,
    _task(),
    Column("number", Integer, nullable=False),
    Column("created", Float, nullable=False),
    Column("form", String(16), nullable=False),  # raw | features
    Column("digest", String(64), nullable=False),  # of the model that its features are of; "" of a raw one
    Column("content", LargeBinary, nullable=False),  # sealed, its label with it
    PrimaryKeyConstraint("task", "number"),
)

feedback = Table(
    "feedback",
    METADATA,
    Column("id", _Number, primary_key=True, autoincrement=True),
    _task(),
    Column("created", Float, nullable=False),
    Column("version", Integer, nullable=False),
    Column("right", Boolean, nullable=False),
    Column("content", LargeBinary, nullable=False),  # sealed: the true label, the predicted one, and the query if kept
    Index("ix_feedback_task_id", "task", "id"),
)

answers = Table(
    "answers",
    METADATA,
    _tenant(),
    Column("key", String(255), nullable=False),
    Column("request", LargeBinary(32), nullable=False),  # SHA-256 of method, path and body
    Column("task", String(32)),  # gone with it
    Column("created", Float, nullable=False),
    Column("status", Integer, nullable=False),
    Column("content", LargeBinary, nullable=False),
    PrimaryKeyConstraint("tenant", "key"),
    Index("ix_answers_created", "created"),
    Index("ix_answers_task", "task"),
)

audit = Table(
    "audit",
    METADATA,
    Column("id", _Number, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    # No reference: that a tenant was erased stays known when it is.
    Column("tenant", String(32), nullable=False),
    Column("key", String(32)),
    Column("request", String(64)),
    Column("action", String(32), nullable=False),
    Column("task", String(32)),
    Column("detail", JSON, nullable=False),
    Index("ix_audit_tenant_id", "tenant", "id"),
)

usage = Table(
    "usage",
    METADATA,
    _tenant(),
    Column("day", String(10), nullable=False),
    Column("what", String(32), nullable=False),  # requests, predictions, adaptations
    Column("count", Float, nullable=False),
    PrimaryKeyConstraint("tenant", "day", "what"),
)

health = Table(
    "health",
    METADATA,
    Column("task", String(32), ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("updated", Float, nullable=False),
    Column("seen", JSON, nullable=False),  # sums over the queries: nothing of a single one
)
