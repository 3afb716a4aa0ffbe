"""Every route of the registry against every kind of caller who should not be let through.

The table of routes is the source: a new route is tried as soon as it is there. Each is called with a request that would
work for the owner of a private organisation's model, dataset and package. Nobody else may change anything of it, or read
any of it, and no answer is a server's error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from stored_world import commit
from wheelsmith import make_wheel

from llmasos_registry.server.accounts.tokens import IMPLIED
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables import metadata
from llmasos_registry.server.db.tables_accounts import tokens
from llmasos_registry.server.db.tables_index import package_files, projects
from llmasos_registry.server.routing import Route
from llmasos_registry.server.serve import all_routes

MARK = "s3cr3t-content"
#: What the private things are called; path parameters are filled with these.
PARAMETERS = {
    "repo": "acme/hidden",
    "org": "acme",
    "account": "acme",
    "name": "hidden",
    "project": "hiddenpkg",
    "kind": "models",
    "kinds": "models",
    "user": "mallory",
    "rev": "main",
    "branch": "side",
    "tag": "v1",
    "version": "1.0.0",
    "path": "README.md",
    "id": "1",
    "num": "1",
    "status": "pending",
    "space": "1-1",
    "prefix": "default",
    "hash": "0" * 64,
    "keyid": "sha256:" + "0" * 64,
    "digest": "0" * 64,
    "task": "quickstart",
}
#: Bodies that do something, by the end of the pattern.
BODIES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("POST", "/v1/tokens", {"name": "stolen", "scopes": ["read"]}),
    ("POST", "/v1/orgs", {"name": "mallorys"}),
    ("PUT", "/members/{user}", {"role": "owner"}),
    ("POST", "/yank", {"reason": "because"}),
    ("POST", "/v1/plugins", {"name": "hiddenpkg2", "owner": "acme", "private": True}),
    ("PATCH", "/v1/plugins/{name}", {"private": False}),
    ("POST", "/releases", {"version": "2.0.0"}),
    ("POST", "/keys", {"pem": "x", "proof": "x"}),
    ("POST", "/v1/webhooks", {"url": "https://example.org/hook", "events": ["*"], "account": "acme"}),
    ("POST", "/v1/query", {"package": {"name": "hiddenpkg", "ecosystem": "PyPI"}}),
    ("POST", "/v1/querybatch", {"queries": [{"package": {"name": "hiddenpkg", "ecosystem": "PyPI"}}]}),
    ("POST", "/api/repos/create", {"name": "planted", "organization": "acme", "type": "model"}),
    ("DELETE", "/api/repos/delete", {"name": "hidden", "organization": "acme", "type": "model"}),
    ("POST", "/api/repos/move", {"fromRepo": "acme/hidden", "toRepo": "mallory/taken", "type": "model"}),
    ("PUT", "/settings", {"private": False, "visibility": "public", "gated": False}),
    ("POST", "/handle", {"user": "mallory", "status": "accepted"}),
    ("POST", "/grant", {"user": "mallory"}),
    ("POST", "/discussions", {"title": "t", "description": "d"}),
    ("POST", "/comment", {"comment": "c"}),
    ("POST", "/discussions/{num}/status", {"status": "closed"}),
    ("POST", "/discussions/{num}/title", {"title": "other"}),
    ("POST", "/branch/{branch}", {"startingPoint": "main"}),
    ("POST", "/tag/{rev}", {"tag": "v9"}),
    ("POST", "/paths-info/{rev}", {"paths": ["README.md"], "expand": True}),
    ("POST", "/preupload/{rev}", {"files": [{"path": "x", "size": 1, "sample": "eA=="}]}),
    (
        "POST",
        "/objects/batch",
        {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": "1" * 64, "size": 5}]},
    ),
    ("POST", "/duplicate", {"target": {"type": "model", "name": "mallory/own"}, "files": []}),
)
COMMIT = [
    {"key": "header", "value": {"summary": "planted", "description": ""}},
    {"key": "file", "value": {"path": "planted.txt", "content": "eA==", "encoding": "base64"}},
]
#: Tables of which nothing may change through the wrong caller. Counters and records of attempts are not among them.
GUARDED = frozenset(metadata.tables) - {"facts", "audit_log", "events", "downloads", "blobs"}


@dataclass
class World:
    """An application with private things, and who calls."""

    app: Any
    callers: dict[str, str | None]
    parameters: dict[str, str]
    wheel: Path

    def guarded(self) -> dict[str, list[str]]:
        """All rows of the guarded tables; of tokens all but what is the caller's own business."""
        with self.app.db.read() as conn:
            return {
                name: sorted(repr(row) for row in conn.execute(sa.select(metadata.tables[name])))
                for name in sorted(GUARDED)
            }

    def call(self, route: Route, kind: str, caller: str) -> Any:
        """One request."""
        values = self.parameters | {"kind": kind, "kinds": kind}
        if route.pattern.startswith("/v1/plugins"):
            values["name"] = "hiddenpkg"
        path = route.pattern
        for name, value in values.items():
            for shape in ("", ":path", ":repos", ":kinds"):
                path = path.replace("{" + name + shape + "}", value)
        assert "{" not in path, f"a value for {path}"
        options: dict[str, Any] = {}
        if route.pattern == "/legacy/":
            form = {
                ":action": "file_upload",
                "name": "hiddenpkg",
                "version": "1.1",
                "filetype": "bdist_wheel",
            }
            options["data"] = form | {"protocol_version": "1"}
            options["files"] = {"content": (self.wheel.name, self.wheel.read_bytes())}
        elif route.pattern.endswith("/commit/{rev}"):
            options["content"] = "\n".join(json.dumps(line) for line in COMMIT)
            options["headers"] = {"Content-Type": "application/x-ndjson"}
        else:
            for method, end, body in BODIES:
                if route.method == method and route.pattern.endswith(end):
                    options["json"] = body
                    if kind == "datasets" and "type" in body:
                        options["json"] = body | {"type": "dataset"}
        return self.app.call(route.method, path, self.callers[caller], **options)


@pytest.fixture
def world(make_app: Any, tmp_path: Path) -> World:
    app = make_app()
    olga = app.user("olga")
    app.org("acme", {"olga": "owner"})
    for kind in ("model", "dataset"):
        answer = app.post(
            "/api/repos/create",
            olga,
            json={"name": "hidden", "organization": "acme", "type": kind, "private": True},
        )
        assert answer.status_code == 200, answer.text
    commit(app, olga, "acme/hidden", {"README.md": MARK.encode()})
    assert app.post("/api/models/acme/hidden/branch/side", olga, json={}).status_code in (200, 201)
    assert app.post("/api/models/acme/hidden/tag/main", olga, json={"tag": "v1"}).status_code in (200, 201)
    sealed = app.post("/v1/models/acme/hidden/releases", olga, json={"version": "1.0.0", "message": MARK})
    assert sealed.status_code == 201, sealed.text
    for kind in ("models", "datasets"):
        answer = app.post(
            f"/api/{kind}/acme/hidden/discussions", olga, json={"title": MARK, "description": MARK}
        )
        assert answer.status_code == 200, answer.text
    made = app.post("/v1/plugins", olga, json={"name": "hiddenpkg", "owner": "acme", "private": True})
    assert made.status_code == 201, made.text
    wheel = make_wheel(tmp_path, "hiddenpkg", "1.0.0", metadata=[f"Keywords: {MARK}"])
    sent = app.post(
        "/legacy/",
        olga,
        data={
            ":action": "file_upload",
            "protocol_version": "1",
            "name": "hiddenpkg",
            "version": "1.0.0",
            "filetype": "bdist_wheel",
        },
        files={"content": (wheel.name, wheel.read_bytes())},
    )
    assert sent.status_code == 200, sent.text
    with app.db.read() as conn:
        digest = conn.execute(sa.select(package_files.c.sha256)).scalar_one()
        assert conn.execute(sa.select(projects.c.private)).scalar_one()
    second = make_wheel(tmp_path, "hiddenpkg", "1.1", metadata=[f"Keywords: {MARK}"])
    past = app.user("olga", projects=["acme/past"])
    revoked = app.user("olga", projects=["acme/revoked"])
    with app.db.write() as conn:
        named = [row.id for row in conn.execute(sa.select(tokens.c.id).order_by(tokens.c.id.desc()).limit(2))]
        conn.execute(
            tokens.update().where(tokens.c.id == named[0]).values(revoked_at=utcnow(), projects=None)
        )
        gone = utcnow() - timedelta(seconds=1)
        conn.execute(tokens.update().where(tokens.c.id == named[1]).values(expires_at=gone, projects=None))
    callers = {
        "owner": olga,
        "anonymous": None,
        "expired": past,
        "revoked": revoked,
        "unknown": "llma_unknown",
        "owner, read only": app.user("olga", ("read",)),
        "owner, other project": app.user("olga", projects=["acme/other", "otherpkg"]),
        "stranger, read": app.user("mallory", ("read",)),
        "stranger, write": app.user("mallory", ("write",)),
        "stranger, publish": app.user("mallory", ("publish",)),
    }
    values = PARAMETERS | {"sha256": digest, "filename": wheel.name}
    return World(app, callers, values, second)


#: Strangers and restricted tokens may do these to things of their own, or of nobody.
OWN = {
    ("POST", "/v1/tokens"),
    ("POST", "/v1/orgs"),
    ("GET", "/api/{kind:repos}/{repo}/xet-write-token/{rev}"),
}


# Who may do what is decided in Python: one database is enough for the many.
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "caller",
    [
        "anonymous",
        "expired",
        "revoked",
        "unknown",
        "owner, read only",
        "owner, other project",
        "stranger, read",
        "stranger, write",
        "stranger, publish",
    ],
)
def test_nobody_gets_through_to_what_is_private(world: World, caller: str) -> None:
    before = world.guarded()
    refused = 0
    for route in all_routes():
        kinds = (
            ("models", "datasets")
            if ":repos}" in route.pattern or ":kinds}" in route.pattern
            else ("models",)
        )
        for kind in kinds:
            if (route.method, route.pattern) in OWN and caller not in ("expired", "revoked", "unknown"):
                continue
            answer = world.call(route, kind, caller)
            what = f"{route.method} {route.pattern} ({kind}) as {caller}: {answer.status_code} {answer.text[:300]}"
            assert answer.status_code < 500 or answer.status_code == 501, what
            if caller in ("expired", "revoked", "unknown"):
                if route.audience != "signed":
                    assert answer.status_code == 401, what
            elif route.audience != "public" and route.audience != "signed":
                scopes = () if caller == "anonymous" else IMPLIED[SCOPE_OF[caller]]
                if caller == "anonymous":
                    assert answer.status_code == 401, what
                elif route.audience not in scopes:
                    assert answer.status_code == 403, what
            if caller != "owner, read only":
                assert MARK not in answer.text, what
            after = world.guarded()
            assert after == before, what
            refused += answer.status_code in (400, 401, 403, 404)
    assert refused > len(all_routes()) // 2


SCOPE_OF = {
    "owner, read only": "read",
    "owner, other project": "publish",
    "stranger, read": "read",
    "stranger, write": "write",
    "stranger, publish": "publish",
}


def test_the_owner_gets_through(world: World) -> None:
    """The same requests do something for the owner, or the refusals above would prove nothing."""
    worked: set[str] = set()
    shown = 0
    # What deletes or moves comes last.
    # Token 1 is the one that asks.
    world.parameters["id"] = "2"
    order = sorted(
        all_routes(),
        key=lambda route: (
            "/move" in route.pattern,
            route.pattern == "/api/repos/delete",
            route.method == "DELETE",
        ),
    )
    for route in order:
        answer = world.call(route, "models", "owner")
        assert answer.status_code < 500 or answer.status_code == 501, f"{route.pattern}: {answer.text}"
        shown += MARK in answer.text
        if answer.status_code < 400:
            worked.add(f"{route.method} {route.pattern}")
    assert shown >= 6
    missing = {
        "DELETE /v1/tokens/{id}",
        "PUT /v1/orgs/{org}/members/{user}",
        "POST /v1/plugins/{name}/versions/{version}/yank",
        "PATCH /v1/plugins/{name}",
        "POST /v1/{kinds:kinds}/{org}/{name}/releases",
        "POST /v1/webhooks",
        "POST /legacy/",
        "POST /api/repos/create",
        # Not DELETE /api/repos/delete: the model has a release by then, and is not deleted any more.
        "PUT /api/{kind:repos}/{repo}/settings",
        "POST /api/{kind:repos}/{repo}/discussions/{num}/comment",
        "DELETE /api/{kind:repos}/{repo}/branch/{branch}",
        "POST /api/{kind:repos}/{repo}/tag/{rev}",
        "POST /api/{kind:repos}/{repo}/commit/{rev}",
        "POST /api/{kind:repos}/{repo}/preupload/{rev}",
        "POST /{repo}.git/info/lfs/objects/batch",
        "GET /{repo}/resolve/{rev}/{path:path}",
        "GET /simple/{project}/",
        "GET /files/{sha256}/{filename}",
        "GET /v1/plugins/{name}",
    } - worked
    assert not missing
