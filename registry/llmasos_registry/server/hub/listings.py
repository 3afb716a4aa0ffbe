"""Lists of models and datasets: filtered, sorted, a page at a time, only what the caller may see."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from starlette.responses import Response

from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.api.moments import read_moment
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.tables_hub import repo_tags, repos
from llmasos_registry.server.failures import bad_request, not_supported
from llmasos_registry.server.hub.answers import flag, next_page, page_limit, repo_fields
from llmasos_registry.server.hub.objects import listing
from llmasos_registry.server.hub.repository import COLUMNS, Repo, from_row, head, kind_of
from llmasos_registry.server.responses import json_response
from llmasos_registry.server.routing import Route

PAGE = 1000
#: With the files of each repository.
FULL_PAGE = 100
MAX_FILTERS = 20
_SORTS = {
    "lastModified": repos.c.updated_at,
    "createdAt": repos.c.created_at,
    "downloads": repos.c.downloads,
    "likes": repos.c.likes,
}
#: Filters that clients can send and that a wrong answer would be given to by leaving them out.
_UNSUPPORTED = ("apps", "inference", "inference_provider", "num_parameters", "trained_dataset")


def list_repos(request: Request) -> Response:
    """GET /api/{models|datasets}?search&author&filter&pipeline_tag&gated&sort&direction&limit&full&cardData&expand."""
    kind, query = kind_of(request.params["kind"]), request.query_params
    for name in _UNSUPPORTED:
        if name in query:
            raise not_supported(f"the filter `{name}`")
    full = flag(request, "full")
    wanted = query.getlist("expand") + query.getlist("expand[]")
    heavy = full or "siblings" in wanted
    limit = page_limit(request, FULL_PAGE if heavy else PAGE, FULL_PAGE if heavy else PAGE)
    sort = query.get("sort") or "lastModified"
    if sort not in _SORTS:
        raise not_supported(f"sorting by `{sort[:40]}`; there are {', '.join(_SORTS)}")
    column, upward = _SORTS[sort], query.get("direction") == "1"
    statement = sa.select(*COLUMNS, repos.c.card).where(
        repos.c.kind == kind, *visible(request.caller), *_filters(request)
    )
    if "cursor" in query:
        value, number = _read_cursor(query["cursor"], sort)
        beyond = column > value if upward else column < value
        beyond_id = repos.c.id > number if upward else repos.c.id < number
        statement = statement.where(beyond | ((column == value) & beyond_id))
    order = (column.asc(), repos.c.id.asc()) if upward else (column.desc(), repos.c.id.desc())
    with request.registry.db.read() as conn:
        rows = conn.execute(statement.order_by(*order).limit(limit + 1)).all()
        page = [(from_row(row), row.card or {}) for row in rows[:limit]]
        answer = [
            _shown(conn, request, repo, card, wanted, full=full)
            for repo, card in page
            # The token's own restriction is a pattern, which the database does not know.
            if request.caller.may_read(repo.owner, repo.full_name, private=repo.private)
        ]
    more = len(rows) > limit
    headers = next_page(request, cursor=_cursor(page[-1][0], sort)) if more else None
    return json_response(answer, headers=headers)


def visible(caller: Caller) -> list[sa.ColumnElement[bool]]:
    """Conditions on ``repos``: what the account may know of. The token's own restriction is the reader's to check."""
    if caller.admin and "admin" in caller.scopes:
        return []
    owners = [caller.name.lower(), *caller.roles] if not caller.anonymous else []
    return [
        repos.c.disabled.is_(None),
        sa.not_(repos.c.private) | sa.func.lower(repos.c.owner).in_(owners),
    ]


def _filters(request: Request) -> list[sa.ColumnElement[bool]]:
    query = request.query_params
    found: list[sa.ColumnElement[bool]] = []
    for text in query.getlist("search"):
        for word in text.lower().split():
            found.append(repos.c.key.contains(word, autoescape=True))
    if query.get("author"):
        # The key begins with the owner, and has an index.
        found.append(repos.c.key.startswith(query["author"].lower() + "/", autoescape=True))
    tags = [tag for text in query.getlist("filter") for tag in text.split(",") if tag]
    tags += query.getlist("pipeline_tag") + query.getlist("library")
    for tag in tags:
        tagged = sa.select(repo_tags.c.repo_id).where(repo_tags.c.tag == tag)
        found.append(repos.c.id.in_(tagged))
    if "gated" in query:
        wants = query["gated"].lower() in ("true", "1")
        found.append(repos.c.gated != "" if wants else repos.c.gated == "")
    if len(found) > MAX_FILTERS:
        raise bad_request(f"at most {MAX_FILTERS} filters and words can be combined")
    return found


def _shown(
    conn: sa.Connection,
    request: Request,
    repo: Repo,
    card: Mapping[str, Any],
    wanted: list[str],
    *,
    full: bool,
) -> dict[str, Any]:
    fields = repo_fields(repo, card)
    if full or "sha" in wanted or "siblings" in wanted:
        commit = head(conn, repo)
        if commit is not None:
            fields["sha"] = commit.oid
            if full or "siblings" in wanted:
                names = listing(conn, request.registry.objects, commit.tree, recursive=True)
                fields["siblings"] = [{"rfilename": e.name} for e in names if not e.is_tree]
    if wanted:
        keep = {"_id", "id", "modelId", *wanted}
        return {key: value for key, value in fields.items() if key in keep}
    if not full and not flag(request, "cardData"):
        fields.pop("cardData", None)
        fields.pop("model-index", None)
    return fields


def _cursor(repo: Repo, sort: str) -> str:
    value: Any = {
        "lastModified": repo.updated_at,
        "createdAt": repo.created_at,
        "downloads": repo.downloads,
        "likes": repo.likes,
    }[sort]
    text = json.dumps([value.isoformat() if isinstance(value, datetime) else value, repo.id])
    return base64.urlsafe_b64encode(text.encode()).decode()


def _read_cursor(text: str, sort: str) -> tuple[Any, int]:
    try:
        value, number = json.loads(base64.urlsafe_b64decode(text))
        if type(number) is not int or abs(number) >= 1 << 63:
            raise ValueError
        if sort in ("lastModified", "createdAt"):
            return read_moment(value), number
        if type(value) is not int or abs(value) >= 1 << 63:
            raise ValueError
        return value, number
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise bad_request("this is not a cursor of this list") from None


ROUTES: tuple[Route, ...] = (Route("GET", "/api/{kind:repos}", list_repos, "public"),)
