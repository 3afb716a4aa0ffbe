"""Discussions: open, comment, rename, close, open again. Pull requests are not kept here."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from starlette.responses import Response

from llmasos_registry.server.accounts.audit import audit, emit
from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_hub import discussion_events, discussions, repos
from llmasos_registry.server.failures import Failure, bad_request, forbidden, not_supported
from llmasos_registry.server.hub.answers import moment
from llmasos_registry.server.hub.repository import Repo, check_covered, requested_repo
from llmasos_registry.server.responses import json_response
from llmasos_registry.server.routing import Route

PAGE = 50
MAX_TITLE = 300
MAX_COMMENT = 65_536
MAX_EVENTS = 1_000


def list_discussions(request: Request) -> Response:
    """GET /api/{kind}/{repo}/discussions?p&status&author&type."""
    query = request.query_params
    page = int(query["p"]) if query.get("p", "").isdecimal() and len(query["p"]) < 9 else 0
    with request.registry.db.read() as conn:
        repo = requested_repo(conn, request)
        chosen = [discussions.c.repo_id == repo.id]
        if query.get("status") in ("open", "closed"):
            chosen.append(discussions.c.status == query["status"])
        if query.get("author"):
            chosen.append(sa.func.lower(discussions.c.author) == query["author"].lower())
        if query.get("type") == "pull_request":
            chosen.append(sa.false())
        count = conn.execute(sa.select(sa.func.count()).select_from(discussions).where(*chosen)).scalar_one()
        rows = conn.execute(
            sa.select(discussions)
            .where(*chosen)
            .order_by(discussions.c.num.desc())
            .limit(PAGE)
            .offset(page * PAGE)
        ).all()
    found = [_answer(repo, row) for row in rows]
    return json_response({"count": count, "start": page * PAGE, "discussions": found})


def discussion(request: Request) -> Response:
    """GET /api/{kind}/{repo}/discussions/{num}."""
    with request.registry.db.read() as conn:
        repo = requested_repo(conn, request)
        row = _find(conn, repo, request)
        events = conn.execute(
            sa.select(discussion_events)
            .where(discussion_events.c.repo_id == repo.id, discussion_events.c.num == row.num)
            .order_by(discussion_events.c.created_at, discussion_events.c.id)
        ).all()
    shown = [_event(e.id, e.kind, e.author, e.created_at, e.data) for e in events]
    return json_response({**_answer(repo, row), "events": shown, "diff": ""})


def open_discussion(request: Request) -> Response:
    """POST /api/{kind}/{repo}/discussions {title, description, pullRequest}."""
    body, caller = request.json_object(), request.caller
    if body.get("pullRequest"):
        raise not_supported("pull requests; commit to a branch instead")
    title = _text(body, "title", MAX_TITLE)
    text = _text(body, "description", MAX_COMMENT)
    with request.registry.db.write() as conn:
        repo = requested_repo(conn, request)
        check_covered(repo, caller)
        # One number each: on PostgreSQL the lock keeps two openers apart.
        conn.execute(sa.select(repos.c.id).where(repos.c.id == repo.id).with_for_update())
        last = conn.execute(
            sa.select(sa.func.max(discussions.c.num)).where(discussions.c.repo_id == repo.id)
        ).scalar_one()
        number = (last or 0) + 1
        conn.execute(
            discussions.insert().values(
                repo_id=repo.id,
                num=number,
                title=title,
                author=caller.name,
                status="open",
                created_at=utcnow(),
            )
        )
        _add(conn, repo, number, caller, "comment", _comment(text))
        row = conn.execute(
            sa.select(discussions).where(discussions.c.repo_id == repo.id, discussions.c.num == number)
        ).one()
        _note(conn, caller, repo, "discussion.open", {"num": number, "title": title})
    return json_response({**_answer(repo, row), "url": f"{request.root}{repo.web_path}/discussions/{number}"})


def comment(request: Request) -> Response:
    """POST .../discussions/{num}/comment {comment}."""
    text = _text(request.json_object(), "comment", MAX_COMMENT)
    with request.registry.db.write() as conn:
        repo = requested_repo(conn, request)
        check_covered(repo, request.caller)
        row = _find(conn, repo, request)
        made = _add(conn, repo, row.num, request.caller, "comment", _comment(text))
        _note(conn, request.caller, repo, "discussion.comment", {"num": row.num})
    return json_response({"newMessage": made})


def change_status(request: Request) -> Response:
    """POST .../discussions/{num}/status {status, comment?}: by its author, or a maintainer."""
    body = request.json_object()
    status = body.get("status")
    if status not in ("open", "closed"):
        raise bad_request('`status` must be "open" or "closed"')
    with request.registry.db.write() as conn:
        repo = requested_repo(conn, request)
        row = _own(conn, repo, request)
        if row.status == status:
            raise bad_request(f"the discussion is {status} already")
        _change(conn, repo, row.num, status=status)
        if body.get("comment"):
            _add(
                conn, repo, row.num, request.caller, "comment", _comment(_text(body, "comment", MAX_COMMENT))
            )
        made = _add(conn, repo, row.num, request.caller, "status-change", {"status": status})
        _note(conn, request.caller, repo, "discussion.status", {"num": row.num, "status": status})
    return json_response({"newStatus": made})


def change_title(request: Request) -> Response:
    """POST .../discussions/{num}/title {title}: by its author, or a maintainer."""
    title = _text(request.json_object(), "title", MAX_TITLE)
    with request.registry.db.write() as conn:
        repo = requested_repo(conn, request)
        row = _own(conn, repo, request)
        _change(conn, repo, row.num, title=title)
        data = {"from": row.title, "to": title}
        made = _add(conn, repo, row.num, request.caller, "title-change", data)
        _note(conn, request.caller, repo, "discussion.title", {"num": row.num})
    return json_response({"newTitle": made})


def _find(conn: sa.Connection, repo: Repo, request: Request) -> sa.Row[Any]:
    text = request.params["num"]
    number = int(text) if text.isdecimal() and len(text) < 9 else 0
    row = conn.execute(
        sa.select(discussions).where(discussions.c.repo_id == repo.id, discussions.c.num == number)
    ).one_or_none()
    if row is None:
        raise Failure(404, f"{repo.full_name} has no discussion {text[:20]}")
    return row


def _own(conn: sa.Connection, repo: Repo, request: Request) -> sa.Row[Any]:
    row, caller = _find(conn, repo, request), request.caller
    check_covered(repo, caller)
    if row.author != caller.name and not caller.may_write(repo.owner, repo.full_name):
        raise forbidden("Only its author and maintainers may change a discussion")
    return row


def _change(conn: sa.Connection, repo: Repo, number: int, **values: str) -> None:
    conn.execute(
        discussions.update()
        .where(discussions.c.repo_id == repo.id, discussions.c.num == number)
        .values(**values)
    )


def _add(
    conn: sa.Connection, repo: Repo, number: int, caller: Caller, kind: str, data: dict[str, Any]
) -> dict[str, Any]:
    count = conn.execute(
        sa.select(sa.func.count())
        .select_from(discussion_events)
        .where(discussion_events.c.repo_id == repo.id, discussion_events.c.num == number)
    ).scalar_one()
    if count >= MAX_EVENTS:
        raise forbidden(f"The discussion has {count} entries; {MAX_EVENTS} are allowed")
    now, name = utcnow(), secrets.token_hex(12)
    conn.execute(
        discussion_events.insert().values(
            id=name, repo_id=repo.id, num=number, kind=kind, author=caller.name, data=data, created_at=now
        )
    )
    return _event(name, kind, caller.name, now, data)


def _comment(text: str) -> dict[str, Any]:
    return {"edited": False, "hidden": False, "latest": {"raw": text}}


def _event(name: str, kind: str, author: str, at: datetime, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": name,
        "type": kind,
        "author": {"name": author, "type": "user"},
        "createdAt": moment(at),
        "data": data,
    }


def _answer(repo: Repo, row: sa.Row[Any]) -> dict[str, Any]:
    return {
        "num": row.num,
        "title": row.title,
        "author": {"name": row.author, "type": "user"},
        "status": row.status,
        "createdAt": moment(row.created_at),
        "isPullRequest": False,
        "repo": {"name": repo.full_name, "type": repo.kind},
    }


def _text(body: dict[str, Any], name: str, most: int) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise bad_request(f"`{name}` must be text")
    if len(value) > most:
        raise bad_request(f"`{name}` is longer than {most} characters")
    return value.strip()


def _note(conn: sa.Connection, caller: Caller, repo: Repo, action: str, detail: dict[str, Any]) -> None:
    audit(conn, caller, action, f"{repo.kind}:{repo.full_name}", detail)
    emit(conn, f"{repo.kind}.{action}", repo.full_name, {**detail, "author": caller.name})


_API = "/api/{kind:repos}/{repo}/discussions"
ROUTES: tuple[Route, ...] = (
    Route("GET", _API, list_discussions, "public"),
    Route("POST", _API, open_discussion, "write", body=1 << 20),
    Route("GET", f"{_API}/{{num}}", discussion, "public"),
    Route("POST", f"{_API}/{{num}}/comment", comment, "write", body=1 << 20),
    Route("POST", f"{_API}/{{num}}/status", change_status, "write", body=1 << 20),
    Route("POST", f"{_API}/{{num}}/title", change_title, "write", body=1 << 16),
)
