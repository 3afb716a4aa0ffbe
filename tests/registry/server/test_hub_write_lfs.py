"""What comes before a commit: upload modes, LFS uploads whole and in parts, and what a digest alone must not open."""

from __future__ import annotations

import base64
import os
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hub_uploads import actions, batch, commit, file, large, local, make_repo, paths, put, send, sha256

from llmasos_registry.server.hub import signed_claims
from llmasos_registry.server.hub.path_patterns import (
    ignored,
    read_ignore,
    read_lfs_attributes,
    sent_to_lfs,
)

DATA = bytes(range(256)) * 10


@pytest.fixture
def ann(app: Any) -> str:
    token: str = app.user("ann")
    make_repo(app, token, "ann/m")
    return token


def preupload(app: Any, token: str, *files: tuple[str, bytes], size: int | None = None, **body: Any) -> Any:
    body["files"] = [
        {
            "path": path,
            "size": len(data) if size is None else size,
            "sample": base64.b64encode(data[:512]).decode(),
        }
        for path, data in files
    ]
    answer = app.post("/api/models/ann/m/preupload/main", token, json=body)
    assert answer.status_code == 200, answer.text
    return {entry["path"]: entry for entry in answer.json()["files"]}


def test_upload_modes(make_app: Any) -> None:
    app = make_app(max_inline=1000)
    ann = app.user("ann")
    make_repo(app, ann, "ann/m")
    found = preupload(
        app,
        ann,
        ("text", "grüße".encode() * 80),
        ("cut", b"a" * 511 + "ü".encode()),
        ("latin", "grüße".encode("latin-1")),
        ("zero", b"a\0b"),
        ("empty", b""),
        ("long", b"a" * 1001),
    )
    modes = {path: entry["uploadMode"] for path, entry in found.items()}
    assert modes == {
        "text": "regular",
        "cut": "regular",
        "latin": "lfs",
        "zero": "lfs",
        "empty": "regular",
        "long": "lfs",
    }
    assert all("oid" not in entry and entry["shouldIgnore"] is False for entry in found.values())
    attributes = b"*.vocab filter=lfs diff=lfs merge=lfs -text\nsmall.vocab -filter\n"
    send(app, ann, "ann/m", DATA)
    answer = commit(
        app, ann, "ann/m", file(".gitattributes", attributes), file("text", b"1"), large("w", DATA)
    )
    assert answer.status_code == 200, answer.text
    found = preupload(app, ann, ("a.vocab", b"t"), ("small.vocab", b"t"), ("text", b"2"), ("w", b"text now"))
    assert [entry["uploadMode"] for entry in found.values()] == ["lfs", "regular", "regular", "lfs"]
    assert found["text"]["oid"] == paths(app, ann, "ann/m")["text"]["oid"]
    assert found["w"]["oid"] == sha256(DATA)


def test_ignored_files(app: Any, ann: str) -> None:
    names = [("a.tmp", b""), ("keep.tmp", b""), ("build/x/y", b""), ("src/build", b"")]
    found = preupload(app, ann, *names, gitIgnore="*.tmp\n!keep.tmp\n/build/\n")
    assert [entry["shouldIgnore"] for entry in found.values()] == [True, False, True, False]
    commit(app, ann, "ann/m", file(".gitignore", b"src/\n"))
    found = preupload(app, ann, *names)
    assert [entry["shouldIgnore"] for entry in found.values()] == [False, False, False, True]


@pytest.mark.parametrize(
    ("rules", "path", "expected"),
    [
        ("*.pyc", "a/b/c.pyc", True),
        ("a/*.pyc", "a/b/c.pyc", False),
        ("a/**/*.pyc", "a/b/x/c.pyc", True),
        ("a/**/*.pyc", "a/c.pyc", True),
        ("**/logs", "x/y/logs/a", True),
        ("logs/**", "logs/a/b", True),
        ("logs/**", "logs", False),
        ("/a", "b/a", False),
        ("a/", "a", False),
        ("a/", "x/a/b", True),
        ("a\n!a/b", "a/b", True),
        ("a/*\n!a/b", "a/b", False),
        ("# a\n\\#b\n", "#b", True),
        ("a?c", "abc", True),
        ("[a-c]x", "bx", True),
        ("[!a-c]x", "bx", False),
        ("[^a-c]x", "dx", True),
        ("\\*", "*", True),
        ("\\*", "a", False),
        ("a b ", "a b", True),
        ("[", "[", True),
    ],
)
def test_ignore_rules_are_those_of_git(rules: str, path: str, expected: bool) -> None:
    assert ignored(read_ignore(rules), path) is expected


def test_patterns_cannot_take_long() -> None:
    rules = read_ignore("\n".join(["*a" * 250 + "b", "**/" * 160 + "x"] * 50))
    began = time.process_time()
    assert not ignored(rules, "/".join(["a" * 200] * 5))
    assert not sent_to_lfs(read_lfs_attributes("[a" * 100 + " filter=lfs"), "a" * 255)
    assert time.process_time() - began < 5


def test_refused_preuploads(app: Any, ann: str) -> None:
    for body in (
        {},
        {"files": "a"},
        {"files": [{}]},
        {"files": [{"path": "../x", "size": 1}]},
        {"files": [{"path": "x", "size": -1}]},
        {"files": [{"path": "x", "size": 1, "sample": "%%%"}]},
        {"files": [{"path": "x", "size": 1, "sample": "A" * 5000}]},
        {"files": [{"path": "x"}] * 1001},
        {"files": [], "gitIgnore": 7},
    ):
        answer = app.post("/api/models/ann/m/preupload/main", ann, json=body)
        assert answer.status_code == 400, (body, answer.text)
    answer = app.post("/api/models/ann/m/preupload/nowhere", ann, json={"files": []})
    assert (answer.status_code, answer.headers["X-Error-Code"]) == (404, "RevisionNotFound")
    body = {"files": []}
    assert app.post("/api/models/ann/m/preupload/main", app.user("bob"), json=body).status_code == 403


def test_a_whole_upload_and_its_verification(app: Any, ann: str) -> None:
    found = actions(app, ann, "ann/m", DATA)
    verify = {"oid": sha256(DATA), "size": len(DATA)}
    assert app.post(local(found["verify"]["href"]), json=verify).status_code == 404
    assert put(app, found["upload"]["href"], DATA).status_code == 200
    assert app.post(local(found["verify"]["href"]), json=verify).status_code == 200
    assert app.post(local(found["verify"]["href"]), json=verify | {"size": 1}).status_code == 400
    assert actions(app, ann, "ann/m", DATA) == {}
    # The same address again, with the same bytes, is the same upload.
    assert put(app, found["upload"]["href"], DATA).status_code == 200


def test_wrong_bytes_are_refused(app: Any, ann: str) -> None:
    href = actions(app, ann, "ann/m", DATA)["upload"]["href"]
    for data, says in (
        (DATA[:-1], "exactly 2560 bytes"),
        (DATA + b"x", "exactly 2560 bytes"),
        (DATA[:-1] + b"x", sha256(DATA)),
    ):
        answer = put(app, href, data)
        assert answer.status_code == 400
        assert says in answer.json()["error"]
    unannounced = iter([DATA, b"one more"])
    assert app.call("PUT", local(href), content=unannounced).status_code == 413
    assert app.call("PUT", local(href), content=iter([DATA[:100]])).status_code == 400
    assert actions(app, ann, "ann/m", DATA) != {}
    assert os.listdir(app.registry.settings.data / "tmp") == []


def test_an_address_is_for_one_thing(app: Any, ann: str) -> None:
    mine = actions(app, ann, "ann/m", DATA)
    href = mine["upload"]["href"]
    claim = parse_qs(urlsplit(href).query)["claim"][0]
    body, _, mac = claim.partition(".")
    values = signed_claims.read(app.registry.secret, "lfs-put", claim)
    other = signed_claims.sign(
        app.registry.secret, "lfs-put", values["r"], values["t"], 60, oid="0" * 64, size=5
    )
    forged = signed_claims.sign(
        b"x" * 32, "lfs-put", values["r"], values["t"], 60, oid=values["oid"], size=len(DATA)
    )
    old = signed_claims.sign(
        app.registry.secret, "lfs-put", values["r"], values["t"], -1, oid=values["oid"], size=len(DATA)
    )
    for address, says in (
        (f"/api/lfs/parts?claim={claim}", "for something else"),
        (f"/api/lfs/put?claim={other.partition('.')[0]}.{mac}", "not made by this registry"),
        (f"/api/lfs/put?claim={body}.{other.partition('.')[2]}", "not made by this registry"),
        (f"/api/lfs/put?claim={forged}", "not made by this registry"),
        (f"/api/lfs/put?claim={old}", "expired"),
        ("/api/lfs/put?claim=" + "a" * 5000, "not made by this registry"),
        ("/api/lfs/put", "not made by this registry"),
    ):
        answer = app.call("PUT", address, content=DATA)
        assert answer.status_code == 403, (address, answer.text)
        assert says in answer.json()["error"]
    assert app.post(f"/api/lfs/complete?claim={claim}", json={}).status_code == 403


def test_an_address_ends_with_the_rights_of_its_holder(app: Any, ann: str) -> None:
    carol = app.user("carol")
    app.org("lab", {"ann": "owner", "carol": "maintainer"})
    make_repo(app, carol, "lab/m")
    href = actions(app, carol, "lab/m", DATA)["upload"]["href"]
    app.call("PUT", "/v1/orgs/lab/members/carol", ann, json={"role": "reader"})
    assert put(app, href, DATA).status_code == 403
    app.call("PUT", "/v1/orgs/lab/members/carol", ann, json={"role": "maintainer"})
    assert put(app, href, DATA).status_code == 200
    again = actions(app, carol, "lab/m", b"other")["upload"]["href"]
    token = app.get("/v1/tokens", carol).json()["tokens"][0]["id"]
    assert app.delete(f"/v1/tokens/{token}", carol).status_code in (200, 204)
    assert put(app, again, b"other").status_code == 401
    href = actions(app, ann, "lab/m", b"third")["upload"]["href"]
    app.call("DELETE", "/api/repos/delete", ann, json={"name": "m", "organization": "lab", "type": "model"})
    assert put(app, href, b"third").status_code == 404


def test_an_upload_in_parts(make_app: Any) -> None:
    app = make_app(multipart_chunk=1000)
    ann = app.user("ann")
    make_repo(app, ann, "ann/m")
    found = actions(app, ann, "ann/m", DATA)
    header = found["upload"]["header"]
    assert header.pop("chunk_size") == "1000"
    assert sorted(header) == ["00001", "00002", "00003"]
    # A client that starts again goes on with the same upload.
    assert actions(app, ann, "ann/m", DATA)["upload"]["header"].keys() == {"chunk_size", *header}
    complete = local(found["upload"]["href"])

    def parts(*etags: str) -> dict[str, Any]:
        numbered = [{"partNumber": n, "etag": etag} for n, etag in enumerate(etags, 1)]
        return {"oid": sha256(DATA), "parts": numbered}

    etags = []
    for number in (1, 2, 3):
        piece = DATA[1000 * (number - 1) : 1000 * number]
        wrong = put(app, header[f"{number:05d}"], bytes(len(piece)))
        assert wrong.status_code == 200
        assert put(app, header[f"{number:05d}"], piece + b"x").status_code == 400
        answer = put(app, header[f"{number:05d}"], piece)
        assert answer.headers["ETag"] == f'"{sha256(piece)}"'
        etags.append(answer.headers["ETag"])
        if number == 1:
            assert app.post(complete, json=parts(*etags)).status_code == 400
            assert app.post(complete, json=parts(*etags, *etags, *etags)).status_code == 400
    swapped = app.post(complete, json=parts(wrong.headers["ETag"], *etags[1:]))
    assert swapped.status_code == 400
    assert put(app, header["00003"], bytes(len(piece))).status_code == 200
    bad = app.post(complete, json=parts(*etags[:2], wrong.headers["ETag"]))
    assert bad.status_code == 400
    assert "sha256" in bad.json()["error"]
    assert put(app, header["00003"], piece).status_code == 200
    assert app.post(complete, json=parts(*etags) | {"oid": "0" * 64}).status_code == 400
    for value in (None, [1, 2, 3], [{"partNumber": 1, "etag": "../../x"}] * 3):
        assert app.post(complete, json={"oid": sha256(DATA), "parts": value}).status_code == 400
    assert app.post(complete, json=parts(*etags)).status_code == 200
    assert app.post(complete, json=parts(*etags)).status_code == 200
    assert os.listdir(app.registry.settings.data / "staging") == []
    assert put(app, header["00001"], DATA[:1000]).status_code == 404
    assert commit(app, ann, "ann/m", large("w", DATA)).status_code == 200
    assert app.get("/ann/m/resolve/main/w", ann).content == DATA


def test_a_digest_opens_nothing(app: Any, ann: str) -> None:
    """Whoever knows the digest of a private file neither gets it into his repository nor learns that it is here."""
    bob = app.user("bob")
    make_repo(app, bob, "bob/private", private=True)
    make_repo(app, bob, "bob/open")
    send(app, bob, "bob/private", DATA)
    assert commit(app, bob, "bob/private", large("w", DATA)).status_code == 200

    def answer(data: bytes) -> dict[str, Any]:
        found = actions(app, ann, "ann/m", data)
        assert set(found) == {"upload", "verify"}
        return found

    unknown = answer(b"nobody has these bytes")
    assert set(answer(DATA)) == set(unknown)
    refused = commit(app, ann, "ann/m", large("w", DATA))
    assert refused.status_code == 400
    assert "was not uploaded" in refused.json()["error"]
    # Uploaded somewhere public and not committed there is not public either.
    draft = b"a draft"
    send(app, bob, "bob/open", draft)
    assert answer(draft)
    assert commit(app, ann, "ann/m", large("w", draft)).status_code == 400
    # Read access in any repository is enough.
    assert commit(app, bob, "bob/open", large("w", draft)).status_code == 200
    assert actions(app, ann, "ann/m", draft) == {}
    assert commit(app, ann, "ann/m", large("w", draft)).status_code == 200
    # And whoever has the bytes may send them.
    send(app, ann, "ann/m", DATA)
    assert commit(app, ann, "ann/m", large("w", DATA)).status_code == 200
    wrong = commit(app, ann, "ann/m", large("v", DATA, size=1))
    assert wrong.status_code == 400
    assert "2560 bytes" in wrong.json()["error"]


def test_gated_files_are_not_readable_elsewhere(app: Any, ann: str) -> None:
    bob = app.user("bob")
    make_repo(app, bob, "bob/gated")
    send(app, bob, "bob/gated", DATA)
    commit(app, bob, "bob/gated", large("w", DATA))
    app.call("PUT", "/api/models/bob/gated/settings", bob, json={"gated": "manual"})
    assert set(actions(app, ann, "ann/m", DATA)) == {"upload", "verify"}
    assert commit(app, ann, "ann/m", large("w", DATA)).status_code == 400


def test_batches_that_are_refused(app: Any, ann: str) -> None:
    make_repo(app, ann, "ann/secret", private=True)
    for name, token, status in (
        ("ann/m", app.user("bob"), 403),
        ("ann/m", app.user("ann", ("read",)), 403),
        ("ann/m", None, 401),
        ("ann/secret", app.user("bob"), 404),
        ("ann/none", ann, 404),
    ):
        assert batch(app, token, name, DATA).status_code == status, name
    path = "/ann/m.git/info/lfs/objects/batch"
    for body, status in (
        ({"operation": "steal", "objects": []}, 400),
        ({"operation": "upload", "objects": 7}, 400),
        ({"operation": "upload", "objects": [{"oid": "x", "size": 1}]}, 400),
        ({"operation": "upload", "objects": [{"oid": "0" * 64, "size": -1}]}, 400),
        ({"operation": "upload", "objects": [{"oid": "0" * 64, "size": True}]}, 400),
        ({"operation": "upload", "objects": [{"oid": "0" * 64, "size": 1}] * 1001}, 400),
        ({"operation": "upload", "objects": [], "hash_algo": "sha512"}, 409),
    ):
        assert app.post(path, ann, json=body).status_code == status, body
    huge = {"operation": "upload", "objects": [{"oid": "0" * 64, "size": 501 << 30}]}
    assert app.post(path, ann, json=huge).json()["objects"][0]["error"]["code"] == 422


def test_the_quota_counts_before_bytes_are_sent(make_app: Any) -> None:
    app = make_app(quota=4000)
    ann = app.user("ann")
    make_repo(app, ann, "ann/m")
    href = actions(app, ann, "ann/m", DATA)["upload"]["href"]
    second = actions(app, ann, "ann/m", bytes(3000))["upload"]["href"]
    assert put(app, href, DATA).status_code == 200
    assert put(app, second, bytes(3000)).status_code in (403, 413)
    assert batch(app, ann, "ann/m", bytes(2000)).status_code in (403, 413)
    assert batch(app, ann, "ann/m", bytes(1000)).status_code == 200


def test_git_lfs_downloads(app: Any, ann: str) -> None:
    make_repo(app, ann, "ann/secret", private=True)
    send(app, ann, "ann/secret", DATA)
    send(app, ann, "ann/secret", b"draft")
    commit(app, ann, "ann/secret", large("w", DATA))
    objects = batch(app, ann, "ann/secret", DATA, b"draft", operation="download").json()["objects"]
    assert objects[1]["error"]["code"] == 404
    href = local(objects[0]["actions"]["download"]["href"])
    assert app.get(href).content == DATA
    part = app.get(href, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, DATA[10:20])
    assert app.get(href[:-1] + ("A" if href[-1] != "A" else "B")).status_code == 403
    assert batch(app, None, "ann/secret", DATA, operation="download").status_code == 401
    assert batch(app, app.user("bob"), "ann/secret", DATA, operation="download").status_code == 404
    app.call("DELETE", "/api/repos/delete", ann, json={"name": "secret", "organization": "ann"})
    assert app.get(href).status_code == 404


def test_duplicates_between_repositories(app: Any, ann: str) -> None:
    make_repo(app, ann, "ann/set", kind="dataset")
    send(app, ann, "ann/m", DATA)
    send(app, ann, "ann/m", b"draft")
    commit(app, ann, "ann/m", large("w", DATA))
    path = "/api/models/ann/m/lfs-files/duplicate"
    body = {
        "target": {"type": "dataset", "name": "ann/set"},
        "files": [{"sha256": sha256(DATA), "filename": "w"}, {"sha256": sha256(b"draft"), "filename": "d"}],
    }
    answer = app.post(path, ann, json=body)
    assert [failed["sha256"] for failed in answer.json()["failed"]] == [sha256(b"draft")]
    assert commit(app, ann, "ann/set", large("w", DATA), kind="datasets").status_code == 200
    assert app.post(path, app.user("bob"), json=body).status_code == 403
    for wrong in ({}, body | {"target": {"type": "space", "name": "ann/set"}}, body | {"files": [7]}):
        assert app.post(path, ann, json=wrong).status_code == 400
