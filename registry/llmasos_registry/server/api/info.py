"""What this registry is, and who is calling."""

from __future__ import annotations

from importlib.metadata import version

from starlette.responses import Response

from llmasos_registry.server.api.answers import Info, Me
from llmasos_registry.server.api.operation import Operation
from llmasos_registry.server.context import Request
from llmasos_registry.server.db.serial import current_serial
from llmasos_registry.server.responses import json_response


def info(request: Request) -> Response:
    """Where the faces of this registry are, and how far its serial has come."""
    with request.registry.db.read() as conn:
        serial = current_serial(conn)
    root = request.root
    answer: Info = {
        "name": "llmasos",
        "version": version("llmasos"),
        "api": "1",
        "hub": root,
        "index": f"{root}/simple/",
        "upload": f"{root}/legacy/",
        "serial": serial,
    }
    return json_response(answer)


def me(request: Request) -> Response:
    """Whom the token belongs to, and what it allows."""
    caller = request.caller
    answer: Me = {
        "name": caller.name,
        "admin": caller.admin,
        "scopes": sorted(caller.scopes),
        "projects": None if caller.projects is None else list(caller.projects),
        "orgs": [{"org": org, "role": role} for org, role in sorted(caller.roles.items())],
    }
    return json_response(answer)


OPERATIONS = (
    Operation("GET", "/v1/info", info, "public", {200: Info}),
    Operation("GET", "/v1/me", me, "read", {200: Me}),
)
