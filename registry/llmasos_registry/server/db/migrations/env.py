"""Alembic's environment: the connection and its transaction are the caller's (``db.migrate``)."""

from __future__ import annotations

from alembic import context

from llmasos_registry.server.db.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
