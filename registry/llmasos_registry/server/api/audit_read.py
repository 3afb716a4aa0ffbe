"""Reading the audit log: administrators everything, others what concerns their accounts."""

from __future__ import annotations

import sqlalchemy as sa
from pydantic import Field
from starlette.responses import Response

from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.api.access import find_account
from llmasos_registry.server.api.answers import AuditLine, AuditLines
from llmasos_registry.server.api.moments import rfc3339
from llmasos_registry.server.api.operation import Operation, Query, Text, read_query
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.tables_api import audit_log
from llmasos_registry.server.db.tables_index import projects
from llmasos_registry.server.failures import forbidden
from llmasos_registry.server.responses import json_response


class AuditQuery(Query):
    """Which lines."""

    account: Text = Field(
        default="",
        max_length=96,
        description="lines by or about this account; administrators may leave it out",
    )
    action: Text = Field(default="", max_length=60, description="only this action, for example model.release")
    limit: int = Field(default=100, ge=1, le=1000)
    cursor: int = Field(default=0, ge=0, le=2**62, description="`next` of the page before")


def read_audit(request: Request) -> Response:
    """Lines of the audit log, the newest first."""
    query, caller = read_query(request, AuditQuery), request.caller
    account = query.account or ("" if _is_admin(caller) else caller.name)
    wanted: sa.ColumnElement[bool] = sa.true()
    if account:
        with request.registry.db.read() as conn:
            owner = find_account(conn, account)
        account = owner.name
    if not _is_admin(caller) and not caller.owns(account, "read"):
        raise forbidden(f"Only owners of `{account}`, with an unrestricted token, may read what concerns it")
    if account:
        wanted = _about(owner.id, account)
    if query.action:
        wanted = sa.and_(wanted, audit_log.c.action == query.action)
    if query.cursor:
        wanted = sa.and_(wanted, audit_log.c.id < query.cursor)
    with request.registry.db.read() as conn:
        rows = conn.execute(
            sa.select(audit_log).where(wanted).order_by(audit_log.c.id.desc()).limit(query.limit + 1)
        ).all()
    lines: list[AuditLine] = [
        {
            "id": row.id,
            "at": rfc3339(row.at),
            "actor": row.actor,
            "token": row.token_id,
            "address": row.address,
            "action": row.action,
            "target": row.target,
            "detail": row.detail,
            "digest": row.digest,
        }
        for row in rows[: query.limit]
    ]
    more = str(lines[-1]["id"]) if len(rows) > query.limit else None
    answer: AuditLines = {"lines": lines, "next": more}
    return json_response(answer)


def _about(number: int, account: str) -> sa.ColumnElement[bool]:
    """Lines by the account, about it, and about its models, datasets and projects."""
    target = audit_log.c.target
    mine = sa.exists().where(
        projects.c.owner_id == number,
        sa.or_(target == projects.c.key, target.startswith(projects.c.key + "==")),
    )
    below = (target.startswith(f"{kind}:{account}/", autoescape=True) for kind in ("model", "dataset"))
    return sa.or_(audit_log.c.actor == account, target == account, *below, mine)


def _is_admin(caller: Caller) -> bool:
    return caller.admin and "admin" in caller.scopes


OPERATIONS = (Operation("GET", "/v1/audit", read_audit, "read", {200: AuditLines}, query=AuditQuery),)
