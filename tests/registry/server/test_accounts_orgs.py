"""Organisations: who may see, invite, promote and leave; what accounts keep."""

from __future__ import annotations

from typing import Any

import pytest

from llmasos_registry.server.accounts.people import find_account
from llmasos_registry.server.accounts.quota import check_quota, used_bytes
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_hub import repos
from llmasos_registry.server.failures import Failure


@pytest.fixture
def acme(app: Any) -> dict[str, str]:
    """Tokens of an organisation's people, and of a stranger to it."""
    people = {name: app.user(name) for name in ("olga", "mia", "rob", "eve")}
    app.org("acme", {"olga": "owner", "mia": "maintainer", "rob": "reader"})
    return people


def test_who_makes_an_organisation_owns_it(app: Any) -> None:
    token = app.user("ann", ("write",))
    made = app.post("/v1/orgs", token, json={"name": "NewCo", "fullname": "The New Company"})
    assert made.status_code == 201
    assert made.json()["members"] == [{"user": "ann", "role": "owner"}]
    assert app.post("/v1/orgs", token, json={"name": "newco"}).status_code == 409
    assert app.post("/v1/orgs", token, json={"name": "simple"}).status_code == 400
    assert app.post("/v1/orgs", app.user("ann", ("read",)), json={"name": "b"}).status_code == 403
    assert app.post("/v1/orgs", app.user("ann", projects=["a/*"]), json={"name": "b"}).status_code == 403


@pytest.mark.parametrize(("who", "status"), [("olga", 200), ("mia", 403), ("rob", 403), ("eve", 404)])
def test_only_owners_invite_and_promote(app: Any, acme: dict[str, str], who: str, status: int) -> None:
    for user in ("eve", who):
        answer = app.call("PUT", f"/v1/orgs/acme/members/{user}", acme[who], json={"role": "owner"})
        assert answer.status_code == status, answer.text


@pytest.mark.parametrize(("who", "status"), [("olga", 204), ("mia", 403), ("rob", 403), ("eve", 404)])
def test_only_owners_remove_others(app: Any, acme: dict[str, str], who: str, status: int) -> None:
    target = "rob" if who != "rob" else "mia"
    assert app.delete(f"/v1/orgs/acme/members/{target}", acme[who]).status_code == status


def test_members_may_leave_but_the_last_owner_may_not(app: Any, acme: dict[str, str]) -> None:
    assert app.delete("/v1/orgs/acme/members/ROB", acme["rob"]).status_code == 204
    assert app.get("/v1/orgs/acme", acme["rob"]).status_code == 404
    refused = app.delete("/v1/orgs/acme/members/olga", acme["olga"])
    assert (refused.status_code, "last owner" in refused.json()["error"]) == (409, True)
    put = app.call("PUT", "/v1/orgs/acme/members/olga", acme["olga"], json={"role": "reader"})
    assert put.status_code == 409
    assert (
        app.call("PUT", "/v1/orgs/acme/members/mia", acme["olga"], json={"role": "owner"}).status_code == 200
    )
    assert app.delete("/v1/orgs/acme/members/olga", acme["olga"]).status_code == 204


def test_members_see_members_and_others_do_not(app: Any, acme: dict[str, str]) -> None:
    seen = app.get("/v1/orgs/Acme", acme["rob"]).json()
    assert {m["user"]: m["role"] for m in seen["members"]} == {
        "olga": "owner",
        "mia": "maintainer",
        "rob": "reader",
    }
    assert app.get("/v1/orgs/acme", acme["eve"]).status_code == 404
    # A user is no organisation.
    assert app.get("/v1/orgs/eve", acme["eve"]).status_code == 404


def test_a_user_who_is_not_there_cannot_join(app: Any, acme: dict[str, str]) -> None:
    for name in ("nobody", "acme"):
        answer = app.call("PUT", f"/v1/orgs/acme/members/{name}", acme["olga"], json={"role": "reader"})
        assert answer.status_code == 404


def test_an_account_keeps_no_more_than_its_quota(app: Any) -> None:
    token = app.user("ann", quota=1000)
    now = utcnow()
    with app.db.write() as conn:
        account = find_account(conn, "ann")
        conn.execute(
            repos.insert().values(
                kind="model",
                owner_id=account.id,
                owner="ann",
                name="m",
                key="ann/m",
                created_at=now,
                updated_at=now,
                bytes=900,
            )
        )
    with app.db.read() as conn:
        assert used_bytes(conn, account.id) == 900
        check_quota(conn, app.registry.settings, account.id, 100)
        with pytest.raises(Failure, match="ann has 100 bytes left of its quota; this needs 101") as caught:
            check_quota(conn, app.registry.settings, account.id, 101)
        assert caught.value.status == 413
    shown = app.get("/v1/accounts/ann/usage", token)
    assert shown.json() == {"account": "ann", "used": 900, "quota": 1000}
    assert app.get("/v1/accounts/ann/usage", app.user("bob")).status_code == 404
