"""Tokens: what they allow, what they can grant, how they end; what the database and the log keep of them."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.accounts.names import RESERVED
from llmasos_registry.server.accounts.tokens import sent_token
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_accounts import accounts, tokens
from llmasos_registry.server.failures import Failure
from llmasos_registry.server.serve import all_routes


def test_a_token_is_kept_as_its_hash(app: Any) -> None:
    token = app.user("ann")
    with app.db.read() as conn:
        rows = conn.execute(sa.select(tokens)).all()
    assert rows
    assert token not in repr(rows)


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (None, None),
        ("", None),
        ("Bearer llma_x", "llma_x"),
        ("bearer  llma_x ", "llma_x"),
        ("Basic X190b2tlbl9fOmxsbWFfeA==", "llma_x"),
        ("Basic bGxtYV94Og==", "llma_x"),
    ],
)
def test_where_a_token_may_stand(header: str | None, token: str | None) -> None:
    assert sent_token(header) == token


@pytest.mark.parametrize("header", ["Digest a", "Bearer ", "Bearer", "Basic !!!", "Basic /////w==", "x"])
def test_what_holds_no_token_is_refused(app: Any, header: str) -> None:
    answer = app.get("/v1/tokens", headers={"Authorization": header})
    assert answer.status_code == 401
    # The Hub clients look for exactly this.
    assert answer.headers["X-Error-Message"] == "Invalid credentials in Authorization header"
    assert "Basic" in answer.headers["WWW-Authenticate"]


def test_expired_revoked_and_disabled_are_refused_alike(app: Any) -> None:
    token = app.user("ann", ("read",))
    assert app.get("/v1/tokens", token).status_code == 200
    with app.db.write() as conn:
        conn.execute(tokens.update().values(expires_at=utcnow() - timedelta(seconds=1)))
    expired = app.get("/v1/tokens", token)
    with app.db.write() as conn:
        conn.execute(tokens.update().values(expires_at=None, revoked_at=utcnow()))
    revoked = app.get("/v1/tokens", token)
    with app.db.write() as conn:
        conn.execute(tokens.update().values(revoked_at=None))
        conn.execute(accounts.update().values(disabled=True))
    disabled = app.get("/v1/tokens", token)
    unknown = app.get("/v1/tokens", "llma_unknown")
    for answer in (expired, revoked, disabled, unknown):
        assert (answer.status_code, answer.json()) == (401, unknown.json())


def test_a_user_makes_lists_and_ends_tokens(app: Any) -> None:
    token = app.user("ann", ("write",))
    made = app.post("/v1/tokens", token, json={"name": "ci", "scopes": ["read"]})
    assert made.status_code == 201
    assert made.headers["Cache-Control"] == "no-store"
    listed = app.get("/v1/tokens", token)
    assert made.json()["token"] not in listed.text
    assert [t["name"] for t in listed.json()["tokens"]] == ["ci", "test"]
    fresh = made.json()["token"]
    assert app.get("/v1/tokens", fresh).status_code == 200
    assert app.delete(f"/v1/tokens/{made.json()['id']}", token).status_code == 204
    assert app.get("/v1/tokens", fresh).status_code == 401


def test_nobody_ends_the_token_of_another(app: Any) -> None:
    ann, bob = app.user("ann", ("admin",), admin=True), app.user("bob")
    number = app.get("/v1/tokens", bob).json()["tokens"][0]["id"]
    assert app.delete(f"/v1/tokens/{number}", ann).status_code == 404
    assert app.get("/v1/tokens", bob).status_code == 200


LATER = (datetime.now(UTC) + timedelta(days=9)).isoformat()


@pytest.mark.parametrize(
    ("held", "asked", "status"),
    [
        ({"scopes": ["read"]}, {"scopes": ["write"]}, 403),
        ({"scopes": ["write"]}, {"scopes": ["publish"]}, 403),
        ({"scopes": ["publish"]}, {"scopes": ["admin"]}, 403),
        ({"scopes": ["publish"]}, {"scopes": ["read", "write"]}, 201),
        ({"projects": ["acme/*"]}, {}, 403),
        ({"projects": ["acme/*"]}, {"projects": ["other/x"]}, 403),
        ({"projects": ["acme/*"]}, {"projects": ["*"]}, 403),
        ({"projects": ["acme/*"]}, {"projects": ["acme/[a-z]*"]}, 403),
        ({"projects": ["acme/*"]}, {"projects": ["acme/one", "ACME/*"]}, 201),
        ({"expires_at": datetime.now(UTC) + timedelta(days=1)}, {}, 403),
        ({"expires_at": datetime.now(UTC) + timedelta(days=1)}, {"expires_at": LATER}, 403),
        ({"expires_at": datetime.now(UTC) + timedelta(days=10)}, {"expires_at": LATER}, 201),
    ],
)
def test_a_token_grants_no_more_than_it_holds(
    app: Any, held: dict[str, Any], asked: dict[str, Any], status: int
) -> None:
    token = app.user("ann", **{"scopes": ["publish"], **held})
    answer = app.post("/v1/tokens", token, json={"name": "x", "scopes": ["read"], **asked})
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "x"},
        {"name": "", "scopes": ["read"]},
        {"name": "x\n", "scopes": ["read"]},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["all"]},
        {"name": "x", "scopes": ["read"], "projects": []},
        {"name": "x", "scopes": ["read"], "projects": ["acme/a, acme/b"]},
        {"name": "x", "scopes": ["read"], "projects": ["acme/"]},
        {"name": "x", "scopes": ["read"], "projects": ["a/b/c"]},
        {"name": "x", "scopes": ["read"], "expires_at": "2020-01-01T00:00:00Z"},
        {"name": "x", "scopes": ["read"], "expires_at": "2099-01-01T00:00:00"},
        {"name": "x", "scopes": ["read"], "expires_at": "9999-12-31T23:59:59-23:59"},
        {"name": "x", "scopes": ["read"], "more": 1},
    ],
)
def test_a_malformed_request_for_a_token_is_refused(app: Any, body: dict[str, Any]) -> None:
    assert app.post("/v1/tokens", app.user("ann"), json=body).status_code == 400


def test_a_weaker_token_does_not_end_a_stronger_one(app: Any) -> None:
    strong, weak = app.user("ann", ("publish",)), app.user("ann", ("read",))
    by_scope = {t["scopes"][0]: t["id"] for t in app.get("/v1/tokens", strong).json()["tokens"]}
    assert app.delete(f"/v1/tokens/{by_scope['publish']}", weak).status_code == 403
    assert app.delete(f"/v1/tokens/{by_scope['read']}", strong).status_code == 204
    assert app.get("/v1/tokens", weak).status_code == 401


def test_a_restricted_token_ends_only_itself(app: Any) -> None:
    whole, part = app.user("ann"), app.user("ann", projects=["acme/x"])
    mine = {t["projects"] is None: t["id"] for t in app.get("/v1/tokens", whole).json()["tokens"]}
    assert app.get("/v1/tokens", part).status_code == 403
    assert app.delete(f"/v1/tokens/{mine[True]}", part).status_code == 403
    assert app.delete(f"/v1/tokens/{mine[False]}", part).status_code == 204
    assert app.get("/v1/tokens", part).status_code == 401


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_reading_writes_nothing_and_use_is_noted_later(app: Any) -> None:
    token = app.user("ann", ("read",))
    # A connection of its own sees every change that another one commits.
    watcher = sqlite3.connect(app.db.file_of(app.registry.settings.data))
    before = watcher.execute("PRAGMA data_version").fetchone()
    for _ in range(3):
        assert app.get("/v1/tokens", token).status_code == 200
    assert watcher.execute("PRAGMA data_version").fetchone() == before
    activity = app.client.app._activity
    assert (activity.write(app.db), activity.write(app.db)) == (1, 0)
    assert watcher.execute("PRAGMA data_version").fetchone() != before
    watcher.close()
    assert app.get("/v1/tokens", token).json()["tokens"][0]["last_used_at"] is not None


@pytest.mark.parametrize(
    "name",
    ["", "-a", "a-", "a--b", "a b", "a/b", "é", "a" * 65, "..", "_x", "v1", "API", "Datasets", "simple"],
)
def test_names_that_no_account_may_have(app: Any, name: str) -> None:
    with pytest.raises(Failure):
        app.user(name)


def test_names_differ_by_more_than_case(app: Any) -> None:
    app.user("Acme")
    app.user("bob")
    with pytest.raises(Failure, match="taken"):
        app.org("ACME", {"bob": "owner"})


def test_no_account_can_stand_before_an_address() -> None:
    heads = {route.pattern.split("/")[1] for route in all_routes()}
    assert {head for head in heads if "{" not in head} <= RESERVED


def test_admin_scope_needs_an_admin(app: Any) -> None:
    with pytest.raises(Failure, match="no administrator"):
        app.user("ann", ("admin",))
    # An admin who is none any more: his token loses the scope with the next request.
    token = app.user("boss", ("admin",), admin=True)
    with app.db.write() as conn:
        conn.execute(accounts.update().values(admin=False))
    body = {"name": "x", "scopes": ["admin"]}
    assert app.post("/v1/tokens", token, json=body).status_code == 403


def test_rights_need_scope_project_and_role_together() -> None:
    caller = Caller(
        account=1,
        name="ann",
        scopes=frozenset({"read", "write"}),
        projects=("acme/*",),
        roles={"acme": "maintainer"},
    )
    assert caller.may_write("acme", "acme/x")
    assert not caller.may_write("acme", "acme/x", "publish")
    assert not caller.may_write("acme", "acme/x", role="owner")
    assert not caller.may_write("ann", "ann/x")
    assert not caller.may_read("other", "other/x", private=True)
