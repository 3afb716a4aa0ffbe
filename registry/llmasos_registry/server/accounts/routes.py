"""A user's own tokens, organisations and their members, and what an account keeps, under ``/v1/``.

A token can make, list and end tokens only with its own scopes or weaker ones, for its own projects or fewer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from llmasos_registry.server.accounts.caller import ROLES, Caller
from llmasos_registry.server.accounts.people import (
    create_org,
    find_account,
    list_members,
    remove_member,
    set_member,
)
from llmasos_registry.server.accounts.quota import allowed_bytes, used_bytes
from llmasos_registry.server.accounts.tokens import TokenFacts, issue_token, list_tokens, revoke_token
from llmasos_registry.server.api.moments import Moment
from llmasos_registry.server.api.operation import Body, Operation, Text, read_body
from llmasos_registry.server.context import Request
from llmasos_registry.server.failures import forbidden, not_found
from llmasos_registry.server.responses import json_response

#: Organisations that a user makes: each has a quota and names of its own.
MAX_ORGS = 20
Scope = Literal["read", "write", "publish", "admin"]
Role = Literal["reader", "maintainer", "owner"]


class Token(TypedDict):
    """What may be known of a token."""

    id: int
    name: str
    scopes: list[str]
    projects: list[str] | None
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None


class NewToken(Token):
    """A token that was just made; ``token`` is shown this once."""

    token: str


class Tokens(TypedDict):
    """A user's tokens, newest first."""

    tokens: list[Token]


class Member(TypedDict):
    """A member of an organisation."""

    user: str
    role: str


class Org(TypedDict):
    """An organisation."""

    name: str
    fullname: str
    members: list[Member]


class Usage(TypedDict):
    """Bytes that an account keeps, and may keep."""

    account: str
    used: int
    quota: int


class TokenRequest(Body):
    """``expires_at``: none means as long as the token that asks."""

    name: Annotated[Text, Field(min_length=1, max_length=120)]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=4)]
    projects: (
        Annotated[list[Annotated[Text, Field(min_length=1, max_length=200)]], Field(max_length=100)] | None
    ) = None
    expires_at: Moment | None = None


class OrgRequest(Body):
    """A new organisation; who asks becomes its owner."""

    name: Annotated[Text, Field(min_length=1, max_length=96)]
    fullname: Annotated[Text, Field(max_length=200)] = ""


class MemberRequest(Body):
    """The role of a member."""

    role: Role


def _token(facts: TokenFacts) -> dict[str, Any]:
    return {
        key: value.isoformat() if isinstance(value, datetime) else value
        for key, value in asdict(facts).items()
    }


def own_tokens(request: Request) -> Response:
    """The caller's tokens, without the tokens themselves."""
    account = _unrestricted(request.caller)
    with request.registry.db.read() as conn:
        found = list_tokens(conn, account)
    return json_response({"tokens": [_token(facts) for facts in found]})


def create_token(request: Request) -> Response:
    """A new token of the caller, no stronger than the one that asks."""
    body = read_body(request, TokenRequest)
    caller = request.caller
    beyond = [scope for scope in body.scopes if scope not in caller.scopes]
    if beyond:
        raise forbidden(f"This token lacks the scope `{beyond[0]}` and cannot grant it")
    if caller.projects is not None and not _within(body.projects, caller.projects):
        raise forbidden("This token is restricted to some projects and cannot grant others")
    with request.registry.db.write() as conn:
        until = _expiry_of(conn, caller)
        if until is not None and (body.expires_at is None or body.expires_at > until):
            raise forbidden(f"This token expires {until.isoformat()} and cannot grant more time")
        account = find_account(conn, caller.name, "user")
        token, facts = issue_token(
            conn,
            caller,
            account,
            body.name,
            body.scopes,
            projects=body.projects,
            expires_at=body.expires_at,
        )
    return json_response({**_token(facts), "token": token}, 201, {"Cache-Control": "no-store"})


def _within(asked: list[str] | None, held: tuple[str, ...]) -> bool:
    """Whether each name asked for is one that the caller's token covers; patterns only as they stand there."""
    if asked is None:
        return False
    patterns = {p.lower() for p in held}
    plain = [a.lower() for a in asked if not set("*?[") & set(a)]
    return all(a.lower() in patterns for a in asked if set("*?[") & set(a)) and all(
        any(fnmatchcase(name, pattern) for pattern in patterns) for name in plain
    )


def _expiry_of(conn: sa.Connection, caller: Caller) -> datetime | None:
    assert caller.account is not None
    return next(facts.expires_at for facts in list_tokens(conn, caller.account) if facts.id == caller.token)


def end_token(request: Request) -> Response:
    """End one of the caller's tokens now: the one that asks, or one that is no stronger."""
    caller, text = request.caller, request.params["id"]
    if not text.isdecimal() or len(text) > 18:
        raise not_found(f"There is no token {text[:20]}")
    number = int(text)
    assert caller.account is not None
    with request.registry.db.write() as conn:
        if number != caller.token:
            _unrestricted(caller)
            held = [facts for facts in list_tokens(conn, caller.account) if facts.id == number]
            # A leaked token that only reads must not end those that publish.
            if any(set(facts.scopes) - caller.scopes for facts in held):
                raise forbidden("This token is weaker than that one and cannot end it")
        revoke_token(conn, caller, number, caller.account)
    return Response(None, 204)


def _unrestricted(caller: Caller) -> int:
    """The caller's account. A token that was given for some projects does not speak for the account: Failure 403."""
    if caller.projects is not None:
        raise forbidden("This token is restricted to some projects and does not speak for the account")
    assert caller.account is not None
    return caller.account


def add_org(request: Request) -> Response:
    """A new organisation, owned by the caller."""
    body = read_body(request, OrgRequest)
    account = _unrestricted(request.caller)
    with request.registry.db.write() as conn:
        owned = sum(role == "owner" for role in request.caller.roles.values())
        if owned >= MAX_ORGS and "admin" not in request.caller.scopes:
            raise forbidden(
                f"You own {owned} organisations; {MAX_ORGS} are allowed",
                hint="the operator makes more: `llmasos registry org add`",
            )
        org = create_org(conn, request.caller, body.name, account, fullname=body.fullname)
        answer = _org(conn, org.id, org.name, org.fullname)
    return json_response(answer, 201)


def show_org(request: Request) -> Response:
    """An organisation, for its members."""
    with request.registry.db.read() as conn:
        org = find_account(conn, request.params["org"], "org")
        _check_role(request.caller, org.name, "reader")
        return json_response(_org(conn, org.id, org.name, org.fullname))


def _org(conn: sa.Connection, number: int, name: str, fullname: str) -> Mapping[str, Any]:
    people = [{"user": user, "role": role} for user, role in list_members(conn, number)]
    return {"name": name, "fullname": fullname, "members": people}


def _check_role(caller: Caller, org: str, needed: Role) -> None:
    """Failure 404 for those who are no members: who belongs to what is the members' business; 403 for the others."""
    _unrestricted(caller)
    held = caller.role_in(org)
    if held is None:
        raise not_found(f"There is no organisation `{org}`")
    if ROLES.index(held) < ROLES.index(needed):
        raise forbidden(f"Only {needed}s of `{org}` may do this; you are a {held}")


def put_member(request: Request) -> Response:
    """Add a member, or change the role. Owners only."""
    body = read_body(request, MemberRequest)
    with request.registry.db.write() as conn:
        org = find_account(conn, request.params["org"], "org")
        _check_role(request.caller, org.name, "owner")
        set_member(conn, request.caller, org.name, request.params["user"], body.role)
        return json_response(_org(conn, org.id, org.name, org.fullname))


def drop_member(request: Request) -> Response:
    """Remove a member: owners anybody, members themselves."""
    with request.registry.db.write() as conn:
        org = find_account(conn, request.params["org"], "org")
        self = request.params["user"].lower() == request.caller.name.lower()
        _check_role(request.caller, org.name, "reader" if self else "owner")
        remove_member(conn, request.caller, org.name, request.params["user"])
    return Response(None, 204)


def usage(request: Request) -> Response:
    """How many bytes an account keeps and may keep: the caller's, or an organisation's for its members."""
    name = request.params["account"]
    with request.registry.db.read() as conn:
        account = find_account(conn, name)
        if request.caller.role_in(account.name) is None:
            raise not_found(f"There is no account `{name}`")
        answer = {
            "account": account.name,
            "used": used_bytes(conn, account.id),
            "quota": allowed_bytes(conn, request.registry.settings, account.id),
        }
    return json_response(answer)


OPERATIONS = (
    Operation("GET", "/v1/tokens", own_tokens, "read", {200: Tokens}, tag="accounts"),
    Operation("POST", "/v1/tokens", create_token, "read", {201: NewToken}, body=TokenRequest, tag="accounts"),
    Operation("DELETE", "/v1/tokens/{id}", end_token, "read", {204: None}, tag="accounts"),
    Operation("POST", "/v1/orgs", add_org, "write", {201: Org}, body=OrgRequest, tag="accounts"),
    Operation("GET", "/v1/orgs/{org}", show_org, "read", {200: Org}, tag="accounts"),
    Operation(
        "PUT",
        "/v1/orgs/{org}/members/{user}",
        put_member,
        "write",
        {200: Org},
        body=MemberRequest,
        tag="accounts",
    ),
    Operation("DELETE", "/v1/orgs/{org}/members/{user}", drop_member, "write", {204: None}, tag="accounts"),
    Operation("GET", "/v1/accounts/{account}/usage", usage, "read", {200: Usage}, tag="accounts"),
)
ROUTES = tuple(operation.route for operation in OPERATIONS)
