"""A database brought to the schema of this version of kshot."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import inspect
from sqlalchemy.engine import Connection

from kshot.errors import ArtifactError
from kshot.serving.store.database import Database, alone


def migrate(database: Database) -> None:
    """Makes the tables of an empty database, and those of an older one into today's.

    Raises:
        ArtifactError: the database is of a newer version of kshot, or holds something else.
    """
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(Path(__file__).parent / "migrations"))
    head = script.get_current_head()
    with database.engine.begin() as connection:
        alone(connection)
        found = MigrationContext.configure(connection).get_current_revision()
        if found == head:
            return
        known = {revision.revision for revision in script.walk_revisions()}
        if found is not None and found not in known:
            raise ArtifactError(
                f"the database is of a newer version of kshot: its schema is {found}, expected at most {head}. "
                "Upgrade: pip install -U kshot"
            )
        if found is None and inspect(connection).has_table("tasks"):
            raise ArtifactError("the database holds tables of something else: give the server one of its own")
        _upgrade(connection)


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
