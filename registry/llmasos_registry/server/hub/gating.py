"""Gated repositories: everybody sees them, files go to those who asked and were let in.

``auto`` lets in whoever asks, ``manual`` waits for a maintainer. Grants belong to accounts, never to tokens.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import sqlalchemy as sa
from starlette.responses import Response

from llmasos_registry.server.accounts.audit import audit, emit
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_accounts import accounts
from llmasos_registry.server.db.tables_hub import access_requests, repos
from llmasos_registry.server.failures import Failure, bad_request
from llmasos_registry.server.hub.answers import moment, next_page, page_limit
from llmasos_registry.server.hub.repository import Repo, check_covered, requested_repo
from llmasos_registry.server.responses import json_response
from llmasos_registry.server.routing import Route

STATUSES = ("pending", "accepted", "rejected")
PAGE = 1000
MAX_FIELDS = 50
MAX_FIELD = 1000


def ask_model(request: Request) -> Response:
    """POST /{repo}/ask-access."""
    return _ask(request, "model")


def ask_dataset(request: Request) -> Response:
    """POST /datasets/{repo}/ask-access."""
    return _ask(request, "dataset")


def _ask(request: Request, kind: str) -> Response:
    fields, caller = _fields(request), request.caller
    with request.registry.db.write() as conn:
        repo = requested_repo(conn, request, "read", kind)
        check_covered(repo, caller)
        _check_gated(repo)
        same = (access_requests.c.repo_id == repo.id) & (access_requests.c.user_id == caller.account)
        _lock(conn, repo)
        status = conn.execute(sa.select(access_requests.c.status).where(same)).scalar_one_or_none()
        if status is None or (status == "pending" and repo.gated == "auto"):
            asked = status is None
            status = "accepted" if repo.gated == "auto" else "pending"
            now = utcnow()
            values = {"status": status, "fields": fields, "handled_at": now if status == "accepted" else None}
            if asked:
                conn.execute(
                    access_requests.insert().values(
                        repo_id=repo.id, user_id=caller.account, created_at=now, **values
                    )
                )
            else:
                conn.execute(access_requests.update().where(same).values(values))
            _note(conn, request, repo, "access.ask", {"user": caller.name, "status": status})
    return json_response({"status": status})


def list_requests(request: Request) -> Response:
    """GET /api/{kind}/{repo}/user-access-request/{status}, for maintainers."""
    status = request.params["status"]
    if status not in STATUSES:
        raise bad_request(f"the status is one of {', '.join(STATUSES)}")
    limit = page_limit(request, PAGE, PAGE)
    after = request.query_params.get("cursor", "0")
    if not after.isdecimal() or len(after) > 18:
        raise bad_request("this is not a cursor of this list")
    with request.registry.db.read() as conn:
        repo = requested_repo(conn, request, "write")
        rows = conn.execute(
            sa.select(access_requests, accounts.c.name, accounts.c.fullname)
            .join(accounts, accounts.c.id == access_requests.c.user_id)
            .where(
                access_requests.c.repo_id == repo.id,
                access_requests.c.status == status,
                access_requests.c.user_id > int(after),
            )
            .order_by(access_requests.c.user_id)
            .limit(limit + 1)
        ).all()
    answer = []
    for row in rows[:limit]:
        item: dict[str, Any] = {
            "requestId": str(row.user_id),
            "user": {"user": row.name, "fullname": row.fullname or row.name},
            "status": row.status,
            "timestamp": moment(row.created_at),
        }
        if row.fields:
            item["fields"] = row.fields
        answer.append(item)
    headers = next_page(request, cursor=str(rows[limit - 1].user_id)) if len(rows) > limit else None
    return json_response(answer, headers=headers)


def handle_request(request: Request) -> Response:
    """POST /api/{kind}/{repo}/user-access-request/handle {user | requestId, status, rejectionReason?}."""
    body = request.json_object()
    status = body.get("status")
    if status not in STATUSES:
        raise bad_request(f"`status` must be one of {', '.join(STATUSES)}")
    with request.registry.db.write() as conn:
        repo = requested_repo(conn, request, "write")
        _check_gated(repo)
        user = _user(conn, body)
        changed = conn.execute(
            access_requests.update()
            .where(
                access_requests.c.repo_id == repo.id,
                access_requests.c.user_id == user.id,
                access_requests.c.status != status,
            )
            .values(status=status, handled_at=None if status == "pending" else utcnow())
        )
        if changed.rowcount == 0:
            raise Failure(
                404, f"{user.name} has no request for {repo.full_name} that is not {status} already"
            )
        reason = body.get("rejectionReason")
        detail = {"user": user.name, "status": status, "reason": str(reason)[:MAX_FIELD] if reason else None}
        _note(conn, request, repo, "access.handle", detail)
    return json_response({})


def grant_access(request: Request) -> Response:
    """POST /api/{kind}/{repo}/user-access-request/grant {user}: let somebody in who did not ask."""
    with request.registry.db.write() as conn:
        repo = requested_repo(conn, request, "write")
        _check_gated(repo)
        user = _user(conn, request.json_object())
        _lock(conn, repo)
        now = utcnow()
        same = (access_requests.c.repo_id == repo.id) & (access_requests.c.user_id == user.id)
        values = {"status": "accepted", "handled_at": now}
        if conn.execute(access_requests.update().where(same).values(values)).rowcount == 0:
            conn.execute(
                access_requests.insert().values(repo_id=repo.id, user_id=user.id, created_at=now, **values)
            )
        _note(conn, request, repo, "access.grant", {"user": user.name})
    return json_response({})


def _lock(conn: sa.Connection, repo: Repo) -> None:
    conn.execute(sa.select(repos.c.id).where(repos.c.id == repo.id).with_for_update())


def _check_gated(repo: Repo) -> None:
    if not repo.gated:
        raise bad_request(f"{repo.full_name} is not gated")


def _user(conn: sa.Connection, body: dict[str, Any]) -> sa.Row[Any]:
    name, number = body.get("user"), body.get("requestId")
    where: sa.ColumnElement[bool]
    if isinstance(name, str):
        where = accounts.c.name_key == name.lower()
    elif isinstance(number, str) and number.isdecimal() and len(number) < 19:
        where = accounts.c.id == int(number)
    else:
        raise bad_request("`user` or `requestId` must say whose request is meant")
    row = conn.execute(sa.select(accounts).where(where, accounts.c.kind == "user")).one_or_none()
    if row is None:
        raise Failure(404, "There is no such user")
    return row


def _fields(request: Request) -> dict[str, str] | None:
    """What the asker wrote, as JSON or as a form."""
    if request.headers.get("content-type", "").startswith("application/json"):
        pairs = [(str(k), str(v)) for k, v in request.json_object().items()]
    else:
        try:
            pairs = parse_qsl(request.body_bytes.decode(), max_num_fields=MAX_FIELDS)
        except ValueError:
            raise bad_request("the form cannot be read") from None
    if len(pairs) > MAX_FIELDS or any(len(k) + len(v) > MAX_FIELD or "\0" in k + v for k, v in pairs):
        raise bad_request(f"at most {MAX_FIELDS} fields of {MAX_FIELD} characters")
    return dict(pairs) or None


def _note(conn: sa.Connection, request: Request, repo: Repo, action: str, detail: dict[str, Any]) -> None:
    audit(conn, request.caller, action, f"{repo.kind}:{repo.full_name}", detail)
    emit(conn, f"{repo.kind}.{action}", repo.full_name, detail)


_API = "/api/{kind:repos}/{repo}/user-access-request"
ROUTES: tuple[Route, ...] = (
    Route("POST", f"{_API}/handle", handle_request, "write", body=1 << 16),
    Route("POST", f"{_API}/grant", grant_access, "write", body=1 << 16),
    Route("GET", f"{_API}/{{status}}", list_requests, "read"),
)
WEB_ROUTES: tuple[Route, ...] = (
    Route("POST", "/datasets/{repo}/ask-access", ask_dataset, "read", body=1 << 16),
    Route("POST", "/{repo}/ask-access", ask_model, "read", body=1 << 16),
)
