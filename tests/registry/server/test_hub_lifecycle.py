"""Making, moving, gating and deleting repositories; discussions; leaderboards."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from test_hub_read import CARD, fill, make

from llmasos_registry.server.db.tables_api import audit_log, documents, events
from llmasos_registry.server.db.tables_hub import commits, refs, repos


def code(answer: Any) -> tuple[int, str | None]:
    return answer.status_code, answer.headers.get("x-error-code")


@pytest.mark.parametrize(
    "body",
    [
        {"name": "m"},
        {"name": "m", "organization": "ann"},
        {"name": "ann/m"},
        {"name": "m", "visibility": "public", "region": "eu"},
        {"name": "m", "private": False, "type": "model"},
    ],
)
def test_every_form_of_create(app: Any, body: dict[str, Any]) -> None:
    token = app.user("ann")
    answer = app.post("/api/repos/create", token, json=body)
    assert (answer.status_code, answer.json()["url"]) == (200, "http://registry.test/ann/m")
    again = app.post("/api/repos/create", token, json=body)
    assert (again.status_code, again.json()["url"]) == (409, "http://registry.test/ann/m")
    info = app.get("/api/models/ann/m").json()
    assert (info["private"], info["siblings"], len(info["sha"])) == (False, [], 40)


BAD = [
    "",
    "a--b",
    "a..b",
    ".a",
    "a.",
    "-a",
    "a.git",
    "x" * 97,
    "a b",
    "a/b/c",
    "refs",
    "tree",
    "Discussions",
    "ü",
]


@pytest.mark.parametrize("name", BAD)
def test_names_that_are_refused(app: Any, name: str) -> None:
    answer = app.post("/api/repos/create", app.user("ann"), json={"name": name, "organization": "ann"})
    assert answer.status_code == 400


def test_who_may_create_where(app: Any) -> None:
    ann, bob, reader = app.user("ann"), app.user("bob"), app.user("ann", ["read"])
    app.org("acme", {"ann": "owner", "bob": "reader"})
    narrow = app.user("ann", projects=["acme/good-*"])

    def create(token: str | None, **body: Any) -> int:
        return int(app.post("/api/repos/create", token, json=body).status_code)

    assert create(None, name="m") == 401
    assert create(reader, name="m") == 403
    assert create(bob, name="m", organization="acme") == 403
    assert create(bob, name="m", organization="ann") == 403
    assert create(ann, name="m", organization="nobody") == 404
    assert create(narrow, name="bad", organization="acme") == 403
    assert create(narrow, name="good-m", organization="acme") == 200
    assert create(ann, name="m", type="space") == 501
    assert create(ann, name=5) == 400
    assert create(ann, name="m", visibility="odd") == 400
    # Somebody else's private repository is not told of by a conflict.
    assert create(ann, name="hidden", private=True) == 200
    assert create(bob, name="hidden", organization="ann") == 403


def test_deleting_leaves_nothing_but_the_reserved_name(app: Any) -> None:
    ann = app.user("ann")
    app.user("bob")
    app.org("acme", {"bob": "owner", "ann": "maintainer"})
    make(app, ann, "acme/m")
    fill(app, "acme/m", {"a": b"1"})
    body = {"name": "m", "organization": "acme", "type": "model"}
    assert app.call("DELETE", "/api/repos/delete", ann, json=body).status_code == 403
    bob = app.user("bob")
    assert app.call("DELETE", "/api/repos/delete", bob, json=body).status_code == 200
    assert code(app.call("DELETE", "/api/repos/delete", bob, json=body)) == (404, "RepoNotFound")
    assert code(app.get("/api/models/acme/m", bob)) == (404, "RepoNotFound")
    with app.db.read() as conn:
        for table in (repos, commits, refs, documents):
            assert conn.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() == 0
        actions = conn.execute(sa.select(audit_log.c.action).order_by(audit_log.c.id)).scalars().all()
        assert actions[-2:] == ["commit", "model.delete"] or "model.delete" in actions
        assert (
            conn.execute(sa.select(events.c.event).order_by(events.c.id.desc())).scalars().first()
            == "model.delete"
        )
    make(app, bob, "acme/m")
    assert app.get("/api/models/acme/m").json()["siblings"] == []


def test_an_old_name_leads_on_and_stays_reserved(app: Any) -> None:
    ann, bob = app.user("ann"), app.user("bob")
    app.org("acme", {"ann": "owner", "bob": "owner"})
    make(app, ann, "acme/old")
    head = fill(app, "acme/old", {"a b": b"1"})
    body = {"fromRepo": "acme/old", "toRepo": "ann/new", "type": "model"}
    assert app.post("/api/repos/move", bob, json=body).status_code == 403
    assert app.post("/api/repos/move", ann, json=body).status_code == 200
    assert app.get("/api/models/ann/new").json()["sha"] == head
    for path in ("/api/models/{}/tree/main?recursive=true", "/{}/resolve/main/a%20b", "/api/models/{}"):
        answer = app.get(path.format("acme/old"))
        assert answer.status_code == 307
        assert answer.headers["location"] == path.format("ann/new")
    created = app.post("/api/repos/create", bob, json={"name": "old", "organization": "bob"})
    assert created.status_code == 200
    moved = {"fromRepo": "bob/old", "toRepo": "ann/other", "type": "model"}
    assert app.post("/api/repos/move", bob, json=moved).status_code == 403
    # The owner of the old name may use it again; then it is his own repository.
    make(app, bob, "acme/old")
    assert app.get("/api/models/acme/old").json()["id"] == "acme/old"
    again = {"fromRepo": "ann/new", "toRepo": "acme/old", "type": "model"}
    assert app.post("/api/repos/move", ann, json=again).status_code == 409
    case = {"fromRepo": "ann/new", "toRepo": "ann/NEW", "type": "model"}
    assert app.post("/api/repos/move", ann, json=case).status_code == 200
    assert app.get("/api/models/ann/new").json()["id"] == "ann/NEW"
    private = app.call("PUT", "/api/models/ann/new/settings", ann, json={"visibility": "private"})
    assert private.json() == {"private": True, "gated": False}
    assert code(app.get("/api/models/ann/new", bob)) == (404, "RepoNotFound")


def test_what_was_released_cannot_come_back_as_something_else(app: Any) -> None:
    ann = app.user("ann")
    make(app, ann, "ann/m")
    fill(app, "ann/m", {"README.md": CARD})
    sealed = app.post("/v1/models/ann/m/releases", ann, json={"version": "1.0.0", "revision": "main"})
    assert sealed.status_code == 201, sealed.text
    body = {"name": "m", "type": "model"}
    refused = app.call("DELETE", "/api/repos/delete", ann, json=body)
    assert (refused.status_code, "sealed releases" in refused.json()["error"]) == (403, True)
    assert app.delete("/api/models/ann/m/tag/1.0.0", ann).status_code == 403
    moved = {"fromRepo": "ann/m", "toRepo": "ann/n", "type": "model"}
    assert app.post("/api/repos/move", ann, json=moved).status_code == 200
    again = app.post("/api/repos/create", ann, json=body)
    assert (again.status_code, "sealed releases" in again.json()["error"]) == (409, True)
    boss = app.user("boss", ["admin"], admin=True)
    body = {"name": "n", "organization": "ann", "type": "model"}
    assert app.call("DELETE", "/api/repos/delete", boss, json=body).status_code == 200


def test_settings(app: Any) -> None:
    ann, bob = app.user("ann"), app.user("bob")
    make(app, ann, "ann/m")
    url = "/api/models/ann/m/settings"
    assert app.call("PUT", url, bob, json={"gated": "auto"}).status_code == 403
    assert app.call("PUT", url, json={"gated": "auto"}).status_code == 401
    for body in ({"gated": "often"}, {"visibility": 1}, {"sdk": "x"}, {"private": "yes"}):
        assert app.call("PUT", url, ann, json=body).status_code == 400
    assert app.call("PUT", url, ann, json={"gated": "manual"}).json()["gated"] == "manual"
    assert app.get("/api/models/ann/m").json()["gated"] == "manual"
    assert app.call("PUT", url, ann, json={"private": True}).json() == {"private": True, "gated": "manual"}


def test_gates(app: Any) -> None:
    ann, bob, eve = app.user("ann"), app.user("bob", ["read"]), app.user("eve", ["read"])
    make(app, ann, "ann/m")
    fill(app, "ann/m", {"a": b"1"})
    app.call("PUT", "/api/models/ann/m/settings", ann, json={"gated": "manual"})
    file, base = "/ann/m/resolve/main/a", "/api/models/ann/m/user-access-request"
    assert code(app.get(file)) == (401, "GatedRepo")
    assert code(app.get(file, bob)) == (403, "GatedRepo")
    assert code(app.get("/api/models/ann/m/auth-check", bob)) == (403, "GatedRepo")
    assert app.get("/api/models/ann/m/auth-check", ann).status_code == 200
    assert app.get("/api/models/ann/m/auth-check/write", bob).status_code == 403
    assert app.get("/api/models/ann/m", bob).status_code == 200
    assert app.get(file, ann).content == b"1"
    assert app.post("/ann/m/ask-access").status_code == 401
    asked = app.post("/ann/m/ask-access", bob, data={"company": "Acme"})
    assert asked.json() == {"status": "pending"}
    assert app.post("/ann/m/ask-access", bob).json() == {"status": "pending"}
    assert "waits" in app.get(file, bob).json()["error"]
    pending = app.get(f"{base}/pending", ann).json()
    assert [(p["user"]["user"], p["status"], p["fields"]) for p in pending] == [
        ("bob", "pending", {"company": "Acme"})
    ]
    assert app.get(f"{base}/pending", bob).status_code == 403
    handle = {"requestId": pending[0]["requestId"], "status": "accepted"}
    assert app.post(f"{base}/handle", ann, json=handle).status_code == 200
    assert app.post(f"{base}/handle", ann, json=handle).status_code == 404
    assert app.get(file, bob).content == b"1"
    refused = {"user": "bob", "status": "rejected", "rejectionReason": "no"}
    assert app.post(f"{base}/handle", ann, json=refused).status_code == 200
    assert code(app.get(file, bob)) == (403, "GatedRepo")
    assert app.post("/ann/m/ask-access", bob).json() == {"status": "rejected"}
    assert app.post(f"{base}/grant", ann, json={"user": "eve"}).status_code == 200
    assert app.post(f"{base}/grant", ann, json={"user": "nobody"}).status_code == 404
    assert app.get(file, eve).content == b"1"
    # A token that is for another project does not use the grant of its account.
    assert code(app.get(file, app.user("eve", ["read"], projects=["eve/*"]))) == (403, "GatedRepo")
    app.call("PUT", "/api/models/ann/m/settings", ann, json={"gated": "auto"})
    assert app.post("/ann/m/ask-access", app.user("zoe", ["read"])).json() == {"status": "accepted"}
    app.call("PUT", "/api/models/ann/m/settings", ann, json={"gated": False})
    assert app.get(file).content == b"1"
    assert app.post("/ann/m/ask-access", bob).status_code == 400


def test_discussions(app: Any) -> None:
    ann, bob, eve = app.user("ann"), app.user("bob"), app.user("eve")
    make(app, ann, "ann/m", type="dataset")
    base = "/api/datasets/ann/m/discussions"
    assert app.post(base, json={"title": "t", "description": "d"}).status_code == 401
    assert code(app.post(base, bob, json={"title": "t", "description": "d", "pullRequest": True})) == (
        501,
        "NotImplemented",
    )
    for number in (1, 2):
        opened = app.post(base, bob, json={"title": f"t{number}", "description": "why", "pullRequest": False})
        assert opened.json()["num"] == number
    assert (
        app.post(f"{base}/1/comment", eve, json={"comment": "me too"}).json()["newMessage"]["type"]
        == "comment"
    )
    assert app.post(f"{base}/1/status", eve, json={"status": "closed"}).status_code == 403
    assert app.post(f"{base}/1/status", ann, json={"status": "closed", "comment": "done"}).status_code == 200
    assert app.post(f"{base}/1/status", ann, json={"status": "closed"}).status_code == 400
    assert (
        app.post(f"{base}/2/title", bob, json={"title": "better"}).json()["newTitle"]["data"]["to"]
        == "better"
    )
    shown = app.get(f"{base}/1?diff=1").json()
    assert [e["type"] for e in shown["events"]] == ["comment", "comment", "comment", "status-change"]
    assert shown["events"][0]["data"]["latest"]["raw"] == "why"
    assert (shown["status"], shown["repo"]) == ("closed", {"name": "ann/m", "type": "dataset"})

    def listed(query: str) -> list[int]:
        return [d["num"] for d in app.get(f"{base}?{query}").json()["discussions"]]

    assert listed("") == [2, 1]
    assert listed("status=open") == [2]
    assert listed("author=bob&p=0") == [2, 1]
    assert listed("type=pull_request") == []
    assert app.get(f"{base}/9").status_code == 404
    assert app.post(f"{base}/1/merge", ann, json={}).status_code == 501
    for body in ({"comment": ""}, {"comment": 5}, {"comment": "x" * 70_000}, {}):
        assert app.post(f"{base}/1/comment", bob, json=body).status_code == 400


def test_leaderboard(app: Any) -> None:
    ann = app.user("ann")
    make(app, ann, "ann/quiz", type="dataset")
    url = "/api/datasets/ann/quiz/leaderboard"
    assert app.get(url).status_code == 404

    def report(name: str, value: float, card: bytes = b"---\nlicense: mit\n---\n") -> None:
        text = f"- dataset: {{id: ann/Quiz, task_id: main}}\n  value: {value}\n  source: {{url: 'x'}}\n"
        fill(app, name, {".eval_results/quiz.yaml": text.encode(), "README.md": card})

    for name, value in (("low", 0.1), ("high", 0.9), ("tuned", 0.95)):
        make(app, ann, f"ann/{name}")
        report(f"ann/{name}", value, b"---\nbase_model: ann/high\n---\n" if name == "tuned" else b"")
    make(app, ann, "ann/secret", private=True)
    report("ann/secret", 1.0)

    def board(query: str = "", token: str | None = None) -> list[tuple[int, str, float]]:
        return [(e["rank"], e["modelId"], e["value"]) for e in app.get(url + query, token).json()]

    assert board() == [(1, "ann/tuned", 0.95), (2, "ann/high", 0.9), (3, "ann/low", 0.1)]
    assert board("?base_model=True") == [(1, "ann/high", 0.9), (2, "ann/low", 0.1)]
    assert board(token=ann)[0] == (1, "ann/secret", 1.0)
    report("ann/low", 0.99)
    assert board()[0] == (1, "ann/low", 0.99)
    entry = app.get(url).json()[0]
    assert entry["filename"] == ".eval_results/quiz.yaml"
    assert entry["author"]["type"] == "user"
    assert entry["verified"] is False
    app.call("DELETE", "/api/repos/delete", ann, json={"name": "low"})
    assert len(board()) == 2
    results = app.get("/api/models/ann/high?expand=evalResults").json()["evalResults"]
    assert results[0]["value"] == 0.9


def test_bodies_that_make_no_sense(app: Any) -> None:
    ann = app.user("ann")
    make(app, ann, "ann/m")
    paths = (
        ("POST", "/api/repos/create"),
        ("POST", "/api/repos/move"),
        ("DELETE", "/api/repos/delete"),
        ("PUT", "/api/models/ann/m/settings"),
        ("POST", "/api/models/ann/m/tag/main"),
        ("POST", "/api/models/ann/m/discussions"),
        ("POST", "/api/validate-yaml"),
    )
    bodies = [
        b"[1]",
        b"{",
        b"\xff",
        b"[" * 30_000,
        b'{"name": "a\\u0000b"}',
        b'{"tag": ["\\ud800"]}',
        b'{"a\\u0000": 1}',
    ]
    for method, path in paths:
        for content in bodies:
            answer = app.call(
                method, path, ann, content=content, headers={"Content-Type": "application/json"}
            )
            assert answer.status_code == 400, (method, path, content[:9], answer.text)
    for path in ("/api/models/a%00b/c", "/ann/m/resolve/main/%ff%00", "/api/models?search=%00"):
        assert app.get(path).status_code == 400
    assert app.get("/ann/m/resolve/main/%ff").status_code == 404
