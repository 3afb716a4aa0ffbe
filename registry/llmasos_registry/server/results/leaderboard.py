"""Leaderboards: for each task, columns of scores that may be compared, best first.

Two scores share a column only when task, data, documents, metric, shots and template agree (``document.comparable``). Of one
model and publisher the newest record counts. Each row is tested against the one above it, document by document.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from pydantic import Field
from starlette.responses import Response

from llmasos_registry.server.api.answers import (
    Leaderboard,
    LeaderboardColumn,
    LeaderboardRow,
    Leaderboards,
    LeaderboardTask,
)
from llmasos_registry.server.api.moments import rfc3339
from llmasos_registry.server.api.operation import Operation, Query, Text, read_query
from llmasos_registry.server.context import Registry, Request
from llmasos_registry.server.db.tables_accounts import accounts
from llmasos_registry.server.db.tables_results import eval_records, eval_samples, eval_scores
from llmasos_registry.server.failures import not_found
from llmasos_registry.server.responses import json_response
from llmasos_registry.server.results.paired import Paired, compare
from llmasos_registry.server.results.samples import read_items
from llmasos_registry.server.results.standing import attestations_of, state_of

#: Columns of one answer, those with most rows first.
MOST_COLUMNS = 20


class BoardQuery(Query):
    """Which part of a leaderboard."""

    metric: Text | None = Field(default=None, max_length=200)
    limit: int = Field(default=20, ge=1, le=50, description="rows of a column")


class BoardsQuery(Query):
    """Which leaderboards."""

    search: Text = Field(default="", max_length=200)
    limit: int = Field(default=100, ge=1, le=1000)


def list_leaderboards(request: Request) -> Response:
    """Tasks with published scores, those of most models first."""
    query = read_query(request, BoardsQuery)
    models = sa.func.count(sa.distinct(eval_records.c.model_digest))
    with request.registry.db.read() as conn:
        rows = conn.execute(
            sa.select(eval_scores.c.task, models.label("models"))
            .join(eval_records, eval_records.c.digest == eval_scores.c.record)
            .where(
                eval_records.c.withdrawn_at.is_(None),
                eval_scores.c.task.contains(query.search, autoescape=True),
            )
            .group_by(eval_scores.c.task)
            .order_by(models.desc(), eval_scores.c.task)
            .limit(query.limit)
        ).all()
    tasks: list[LeaderboardTask] = [{"task": row.task, "models": row.models} for row in rows]
    answer: Leaderboards = {"tasks": tasks}
    return json_response(answer)


def get_leaderboard(request: Request) -> Response:
    """The columns of a task: scores that may be compared, with intervals, verification and the test against the row above."""
    query, task, registry = read_query(request, BoardQuery), request.params["task"], request.registry
    with registry.db.read() as conn:
        columns = _columns(conn, registry, task, query)
    if not columns:
        raise not_found(f"No score of `{task[:200]}` is published here")
    answer: Leaderboard = {"task": task, "columns": columns}
    return json_response(answer)


def _columns(
    conn: sa.Connection, registry: Registry, task: str, query: BoardQuery
) -> list[LeaderboardColumn]:
    newest = (
        sa.func.row_number()
        .over(
            partition_by=(
                eval_scores.c.comparable,
                eval_records.c.model_digest,
                eval_records.c.owner_id,
            ),
            order_by=(eval_records.c.created_at.desc(), eval_records.c.digest),
        )
        .label("place")
    )
    scores = (
        sa.select(
            eval_scores,
            eval_records.c.model,
            eval_records.c.keyid,
            eval_records.c.created_at,
            eval_records.c.owner_id,
            newest,
        )
        .join(eval_records, eval_records.c.digest == eval_scores.c.record)
        .where(eval_scores.c.task == task, eval_records.c.withdrawn_at.is_(None))
    )
    if query.metric is not None:
        scores = scores.where(eval_scores.c.metric == query.metric)
    found = scores.subquery()
    rows = conn.execute(
        sa.select(found, accounts.c.name.label("owner"), eval_samples.c.items_sha256)
        .join(accounts, accounts.c.id == found.c.owner_id)
        .outerjoin(
            eval_samples, (eval_samples.c.record == found.c.record) & (eval_samples.c.task == found.c.task)
        )
        .where(found.c.place == 1)
    ).all()
    grouped: dict[str, list[sa.Row[Any]]] = {}
    for row in rows:
        grouped.setdefault(row.comparable, []).append(row)
    largest = sorted(
        grouped.values(),
        key=lambda group: (-len(group), group[0].metric, group[0].filter, group[0].comparable),
    )
    return [_column(conn, registry, group, query.limit) for group in largest[:MOST_COLUMNS]]


def _column(
    conn: sa.Connection, registry: Registry, group: list[sa.Row[Any]], limit: int
) -> LeaderboardColumn:
    first = group[0]
    sign = -1 if first.higher_is_better else 1
    ordered = sorted(group, key=lambda row: (sign * row.value, row.created_at, row.record))[:limit]
    attested = attestations_of(conn, [row.record for row in ordered])
    name = f"{first.metric},{first.filter}"
    rows: list[LeaderboardRow] = []
    above: dict[str, float] = {}
    for rank, row in enumerate(ordered, start=1):
        raw = b"".join(registry.store.pieces(row.items_sha256)) if row.items_sha256 else b"{}"
        items = read_items(raw, name)
        tested = compare(above, items) if above and items else None
        rows.append(_row(rank, row, state_of(attested[row.record]), tested))
        above = items
    return {
        "comparable": first.comparable,
        "metric": first.metric,
        "filter": first.filter,
        "higher_is_better": bool(first.higher_is_better),
        "documents": first.n,
        "models": len(group),
        "rows": rows,
    }


def _row(rank: int, row: sa.Row[Any], state: str, tested: Paired | None) -> LeaderboardRow:
    return {
        "rank": rank,
        "model": row.model,
        "owner": row.owner,
        "record": row.record,
        "value": row.value,
        "stderr": row.stderr,
        "ci_low": row.ci_low,
        "ci_high": row.ci_high,
        "state": state,
        "keyid": row.keyid,
        "created_at": rfc3339(row.created_at),
        "above": None
        if tested is None
        else {
            "documents": tested.documents,
            "difference": tested.difference,
            "p": tested.p,
            "test": tested.test,
        },
    }


OPERATIONS = (
    Operation("GET", "/v1/leaderboards", list_leaderboards, "public", {200: Leaderboards}, query=BoardsQuery),
    Operation(
        "GET", "/v1/leaderboards/{task}", get_leaderboard, "public", {200: Leaderboard}, query=BoardQuery
    ),
)
