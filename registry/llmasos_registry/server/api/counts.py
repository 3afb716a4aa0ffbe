"""How often a project, model or dataset was downloaded, day by day."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
from pydantic import Field
from starlette.responses import Response

from llmasos_registry.server.api.access import find_project, find_repo
from llmasos_registry.server.api.answers import DownloadCounts
from llmasos_registry.server.api.operation import Operation, Query, read_query
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_api import downloads
from llmasos_registry.server.hub.repository import kind_of
from llmasos_registry.server.responses import json_response


class SpanQuery(Query):
    """How far back."""

    days: int = Field(default=30, ge=1, le=3650, description="days, today included")


def of_project(request: Request) -> Response:
    """Downloads of a project's files."""
    span = read_query(request, SpanQuery)
    with request.registry.db.read() as conn:
        project = find_project(conn, request.caller, request.params["name"])
        answer = _counts(conn, "package", project.key, project.name, project.downloads, span.days)
    return json_response(answer)


def of_repository(request: Request) -> Response:
    """Downloads of a model or dataset: Hub clients count once a file they fetch, not once a repository."""
    span, params = read_query(request, SpanQuery), request.params
    with request.registry.db.read() as conn:
        repo = find_repo(conn, request.caller, kind_of(params["kinds"]), params["org"], params["name"])
        answer = _counts(conn, repo.kind, repo.full_name.lower(), repo.full_name, repo.downloads, span.days)
    return json_response(answer)


def _counts(conn: sa.Connection, kind: str, key: str, name: str, total: int, days: int) -> DownloadCounts:
    since = utcnow().date() - timedelta(days=days - 1)
    rows = conn.execute(
        sa.select(downloads.c.day, downloads.c.count)
        .where(downloads.c.kind == kind, downloads.c.subject == key, downloads.c.day >= since)
        .order_by(downloads.c.day)
    )
    return {
        "name": name,
        "total": total,
        "days": [{"day": day.isoformat(), "count": count} for day, count in rows],
    }


OPERATIONS = (
    Operation(
        "GET", "/v1/plugins/{name}/downloads", of_project, "public", {200: DownloadCounts}, query=SpanQuery
    ),
    Operation(
        "GET",
        "/v1/{kinds:kinds}/{org}/{name}/downloads",
        of_repository,
        "public",
        {200: DownloadCounts},
        query=SpanQuery,
    ),
)
