"""Reading models and datasets through the application: info, trees, files, refs, histories, lists, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.db.tables_store import git_blobs
from llmasos_registry.server.hub.card import read_facts
from llmasos_registry.server.hub.history import Put, insert_ignoring, write_commit
from llmasos_registry.server.hub.repository import find_repo
from llmasos_registry.server.store.blobs import record_blob
from llmasos_registry.server.store.git import blob_id, lfs_pointer

CARD = b"---\nlicense: mit\ntags: [tiny]\npipeline_tag: text-generation\n---\nA tiny model.\n"
WEIGHTS = b"\x00\x01" * 600


def fill(
    app: Any,
    name: str,
    files: dict[str, bytes],
    *,
    kind: str = "model",
    lfs: tuple[str, ...] = (),
    title: str = "fill",
    branch: str = "main",
) -> str:
    """Commit files past the write routes; the commit's id."""
    registry = app.registry
    caller = Caller(account=0, name="filler", admin=True, scopes=frozenset({"read", "write", "admin"}))
    with registry.db.write() as conn:
        changes = []
        for path, data in files.items():
            stored = registry.store.put(data)
            record_blob(conn, stored)
            as_lfs = path in lfs
            oid = blob_id(lfs_pointer(stored.sha256, stored.size) if as_lfs else data)
            row = {"oid": oid, "sha256": stored.sha256, "size": stored.size, "lfs": as_lfs}
            insert_ignoring(conn, git_blobs, [row])
            changes.append(Put(path, oid))
        repo = find_repo(conn, kind, name, caller)
        written = write_commit(
            conn,
            registry.objects,
            repo,
            branch,
            changes,
            caller=caller,
            title=title,
            facts=read_facts(files),
        )
    return written.oid


def make(app: Any, token: str, name: str, **body: Any) -> None:
    owner, _, short = name.partition("/")
    sent = {"name": short, "organization": owner, **body}
    answer = app.post("/api/repos/create", token, json=sent)
    assert answer.status_code == 200, answer.text


@pytest.fixture
def ann(app: Any) -> str:
    return str(app.user("ann"))


@pytest.fixture
def tiny(app: Any, ann: str) -> str:
    """ann/tiny with a card, weights in LFS and a folder; its head commit."""
    make(app, ann, "ann/tiny")
    files = {"README.md": CARD, "model.safetensors": WEIGHTS, "sub dir/ü.txt": b"text", "config.json": b"{}"}
    return fill(app, "ann/tiny", files, lfs=("model.safetensors",))


def test_info(app: Any, tiny: str) -> None:
    info = app.get("/api/models/ann/tiny?blobs=true&securityStatus=true").json()
    assert (info["id"], info["sha"], info["author"]) == ("ann/tiny", tiny, "ann")
    assert (info["private"], info["gated"], info["disabled"]) == (False, False, False)
    assert info["tags"] == ["tiny", "text-generation", "license:mit"]
    assert info["pipeline_tag"] == "text-generation"
    assert info["cardData"]["license"] == "mit"
    files = {item["rfilename"]: item for item in info["siblings"]}
    assert list(files) == ["README.md", "config.json", "model.safetensors", "sub dir/ü.txt"]
    assert files["config.json"] == {"rfilename": "config.json", "size": 2, "blobId": blob_id(b"{}")}
    assert files["model.safetensors"]["lfs"]["size"] == len(WEIGHTS)
    assert info["securityRepoStatus"]["scansDone"] is False
    for revision in ("main", tiny, tiny[:8], "refs%2Fheads%2Fmain"):
        assert app.get(f"/api/models/ann/tiny/revision/{revision}").json()["sha"] == tiny
    few = app.get("/api/models/ann/tiny?expand=sha&expand=downloads&expand=unheardOf").json()
    assert few.keys() == {"_id", "id", "modelId", "sha", "downloads"}


def test_tree_pages_and_paths(app: Any, tiny: str) -> None:
    url: str | None = f"/api/models/ann/tiny/tree/{tiny}?recursive=true&limit=2"
    seen: list[dict[str, Any]] = []
    pages = 0
    while url:
        answer = app.get(url)
        assert answer.status_code == 200, answer.text
        seen += answer.json()
        pages += 1
        link = answer.links.get("next")
        url = link["url"] if link else None
    assert pages == 3
    assert [e["path"] for e in seen] == [
        "README.md",
        "config.json",
        "model.safetensors",
        "sub dir",
        "sub dir/ü.txt",
    ]
    assert [e["type"] for e in seen].count("directory") == 1
    lfs = seen[2]["lfs"]
    assert (lfs["size"], len(lfs["oid"]), lfs["pointerSize"]) == (1200, 64, 129)
    inside = app.get(f"/api/models/ann/tiny/tree/main/{quote('sub dir')}").json()
    assert [e["path"] for e in inside] == ["sub dir/ü.txt"]
    for path in ("missing", "config.json", "sub dir/none"):
        answer = app.get(f"/api/models/ann/tiny/tree/main/{quote(path)}")
        assert (answer.status_code, answer.headers["x-error-code"]) == (404, "EntryNotFound")
        assert answer.headers["x-repo-commit"] == tiny


def test_last_commit_of_each_path(app: Any, tiny: str) -> None:
    second = fill(app, "ann/tiny", {"sub dir/new": b"1"}, title="add new")
    shown = app.get("/api/models/ann/tiny/tree/main?expand=true&recursive=true").json()
    assert {e["path"]: e["lastCommit"]["id"] for e in shown} == {
        "README.md": tiny,
        "config.json": tiny,
        "model.safetensors": tiny,
        "sub dir": second,
        "sub dir/new": second,
        "sub dir/ü.txt": tiny,
    }


def test_paths_info_takes_forms_and_json(app: Any, tiny: str) -> None:
    sent = {"paths": ["config.json", "sub dir", "none", "config.json"], "expand": "false"}
    url = "/api/models/ann/tiny/paths-info/main"
    form = app.post(url, data=sent).json()
    assert [(e["type"], e["path"]) for e in form] == [("file", "config.json"), ("directory", "sub dir")]
    assert app.post(url, json={"paths": sent["paths"]}).json() == form
    assert (
        app.post(url, data={"paths": "config.json", "expand": "True"}).json()[0]["lastCommit"]["id"] == tiny
    )
    assert app.post(url, json={"paths": "config.json"}).status_code == 400


def test_files(app: Any, tiny: str) -> None:
    url = "/ann/tiny/resolve/main/"
    head = app.call("HEAD", url + "model.safetensors", headers={"Accept-Encoding": "identity"})
    got = app.get(url + "model.safetensors")
    assert got.content == WEIGHTS
    assert head.content == b""
    for name in (
        "etag",
        "x-repo-commit",
        "x-linked-etag",
        "x-linked-size",
        "content-length",
        "accept-ranges",
    ):
        assert head.headers[name] == got.headers[name]
    assert head.headers["x-repo-commit"] == tiny
    assert len(head.headers["x-linked-etag"].strip('"')) == 64
    assert head.headers["x-linked-size"] == "1200"
    plain = app.get(url + quote("sub dir/ü.txt"))
    assert (plain.content, plain.headers["etag"]) == (b"text", f'"{blob_id(b"text")}"')
    assert "x-linked-etag" not in plain.headers
    assert "filename*=UTF-8''%C3%BC.txt" in plain.headers["content-disposition"]
    part = app.get(url + "model.safetensors", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, WEIGHTS[10:20])
    assert part.headers["content-range"] == "bytes 10-19/1200"
    assert app.get(url + "config.json", headers={"If-None-Match": plain.headers["etag"]}).status_code == 200
    assert (
        app.get(url + quote("sub dir/ü.txt"), headers={"If-None-Match": plain.headers["etag"]}).status_code
        == 304
    )
    missing = app.call("HEAD", url + "none.txt")
    assert (missing.status_code, missing.headers["x-error-code"]) == (404, "EntryNotFound")
    assert missing.headers["x-repo-commit"] == tiny
    assert app.get(url + quote("sub dir")).headers["x-error-code"] == "EntryNotFound"


def test_no_file_becomes_a_page_of_this_site(app: Any, ann: str, tiny: str) -> None:
    names = ("a.html", "a.svg", "a.xml", "a.xhtml", "a.js", "README.md", "x.unknown", 'q"\r\n.txt')
    fill(app, "ann/tiny", dict.fromkeys(names[:-1], b"<script>alert(1)</script>"))
    for name in names[:-1]:
        headers = app.get(f"/ann/tiny/resolve/main/{name}").headers
        assert headers["content-type"].split(";")[0] in ("application/octet-stream", "text/plain")
        assert headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in headers["content-security-policy"]


def test_refs_and_commits(app: Any, ann: str, tiny: str) -> None:
    base = "/api/models/ann/tiny"
    assert app.post(f"{base}/branch/dev%2Fx", ann, json={"startingPoint": tiny}).status_code == 201
    assert app.post(f"{base}/tag/main", ann, json={"tag": "v1/a", "message": "first"}).status_code == 201
    for path, body in ((f"{base}/branch/dev%2Fx", {}), (f"{base}/tag/main", {"tag": "dev/x"})):
        assert app.post(path, ann, json=body).status_code == 409
    assert app.post(f"{base}/branch/bad..name", ann, json={}).status_code == 400
    assert (
        app.post(f"{base}/branch/y", ann, json={"startingPoint": "none"}).headers["x-error-code"]
        == "RevisionNotFound"
    )
    refs = app.get(f"{base}/refs?include_prs=1").json()
    assert refs == {
        "branches": [
            {"name": "dev/x", "ref": "refs/heads/dev/x", "targetCommit": tiny},
            {"name": "main", "ref": "refs/heads/main", "targetCommit": tiny},
        ],
        "converts": [],
        "pullRequests": [],
        "tags": [{"name": "v1/a", "ref": "refs/tags/v1/a", "targetCommit": tiny}],
    }
    assert app.get("/ann/tiny/resolve/dev%2Fx/config.json").content == b"{}"
    assert app.get(f"{base}/revision/v1%2Fa").json()["sha"] == tiny
    assert app.delete(f"{base}/branch/dev%2Fx", ann).status_code == 200
    assert app.delete(f"{base}/tag/v1%2Fa", ann).status_code == 200
    assert app.delete(f"{base}/tag/v1%2Fa", ann).headers["x-error-code"] == "RevisionNotFound"
    assert app.delete(f"{base}/branch/main", ann).status_code == 403
    for number in range(5):
        fill(app, "ann/tiny", {"n": str(number).encode()}, title=f"number {number}")
    titles, url = [], f"{base}/commits/main?limit=3"
    while url:
        answer = app.get(url)
        titles += [(c["title"], c["authors"][0]["user"]) for c in answer.json()]
        url = answer.links["next"]["url"] if "next" in answer.links else ""
    assert [t for t, _ in titles] == [*(f"number {n}" for n in (4, 3, 2, 1, 0)), "fill", "initial commit"]
    assert titles[-1][1] == "ann"
    assert answer.headers["x-total-count"] == "1"


def test_releases_are_sealed(app: Any, ann: str, tiny: str) -> None:
    from llmasos_registry.server.db.engine import utcnow
    from llmasos_registry.server.db.tables_hub import releases

    base = "/api/models/ann/tiny"
    assert app.post(f"{base}/tag/main", ann, json={"tag": "1.0.0"}).status_code == 201
    with app.db.write() as conn:
        repo = find_repo(conn, "model", "ann/tiny", Caller())
        conn.execute(
            releases.insert().values(
                repo_id=repo.id, version="1.0.0", commit=tiny, requires=[], author="ann", created_at=utcnow()
            )
        )
    answer = app.delete(f"{base}/tag/1.0.0", ann)
    assert (answer.status_code, "sealed release" in answer.json()["error"]) == (403, True)
    assert app.post(f"{base}/tag/main", ann, json={"tag": "1.0.0"}).status_code == 409
    assert app.post(f"{base}/branch/1.0.0", ann, json={}).status_code == 409


def test_private_and_missing_look_the_same(app: Any, ann: str, tiny: str) -> None:
    bob = app.user("bob")
    make(app, ann, "ann/secret", visibility="private")
    fill(app, "ann/secret", {"a": b"1"})
    paths = ("/api/models/{}", "/api/models/{}/tree/main", "/{}/resolve/main/a", "/api/models/{}/refs")
    for path in paths:
        answers = {}
        for name in ("ann/secret", "ann/nothing"):
            for who, token in (("bob", bob), ("stranger", None)):
                got = app.get(path.format(name), token)
                assert got.headers["x-error-code"] == "RepoNotFound"
                answers[name, who] = (got.status_code, got.text.replace(name, ""))
        assert answers["ann/secret", "bob"] == answers["ann/nothing", "bob"]
        assert answers["ann/secret", "stranger"] == answers["ann/nothing", "stranger"]
        assert answers["ann/secret", "bob"][0] == 404
        assert answers["ann/secret", "stranger"][0] == 401
        assert app.get(path.format("ann/secret"), ann).status_code == 200
    assert app.get("/api/models/gpt2").headers["x-error-code"] == "RepoNotFound"
    assert app.get("/gpt2/resolve/main/config.json").headers["x-error-code"] == "RepoNotFound"
    wrong = app.get("/api/models/ann/tiny", "llma_wrong")
    assert (wrong.status_code, wrong.headers["x-error-message"]) == (
        401,
        "Invalid credentials in Authorization header",
    )
    assert "x-error-code" not in wrong.headers


def test_names_differ_only_by_case_are_one(app: Any, ann: str, tiny: str) -> None:
    assert app.get("/api/models/Ann/TINY").json()["id"] == "ann/tiny"
    answer = app.post("/api/repos/create", ann, json={"name": "Tiny"})
    assert (answer.status_code, answer.json()["url"]) == (409, "http://registry.test/ann/tiny")


def test_lists(app: Any, ann: str) -> None:
    for name in ("b-one", "b-two", "c_three"):
        make(app, ann, f"ann/{name}")
        fill(app, f"ann/{name}", {"README.md": CARD.replace(b"tiny]", name.encode() + b"]")})
    make(app, ann, "ann/hidden", private=True)
    make(app, ann, "ann/table", type="dataset")

    def ids(query: str = "", token: str | None = None, kind: str = "models") -> list[str]:
        found: list[str] = []
        url = f"/api/{kind}?{query}"
        while url:
            answer = app.get(url, token)
            assert answer.status_code == 200, answer.text
            found += [item["id"] for item in answer.json()]
            url = answer.links["next"]["url"] if "next" in answer.links else ""
        return found

    public = ["ann/c_three", "ann/b-two", "ann/b-one"]
    assert ids() == public
    assert ids("limit=1") == public
    assert ids("limit=1&sort=downloads&direction=1") == public[::-1]
    assert ids("sort=createdAt&limit=2") == public
    assert ids(token=ann) == ["ann/hidden", *public]
    assert ids(token=app.user("bob")) == public
    assert ids(token=app.user("ann", projects=["ann/b-*"])) == public
    assert ids("search=B- one") == ["ann/b-one"]
    assert ids("search=c_t") == ["ann/c_three"]
    assert ids("search=%25") == []
    assert ids("author=ANN&filter=b-two") == ["ann/b-two"]
    assert ids("author=an") == []
    assert ids("filter=license:mit&pipeline_tag=text-generation") == public
    assert ids("filter=license:mit&filter=none") == []
    assert ids("gated=true") == []
    assert ids("full=True&limit=2") == public
    assert ids(kind="datasets") == ["ann/table"]
    full = app.get("/api/models?full=True&search=b-one").json()[0]
    assert full["siblings"] == [{"rfilename": "README.md"}]
    assert "cardData" not in app.get("/api/models?search=b-one").json()[0]
    assert app.get("/api/models?inference=warm").status_code == 501
    assert app.get("/api/models?sort=trendingScore").status_code == 501
    assert app.get("/api/models?cursor=eyJ9").status_code == 400


REFUSED = [("GET", "/api/spaces/a/b"), ("GET", "/api/spaces"), ("GET", "/api/models-tags-by-type")]
REFUSED += [("POST", "/api/collections"), ("GET", "/spaces/a/b/resolve/main/x"), ("POST", "/oauth/device")]
REFUSED += [("PUT", "/api/notifications/x"), ("GET", "/api/kernels/a/b/tree/main"), ("POST", "/oauth/token")]


@pytest.mark.parametrize(("method", "path"), REFUSED)
def test_what_is_not_kept_here_is_said(app: Any, method: str, path: str) -> None:
    answer = app.call(method, path)
    assert (answer.status_code, answer.headers["x-error-code"]) == (501, "NotImplemented")
    assert "does not support" in answer.headers["x-error-message"]


def test_who_am_i(app: Any, ann: str) -> None:
    app.org("acme", {"ann": "owner"})
    me = app.get("/api/whoami-v2", ann).json()
    assert (me["type"], me["name"]) == ("user", "ann")
    assert [(o["name"], o["roleInOrg"]) for o in me["orgs"]] == [("acme", "admin")]
    assert (me["auth"]["accessToken"]["displayName"], me["auth"]["accessToken"]["role"]) == ("test", "write")
    reader = app.get("/api/whoami-v2", app.user("ann", ["read"])).json()
    assert reader["auth"]["accessToken"]["role"] == "read"
    for token in (None, "llma_x"):
        answer = app.get("/api/whoami-v2", token)
        assert answer.status_code == 401
        assert answer.headers["x-error-message"] == "Invalid credentials in Authorization header"


def test_validate_yaml(app: Any) -> None:
    def ask(text: str) -> tuple[int, int, int]:
        answer = app.post("/api/validate-yaml", json={"content": text, "repoType": "model"})
        return answer.status_code, len(answer.json()["errors"]), len(answer.json()["warnings"])

    assert ask("---\nlicense: mit\n---\ntext") == (200, 0, 0)
    assert ask("no metadata") == (200, 0, 1)
    assert ask("---\ntags: [a\n---\n") == (400, 1, 0)
    assert ask("---\nlicense: [1]\ntags: 5\n---\n") == (400, 2, 0)


def test_downloads_are_counted_in_memory_and_written_later(app: Any, tiny: str) -> None:
    for _ in range(3):
        app.get("/ann/tiny/resolve/main/config.json", headers={"X-HF-Download-Counter": "1"})
    app.get("/ann/tiny/resolve/main/config.json")
    app.call("HEAD", "/ann/tiny/resolve/main/config.json", headers={"X-HF-Download-Counter": "1"})
    assert app.get("/api/models/ann/tiny").json()["downloads"] == 0
    assert app.registry.downloads.write(app.db) == 3
    assert app.registry.downloads.write(app.db) == 0
    assert app.get("/api/models/ann/tiny").json()["downloads"] == 3


def test_agents_and_telemetry_are_answered(app: Any) -> None:
    assert app.get("/api/agent-harnesses").json() == {"standardEnvVars": [], "harnesses": {}}
    assert app.call("HEAD", "/api/telemetry/hf_hub/x").status_code == 204


def test_objects_forget(make_app: Callable[..., Any]) -> None:
    from llmasos_registry.server.hub.objects import Objects

    app = make_app()
    token = app.user("ann")
    make(app, token, "ann/big")
    fill(app, "ann/big", {f"d{i}/f{j}": f"{i}/{j}".encode() for i in range(10) for j in range(10)})
    objects = Objects(kept=30)
    with app.db.read() as conn:
        from llmasos_registry.server.hub.info import all_files
        from llmasos_registry.server.hub.repository import resolve_revision

        tree = resolve_revision(conn, find_repo(conn, "model", "ann/big", Caller()), "main").tree
        assert len(list(all_files(conn, objects, tree))) == 100
        assert len(list(all_files(conn, objects, tree))) == 100
    assert len(objects._files) <= 30
    assert objects._names <= 30
