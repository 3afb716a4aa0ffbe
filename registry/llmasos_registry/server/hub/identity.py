"""Who the caller is, what he may do, and the small questions that Hub clients ask on the way."""

from __future__ import annotations

import sqlalchemy as sa
from starlette.responses import Response

from llmasos_registry.server.context import Request
from llmasos_registry.server.db.tables_accounts import accounts, tokens
from llmasos_registry.server.failures import bad_request, unauthorized
from llmasos_registry.server.hub.answers import moment
from llmasos_registry.server.hub.card import card_warnings, check_card
from llmasos_registry.server.hub.repository import requested_repo
from llmasos_registry.server.responses import json_response
from llmasos_registry.server.routing import Route

#: Our roles in the words of the Hub.
_ROLES = {"owner": "admin", "maintainer": "write", "reader": "read"}
MAX_CARD = 4 << 20


def whoami(request: Request) -> Response:
    """GET /api/whoami-v2."""
    caller = request.caller
    if caller.anonymous:
        raise unauthorized()
    with request.registry.db.read() as conn:
        account = conn.execute(sa.select(accounts).where(accounts.c.id == caller.account)).one()
        token = conn.execute(sa.select(tokens).where(tokens.c.id == caller.token)).one_or_none()
        orgs = conn.execute(
            sa.select(accounts.c.id, accounts.c.name, accounts.c.name_key, accounts.c.fullname)
            .where(accounts.c.name_key.in_(list(caller.roles)))
            .order_by(accounts.c.name_key)
        ).all()
    role = next((s for s in ("write", "read") if s in caller.scopes), "none")
    access = {"displayName": token.name, "role": role, "createdAt": moment(token.created_at)} if token else {}
    return json_response(
        {
            "type": "user",
            "id": f"{account.id:024x}",
            "name": account.name,
            "fullname": account.fullname or account.name,
            "isPro": False,
            "canPay": False,
            "orgs": [
                {
                    "type": "org",
                    "id": f"{org.id:024x}",
                    "name": org.name,
                    "fullname": org.fullname or org.name,
                    "roleInOrg": _ROLES[caller.roles[org.name_key]],
                }
                for org in orgs
            ],
            "auth": {"type": "access_token", "accessToken": access},
        }
    )


def auth_check(request: Request) -> Response:
    """GET /api/{kind}/{repo}/auth-check: whether the caller may take files."""
    with request.registry.db.read() as conn:
        requested_repo(conn, request, "content")
    return json_response({})


def auth_check_write(request: Request) -> Response:
    """GET /api/{kind}/{repo}/auth-check/write: whether the caller may change files."""
    with request.registry.db.read() as conn:
        requested_repo(conn, request, "write")
    return json_response({})


def validate_yaml(request: Request) -> Response:
    """POST /api/validate-yaml {content, repoType}: the front matter of a card, checked as a commit checks it."""
    content = request.json_object().get("content")
    if not isinstance(content, str):
        raise bad_request("`content` must be the text of README.md")
    errors, card = check_card(content)
    warnings = [] if errors else card_warnings(card, content)
    answer = {
        "errors": [{"message": text} for text in errors],
        "warnings": [{"message": text} for text in warnings],
    }
    return json_response(answer, 400 if errors else 200)


async def agent_harnesses(request: Request) -> Response:
    """GET /api/agent-harnesses: none are known. Clients ask once a day when they get an answer, else in every process."""
    return json_response({"standardEnvVars": [], "harnesses": {}})


async def telemetry(request: Request) -> Response:
    """HEAD /api/telemetry/...: taken note of by nobody."""
    return Response(None, 204)


ROUTES: tuple[Route, ...] = (
    Route("GET", "/api/whoami-v2", whoami, "public"),
    Route("GET", "/api/{kind:repos}/{repo}/auth-check", auth_check, "public"),
    Route("GET", "/api/{kind:repos}/{repo}/auth-check/write", auth_check_write, "public"),
    Route("POST", "/api/validate-yaml", validate_yaml, "public", body=MAX_CARD),
    Route("GET", "/api/agent-harnesses", agent_harnesses, "public", weight="free"),
    Route("HEAD", "/api/telemetry/{path:path}", telemetry, "public", weight="free"),
)
