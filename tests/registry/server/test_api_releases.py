"""Pages' data of models, sealed releases, and what a reference stands for."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from registries import InProcess
from registry_seeds import CARD_TEXT, safetensors, seed_project, seed_repo, sha256

from llmasos_registry.signatures.keys import PrivateKey, generate, prove, public_pem
from llmasos_registry.signatures.model_bundle import sign_files

FILES = {
    "README.md": CARD_TEXT,
    "config.json": b'{"model_type": "tiny"}',
    "model.safetensors": safetensors(),
    "llmasos.toml": b'manifest = 1\nrequires = ["llmasos-acme>=1.2,<2"]\narchitecture = "llmasos-acme/tiny"\n',
}


@pytest.fixture
def ann(app: InProcess) -> str:
    return app.user("ann")


def release(app: InProcess, token: str, version: str, revision: str = "main", **more: Any) -> Any:
    body = {"version": version, "revision": revision, **more}
    return app.post("/v1/models/ann/tiny/releases", token, json=body)


def resolve(app: InProcess, token: str | None = None, **query: str) -> Any:
    return app.get("/v1/models/ann/tiny/resolve", token, params=query)


def test_release_is_sealed(app: InProcess, ann: str) -> None:
    first = seed_repo(app, "ann/tiny", FILES)
    made = release(app, ann, "1.0.0", message="first")
    assert made.status_code == 201, made.text
    assert made.json()["commit"] == first
    assert made.json()["requires"] == ["llmasos-acme<2,>=1.2"]
    assert made.json()["signed"] is False
    # The same again, by another name of the same commit.
    assert release(app, ann, "1.0.0", first).status_code == 200
    second = seed_repo(app, "ann/tiny", {"more.txt": b"more"})
    refused = release(app, ann, "1.0.0")
    assert refused.status_code == 409
    assert first in refused.json()["error"]
    assert second in refused.json()["error"]
    assert release(app, ann, "1.1.0").status_code == 201
    page = app.get("/v1/models/ann/tiny").json()
    assert [row["version"] for row in page["releases"]] == ["1.1.0", "1.0.0"]
    assert page["head"] == second
    assert page["id"] == "ann/tiny"
    assert resolve(app, revision="1.0.0").json()["commit"] == first


def test_serial_grows_with_each_change(app: InProcess, ann: str) -> None:
    seed_repo(app, "ann/tiny", FILES)
    seen = [app.get("/v1/info").json()["serial"], app.get("/v1/models/ann/tiny").json()["serial"]]
    assert release(app, ann, "1.0.0").status_code == 201
    one = app.get("/v1/models/ann/tiny").json()["serial"]
    app.post("/v1/models/ann/tiny/releases/1.0.0/yank", ann, json={"reason": "bad"})
    two = app.get("/v1/models/ann/tiny").json()["serial"]
    # What changes nothing does not count.
    app.post("/v1/models/ann/tiny/releases/1.0.0/yank", ann, json={"reason": "bad"})
    three = app.get("/v1/models/ann/tiny").json()["serial"]
    assert max(seen) < one < two == three == app.get("/v1/info").json()["serial"]


def test_versions(app: InProcess, ann: str) -> None:
    seed_repo(app, "ann/tiny", FILES)
    for version in ("0.0.1", "1.2.3-rc.1", "2.0.0-alpha.0", "10.20.30-beta.2"):
        assert release(app, ann, version).status_code == 201, version
    bad = [
        "1.0",
        "v1.0.0",
        "1.0.0.0",
        "01.0.0",
        "1.0.0-dev.1",
        "1.0.0-1",
        "1.0.0+build",
        "latest",
        "1.0.0-rc",
    ]
    bad += ["1.0.0 ", "", "1.0.0\n", "\u0661.0.0", "1.0.0-rc.01", "99999999999.0.0"]
    for version in bad:
        assert release(app, ann, version).status_code == 400, version


@pytest.mark.parametrize(
    ("path", "data", "says"),
    [
        ("pytorch_model.bin", b"PK\x03\x04", "pytorch_model.bin"),
        ("weights.pt", b"anything", "weights.pt"),
        ("nested/dir/modeling_tiny.py", b"print()", "code"),
        ("weights.dat", pickle.dumps([1]), "pickle"),
        ("vocab.unknown", b"PK\x03\x04 archive/data.pkl", "zip"),
        ("model.safetensors", b"\x00" * 40, "model.safetensors"),
        # A header whose tensor is longer than the file: whole to look at, and not what it says.
        ("sub/model.safetensors", safetensors()[:-1], "is it cut off"),
        ("sub/config.json", b'{"auto_map": {"AutoModel": "modeling.C"}}', "sub/config.json has `auto_map`"),
        ("config.json", b'{"a": {"auto_map": {"AutoModel": "other/repo--m.C"}}}', "auto_map"),
        ("config.json", b"{" * 100_000, "not valid JSON"),
        ("README.md", b"  \n", "card"),
        ("llmasos.toml", b'requires = ["a @ https://x/y.whl"]', "llmasos.toml"),
        ("llmasos.toml", b"unknown = 1", "unknown"),
        ("model.sig", b"{}", "model.sig"),
    ],
)
def test_refused_files(app: InProcess, ann: str, path: str, data: bytes, says: str) -> None:
    seed_repo(app, "ann/tiny", {**FILES, path: data})
    refused = release(app, ann, "1.0.0")
    assert refused.status_code == 422, refused.text
    assert says in refused.json()["error"]
    assert app.get("/v1/models/ann/tiny").json()["releases"] == []


def test_card_is_wanted(app: InProcess, ann: str) -> None:
    seed_repo(app, "ann/tiny", {"config.json": b"{}"})
    refused = release(app, ann, "1.0.0")
    assert refused.status_code == 422
    assert "README.md is missing" in refused.json()["error"]
    assert "licence" in refused.json()["hint"]


def test_datasets_may_hold_source_code_but_no_loading_script(app: InProcess, ann: str) -> None:
    seed_repo(app, "ann/code", {"README.md": CARD_TEXT, "src/a.py": b"print()"}, kind="dataset")
    made = app.post("/v1/datasets/ann/code/releases", ann, json={"version": "1.0.0"})
    assert made.status_code == 201, made.text
    assert app.get("/v1/datasets/ann/code/resolve").json()["kind"] == "dataset"
    assert app.get("/v1/models/ann/code").status_code == 404
    seed_repo(app, "ann/code", {"code.py": b"import os"}, kind="dataset")
    refused = app.post("/v1/datasets/ann/code/releases", ann, json={"version": "1.1.0"})
    assert refused.status_code == 422


def test_a_branch_of_that_name_is_in_the_way(app: InProcess, ann: str) -> None:
    seed_repo(app, "ann/tiny", FILES)
    first = app.get("/v1/models/ann/tiny").json()["head"]
    assert release(app, ann, "1.0.0").status_code == 201
    seed_repo(app, "ann/tiny", {"b.txt": b"b"})
    from llmasos_registry.server.db.engine import utcnow
    from llmasos_registry.server.db.tables_hub import refs

    with app.db.write() as conn:
        conn.execute(
            refs.insert().values(
                repo_id=1, kind="branch", name="2.0.0", commit=first, created_at=utcnow(), message=""
            )
        )
    refused = release(app, ann, "2.0.0")
    assert refused.status_code == 409
    assert "2.0.0" in refused.json()["error"]


def test_resolve_chooses(app: InProcess, ann: str) -> None:
    commits = {}
    assert resolve(app).status_code == 404
    for version in ("1.0.0", "1.2.0", "1.10.0", "2.0.0-rc.1"):
        commits[version] = seed_repo(app, "ann/tiny", {**FILES, "v.txt": version.encode()})
        assert release(app, ann, version).status_code == 201
    head = seed_repo(app, "ann/tiny", {"v.txt": b"later"})

    def chosen(**query: str) -> tuple[str | None, str]:
        answer = resolve(app, **query).json()
        return answer["version"], answer["commit"]

    assert chosen() == ("1.10.0", commits["1.10.0"])
    assert chosen(version=">=1,<1.5") == ("1.2.0", commits["1.2.0"])
    assert chosen(version=">=2.0.0rc1") == ("2.0.0-rc.1", commits["2.0.0-rc.1"])
    # Nothing else is in the range.
    assert chosen(version=">=1.99") == ("2.0.0-rc.1", commits["2.0.0-rc.1"])
    assert chosen(version="1.0.0") == ("1.0.0", commits["1.0.0"])
    assert chosen(revision="main") == (None, head)
    assert chosen(revision=commits["1.2.0"]) == ("1.2.0", commits["1.2.0"])
    app.post("/v1/models/ann/tiny/releases/1.10.0/yank", ann, json={"reason": "wrong weights"})
    assert chosen() == ("1.2.0", commits["1.2.0"])
    pinned = resolve(app, version="1.10.0").json()
    assert (pinned["commit"], pinned["yanked"], pinned["yanked_reason"]) == (
        commits["1.10.0"],
        True,
        "wrong weights",
    )
    nothing = resolve(app, version=">=3")
    assert nothing.status_code == 404
    assert "1.10.0 (yanked)" in nothing.json()["hint"]
    assert resolve(app, version="~~1").status_code == 400
    assert resolve(app, revision="nowhere").headers["x-error-code"] == "RevisionNotFound"
    assert resolve(app, version="1.0.0", revision="main").status_code == 400
    app.delete("/v1/models/ann/tiny/releases/1.10.0/yank", ann)
    assert chosen() == ("1.10.0", commits["1.10.0"])


def test_resolve_names_files_and_plugins(app: InProcess, ann: str) -> None:
    seed_repo(app, "ann/tiny", FILES)
    answer = resolve(app).json()
    assert answer["version"] is None
    assert answer["sealed"] is False
    assert {f["path"]: f["sha256"] for f in answer["files"]} == {
        **{path: sha256(data) for path, data in FILES.items()}
    }
    assert answer["architecture"] == "llmasos-acme/tiny"
    assert answer["publisher"] == "ann"
    assert answer["plugins"] == [{"requirement": "llmasos-acme<2,>=1.2", "candidates": []}]
    versions = {v: v.encode() for v in ("1.0.0", "1.2.0", "1.10.0", "1.11.0rc1", "1.3.0", "2.0.0")}
    seed_project(app, "ann", "llmasos-acme", {**versions, "1.9.9": None})
    app.post("/v1/plugins/llmasos-acme/versions/1.3.0/yank", ann, json={})
    assert resolve(app).json()["plugins"][0]["candidates"] == ["1.10.0", "1.2.0"]


def test_private_plugins_are_no_candidates_for_strangers(app: InProcess, ann: str) -> None:
    seed_repo(app, "ann/tiny", FILES)
    seed_project(app, "ann", "llmasos-acme", {"1.2.0": b"x"}, private=True)
    assert resolve(app).json()["plugins"][0]["candidates"] == []
    assert resolve(app, ann).json()["plugins"][0]["candidates"] == ["1.2.0"]


def signed_files(key: PrivateKey, name: str, version: str | None = None) -> dict[str, bytes]:
    bundle = sign_files({p: sha256(d) for p, d in FILES.items()}, key, name=name, version=version)
    return {**FILES, "model.sig": bundle}


def test_signature_is_checked(app: InProcess, ann: str, tmp_path: Any) -> None:
    key = generate(tmp_path / "key.pem")
    seed_repo(app, "ann/tiny", signed_files(key, "ann/tiny"))
    unknown = release(app, ann, "1.0.0")
    assert unknown.status_code == 422
    assert "no key is known" in unknown.json()["error"]
    body = {"pem": public_pem(key.public_key()), "proof": prove(key, "ann")}
    keyid = app.post("/v1/publishers/ann/keys", ann, json=body).json()["keyid"]
    made = release(app, ann, "1.0.0")
    assert made.status_code == 201, made.text
    assert made.json()["signed"] is True
    answer = resolve(app, version="1.0.0").json()
    assert answer["signature"] == {"path": "model.sig"}
    # Another file beside what was signed; another model's signature; another version's.
    seed_repo(app, "ann/tiny", {"extra.txt": b"x"})
    assert "extra.txt" in release(app, ann, "1.1.0").json()["error"]
    seed_repo(app, "ann/other", signed_files(key, "ann/tiny"))
    other = app.post("/v1/models/ann/other/releases", ann, json={"version": "1.0.0"})
    assert other.status_code == 422
    assert "ann/tiny" in other.json()["error"]
    seed_repo(app, "ann/other", signed_files(key, "ann/other", "3.0.0"))
    assert app.post("/v1/models/ann/other/releases", ann, json={"version": "1.0.0"}).status_code == 422
    app.delete(f"/v1/publishers/ann/keys/{keyid}", ann)
    revoked = app.post("/v1/models/ann/other/releases", ann, json={"version": "3.0.0"})
    assert revoked.status_code == 422


def test_who_may_release(app: InProcess, ann: str) -> None:
    app.user("org-owner")
    writer = app.user("ann", ["write"])
    bob = app.user("bob")
    other = app.user("ann", projects=["ann/else"])
    mine = app.user("ann", projects=["ann/tin*"])
    seed_repo(app, "ann/tiny", FILES)
    seed_repo(app, "ann/secret", FILES, private=True)
    assert release(app, writer, "1.0.0").status_code == 403
    assert release(app, bob, "1.0.0").status_code == 403
    assert release(app, other, "1.0.0").status_code == 403
    assert app.post("/v1/models/ann/tiny/releases", json={"version": "1.0.0"}).status_code == 401
    assert release(app, mine, "1.0.0").status_code == 201
    assert app.post("/v1/models/ann/tiny/releases/1.0.0/yank", bob, json={}).status_code == 403
    for method, path in [
        ("GET", "/v1/models/ann/secret"),
        ("GET", "/v1/models/ann/secret/resolve"),
        ("POST", "/v1/models/ann/secret/releases"),
        ("POST", "/v1/models/ann/secret/releases/1.0.0/yank"),
        ("DELETE", "/v1/models/ann/secret/releases/1.0.0/yank"),
    ]:
        body = {"version": "1.0.0"} if path.endswith("releases") else {}
        secret = app.call(method, path, bob, json=body)
        missing = app.call(method, path.replace("secret", "absent"), bob, json=body)
        assert secret.status_code == missing.status_code == 404
        assert secret.text.replace("secret", "absent") == missing.text
    assert app.get("/v1/models/ann/secret", ann).json()["private"] is True


def test_bodies_are_checked(app: InProcess, ann: str) -> None:
    seed_repo(app, "ann/tiny", FILES)
    path = "/v1/models/ann/tiny/releases"
    for content in (b"", b"[]", b"nonsense", b'{"version": 1}', b'{"version": "1.0.0", "versoin": "x"}'):
        refused = app.post(path, ann, content=content)
        assert refused.status_code == 400, content
    surrogate = app.post(path, ann, content=b'{"version": "1.0.0", "message": "\\ud800"}')
    assert surrogate.status_code == 400
    nul = app.post(path, ann, content=b'{"version": "1.0.0", "message": "a\\u0000b"}')
    assert "NUL" in nul.json()["error"]
    assert "versoin" in app.post(path, ann, json={"version": "1.0.0", "versoin": "x"}).json()["error"]
    assert app.get("/v1/models/ann/tiny/resolve", params={"revision": "a\x00b"}).status_code == 400
    assert app.get("/v1/models/ann/a%00b").status_code == 400
