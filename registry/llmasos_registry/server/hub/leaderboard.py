"""Leaderboards of datasets, from the ``.eval_results/*.yaml`` files at the head of models' main branches.

What a model's author wrote about his own model: nothing here is marked as verified.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from starlette.responses import Response

from llmasos_registry.server.context import Request
from llmasos_registry.server.db.tables_accounts import accounts
from llmasos_registry.server.db.tables_hub import eval_results, repos
from llmasos_registry.server.failures import Failure
from llmasos_registry.server.hub.listings import visible
from llmasos_registry.server.hub.repository import requested_repo
from llmasos_registry.server.responses import json_response
from llmasos_registry.server.routing import Route

#: Entries of one answer.
MAX_ENTRIES = 1000


def leaderboard(request: Request) -> Response:
    """GET /api/datasets/{repo}/leaderboard?task&base_model: best first, each task ranked by itself."""
    caller, query = request.caller, request.query_params
    with request.registry.db.read() as conn:
        dataset = requested_repo(conn, request, "read", "dataset")
        # Left out by the query: rows that a caller may not see must not use up the limit.
        chosen = [eval_results.c.dataset == dataset.full_name.lower(), *visible(caller)]
        if query.get("task"):
            chosen.append(eval_results.c.task == query["task"])
        rows = conn.execute(
            sa.select(eval_results, repos.c.owner, repos.c.name, repos.c.private, repos.c.card)
            .add_columns(accounts.c.kind.label("owner_kind"), accounts.c.fullname)
            .join(repos, repos.c.id == eval_results.c.repo_id)
            .join(accounts, accounts.c.id == repos.c.owner_id)
            .where(*chosen)
            .order_by(eval_results.c.task, eval_results.c.value.desc(), repos.c.key, eval_results.c.id)
            .limit(10 * MAX_ENTRIES)
        ).all()
    answer: list[dict[str, Any]] = []
    ranks: dict[str, int] = {}
    for row in rows:
        name = f"{row.owner}/{row.name}"
        if not caller.may_read(row.owner, name, private=bool(row.private)) or len(answer) >= MAX_ENTRIES:
            continue
        # The clients' "base models only" leaves out what its card derives from another model.
        if query.get("base_model", "").lower() == "true" and (row.card or {}).get("base_model"):
            continue
        ranks[row.task] = ranks.get(row.task, 0) + 1
        source = row.details.get("source")
        entry = {
            "rank": ranks[row.task],
            "modelId": name,
            "value": row.value,
            "task": row.task,
            "filename": row.filename,
            "verified": False,
            "author": {
                "type": row.owner_kind,
                "name": row.owner,
                "fullname": row.fullname or row.owner,
                "avatarUrl": "",
            },
            # Some clients want the key, whatever it holds.
            "source": source if isinstance(source, dict) else None,
        }
        if isinstance(row.details.get("notes"), str):
            entry["notes"] = row.details["notes"]
        answer.append(entry)
    if not answer:
        raise Failure(404, f"No model here reports results on {dataset.full_name}")
    return json_response(answer)


ROUTES: tuple[Route, ...] = (Route("GET", "/api/datasets/{repo}/leaderboard", leaderboard, "public"),)
