"""Download counts, the audit log, and who is calling."""

from __future__ import annotations

from datetime import timedelta

import pytest
from registries import InProcess
from registry_seeds import CARD_TEXT, seed_project, seed_repo

from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_api import downloads


def test_downloads_are_counted_by_day(app: InProcess) -> None:
    ann, bob = app.user("ann"), app.user("bob")
    seed_repo(app, "ann/Tiny", {"README.md": CARD_TEXT})
    seed_project(app, "ann", "LLMasOS.Acme", {"1.0.0": b"x"})
    seed_project(app, "ann", "secret-plugin", {"1.0.0": b"x"}, private=True)
    counter = app.registry.downloads
    for _ in range(3):
        counter.count("model", "ann/Tiny")
    counter.count("package", "llmasos-acme")
    assert counter.write(app.db) == 4
    counter.count("model", "ann/Tiny")
    counter.write(app.db)
    today = utcnow().date()
    with app.db.write() as conn:
        old = {"kind": "model", "subject": "ann/tiny", "day": today - timedelta(days=40), "count": 5}
        conn.execute(downloads.insert().values(old))
    model = app.get("/v1/models/ann/tiny/downloads").json()
    assert model == {"name": "ann/Tiny", "total": 4, "days": [{"day": today.isoformat(), "count": 4}]}
    longer = app.get("/v1/models/ann/tiny/downloads", params={"days": 60}).json()
    assert [day["count"] for day in longer["days"]] == [5, 4]
    plugin = app.get("/v1/plugins/llmasos.acme/downloads").json()
    assert (plugin["name"], plugin["total"]) == ("LLMasOS.Acme", 1)
    # Search knows too, and sorts by it.
    found = app.get("/v1/search", params={"q": "ann"}).json()["results"]
    assert {row["name"]: row["downloads"] for row in found} == {"ann/Tiny": 4, "LLMasOS.Acme": 1}
    assert app.get("/v1/plugins/secret-plugin/downloads", bob).status_code == 404
    assert app.get("/v1/plugins/secret-plugin/downloads", ann).status_code == 200
    assert app.get("/v1/plugins/llmasos-acme/downloads", params={"days": 0}).status_code == 400


def test_whoever_asks(app: InProcess) -> None:
    ann = app.user("ann", ["write"], projects=["acme/*"])
    app.org("acme", {"ann": "owner"})
    assert app.get("/v1/me", ann).json() == {
        "name": "ann",
        "admin": False,
        "scopes": ["read", "write"],
        "projects": ["acme/*"],
        "orgs": [{"org": "acme", "role": "owner"}],
    }
    assert app.get("/v1/me").status_code == 401


@pytest.fixture
def people(app: InProcess) -> dict[str, str]:
    tokens = {name: app.user(name) for name in ("ann", "bob")}
    tokens["chief"] = app.user("chief", ["admin"], admin=True)
    app.org("acme", {"ann": "owner", "bob": "maintainer"})
    seed_repo(app, "acme/tiny", {"README.md": CARD_TEXT})
    seed_repo(app, "bob/own", {"README.md": CARD_TEXT})
    app.post("/v1/models/acme/tiny/releases", tokens["bob"], json={"version": "1.0.0"})
    app.post("/v1/models/bob/own/releases", tokens["bob"], json={"version": "2.0.0"})
    return tokens


def lines(app: InProcess, token: str, **query: str | int) -> list[tuple[str, str]]:
    answer = app.get("/v1/audit", token, params=query)
    assert answer.status_code == 200, answer.text
    return [(line["action"], line["target"]) for line in answer.json()["lines"]]


def test_accounts_read_what_concerns_them(app: InProcess, people: dict[str, str]) -> None:
    release = ("model.release", "model:acme/tiny@1.0.0")
    other = ("model.release", "model:bob/own@2.0.0")
    assert release in lines(app, people["ann"], account="acme")
    assert other not in lines(app, people["ann"], account="ACME")
    assert release not in lines(app, people["ann"])
    assert {release, other} <= set(lines(app, people["bob"]))
    seed_project(app, "acme", "llmasos-acme", {"1.0.0": b"x"})
    app.post("/v1/plugins/llmasos-acme/versions/1.0.0/yank", people["bob"], json={})
    yanked = ("plugin.yank", "llmasos-acme==1.0.0")
    assert yanked in lines(app, people["ann"], account="acme")
    assert yanked not in lines(app, people["ann"])
    assert lines(app, people["chief"], action="model.release") == [other, release]
    assert lines(app, people["chief"], account="bob", action="token.create") == [("token.create", "bob")]


def test_who_may_read_the_log(app: InProcess, people: dict[str, str]) -> None:
    for token, account in (
        (people["bob"], "acme"),
        (people["bob"], "ann"),
        (app.user("ann", projects=["x"]), "ann"),
    ):
        assert app.get("/v1/audit", token, params={"account": account}).status_code == 403
    assert app.get("/v1/audit", people["ann"], params={"account": "nobody"}).status_code == 404
    assert app.get("/v1/audit").status_code == 401


def test_the_log_comes_in_pages(app: InProcess, people: dict[str, str]) -> None:
    whole = app.get("/v1/audit", people["chief"], params={"limit": 1000}).json()
    assert whole["next"] is None
    seen, cursor = [], "0"
    while cursor is not None:
        page = app.get("/v1/audit", people["chief"], params={"limit": 2, "cursor": cursor}).json()
        seen += page["lines"]
        cursor = page["next"]
    assert seen == whole["lines"]
    assert [line["id"] for line in seen] == sorted((line["id"] for line in seen), reverse=True)


def test_the_chain_can_be_checked_from_outside(app: InProcess, people: dict[str, str]) -> None:
    from llmasos_registry.server.accounts.audit import line_digest

    before = ""
    for line in reversed(app.get("/v1/audit", people["chief"], params={"limit": 1000}).json()["lines"]):
        fact = {key: line[key] for key in ("actor", "token", "address", "action", "target", "detail")}
        fact["at"] = line["at"].replace("Z", "+00:00")
        assert line["digest"] == line_digest(before, fact)
        before = line["digest"]
