"""How alembic reaches the database: over the connection that `migrate` gives it."""

from alembic import context

from kshot.serving.store.tables import METADATA

connection = context.config.attributes["connection"]
# SQLite changes a table by making another and copying (batch mode).
context.configure(connection=connection, target_metadata=METADATA, render_as_batch=connection.dialect.name == "sqlite")
context.run_migrations()
