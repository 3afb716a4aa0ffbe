"""All tables on one metadata: importing this module makes it complete, for migrations and for creating a database."""

from __future__ import annotations

from llmasos_registry.server.db import (
    tables_accounts,
    tables_api,
    tables_hub,
    tables_index,
    tables_results,
    tables_store,
)
from llmasos_registry.server.db.metadata import metadata

__all__ = [
    "metadata",
    "tables_accounts",
    "tables_api",
    "tables_hub",
    "tables_index",
    "tables_results",
    "tables_store",
]
