"""All operations of the registry's own API."""

from __future__ import annotations

from llmasos_registry.server.accounts import routes as accounts
from llmasos_registry.server.api import (
    advisories,
    audit_read,
    counts,
    file_signatures,
    info,
    plugins,
    publisher_keys,
    releases,
    repositories,
    search,
    webhooks,
)
from llmasos_registry.server.api.openapi import openapi_operation
from llmasos_registry.server.api.operation import Operation
from llmasos_registry.server.index import operations as index_operations
from llmasos_registry.server.results import leaderboard, publishing
from llmasos_registry.server.routing import Route

OPERATIONS: tuple[Operation, ...] = (
    *info.OPERATIONS,
    *search.OPERATIONS,
    *plugins.OPERATIONS,
    *index_operations.OPERATIONS,
    *repositories.OPERATIONS,
    *releases.OPERATIONS,
    *publisher_keys.OPERATIONS,
    *file_signatures.OPERATIONS,
    *advisories.OPERATIONS,
    *webhooks.OPERATIONS,
    *counts.OPERATIONS,
    *audit_read.OPERATIONS,
    *publishing.OPERATIONS,
    *leaderboard.OPERATIONS,
)
OPENAPI = openapi_operation((*OPERATIONS, *accounts.OPERATIONS))
ROUTES: tuple[Route, ...] = tuple(operation.route for operation in (*OPERATIONS, OPENAPI))
