"""Commits: what they make visible, that git would give the same ids, and what is refused."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hub_uploads import (
    NDJSON,
    commit,
    file,
    header,
    large,
    line,
    make_repo,
    paths,
    send,
    sha256,
)

from llmasos_registry.server.hub.commit_stream import CommitReader, Inline
from llmasos_registry.server.store.filesystem import FileStore
from llmasos_registry.server.store.git import lfs_pointer

WEIGHTS = bytes(range(256)) * 40


@pytest.fixture
def ann(app: Any) -> str:
    token: str = app.user("ann")
    make_repo(app, token, "ann/m")
    return token


def test_a_commit_shows_its_files_together(app: Any, ann: str) -> None:
    send(app, ann, "ann/m", WEIGHTS)
    answer = commit(
        app, ann, "ann/m", file("sub/a.txt", b"text"), file("empty", b""), large("w.safetensors", WEIGHTS)
    )
    assert answer.status_code == 200, answer.text
    oid = answer.json()["commitOid"]
    assert answer.json()["commitUrl"] == f"http://registry.test/ann/m/commit/{oid}"
    found = paths(app, ann, "ann/m")
    assert set(found) == {"sub/a.txt", "empty", "w.safetensors"}
    assert found["w.safetensors"]["lfs"]["oid"] == sha256(WEIGHTS)
    assert app.get("/ann/m/resolve/main/w.safetensors", ann).content == WEIGHTS
    assert app.get("/ann/m/resolve/main/sub/a.txt", ann).content == b"text"
    commits = app.get("/api/models/ann/m/commits/main", ann).json()
    assert commits[0]["id"] == oid
    assert len(commits) == 2


def test_git_gives_the_same_ids(app: Any, ann: str, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    send(app, ann, "ann/m", WEIGHTS)
    files = {"README.md": b"# hi\n", "sub/deep/b": b"b", "sub.x": b"x", "sub/a": b"a"}
    commit(app, ann, "ann/m", *(file(p, d) for p, d in files.items()), large("w.bin", WEIGHTS))
    answer = commit(app, ann, "ann/m", header("second", description="why"), file("z", b"z"))
    commits = app.get("/api/models/ann/m/commits/main", ann).json()
    shown = paths(app, ann, "ann/m")

    def git(*words: str, data: bytes = b"", **env: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=work, input=data, capture_output=True, env=dict(os.environ) | env
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().strip()

    def who(position: int) -> dict[str, str]:
        values = {"NAME": "ann", "EMAIL": "ann@registry", "DATE": commits[position]["date"]}
        return {f"GIT_{role}_{key}": v for role in ("AUTHOR", "COMMITTER") for key, v in values.items()}

    git("init", "-q", ".")
    trees = []
    for group in ({**files, "w.bin": lfs_pointer(sha256(WEIGHTS), len(WEIGHTS))}, {"z": b"z"}):
        for path, data in group.items():
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            (work / path).write_bytes(data)
            assert git("hash-object", path) == shown[path]["oid"]
        git("add", ".")
        trees.append(git("write-tree"))
    first_tree, tree = trees
    info = app.get("/api/models/ann/m/tree/main", ann).json()
    folder = next(entry for entry in info if entry["path"] == "sub")
    assert git("rev-parse", f"{tree}:sub") == folder["oid"]
    # The commits, made by git out of the same facts: author, time, message, tree, parent.
    made = git(
        "commit-tree", git("hash-object", "-t", "tree", "-w", "--stdin"), "-m", "initial commit", **who(2)
    )
    for position, folder_tree, text in ((1, first_tree, "a commit\n"), (0, tree, "second\n\nwhy")):
        made = git("commit-tree", folder_tree, "-p", made, data=text.encode(), **who(position))
        assert made == commits[position]["id"]
    assert made == answer.json()["commitOid"]


def test_the_same_request_again_is_no_second_commit(app: Any, ann: str) -> None:
    lines = (file("a.txt", b"a"), file("b.txt", b"b"))
    first = commit(app, ann, "ann/m", *lines).json()["commitOid"]
    assert commit(app, ann, "ann/m", *lines).json()["commitOid"] == first
    gone = (header("remove"), line("deletedFile", path="a.txt"))
    second = commit(app, ann, "ann/m", *gone).json()["commitOid"]
    assert commit(app, ann, "ann/m", *gone).json()["commitOid"] == second
    assert len(app.get("/api/models/ann/m/commits/main", ann).json()) == 3


def test_deletions(app: Any, ann: str) -> None:
    commit(app, ann, "ann/m", file("d/a", b"a"), file("d/b", b"b"), file("keep", b"k"))
    answer = commit(
        app, ann, "ann/m", header("x"), line("deletedFolder", path="d/"), file("d", b"a file now")
    )
    assert answer.status_code == 200, answer.text
    assert set(paths(app, ann, "ann/m")) == {"keep", "d"}
    answer = commit(app, ann, "ann/m", header("y"), line("deletedFile", path="nothing"))
    assert answer.status_code == 404
    assert answer.headers["X-Error-Code"] == "EntryNotFound"


def test_a_stale_parent_is_refused(app: Any, ann: str) -> None:
    first = commit(app, ann, "ann/m", file("a", b"1")).json()["commitOid"]
    commit(app, ann, "ann/m", file("a", b"2"))
    stale = commit(app, ann, "ann/m", header("late", parentCommit=first), file("a", b"3"))
    assert stale.status_code == 412
    assert first in stale.json()["error"]
    head = app.get("/api/models/ann/m", ann).json()["sha"]
    good = commit(app, ann, "ann/m", header("late", parentCommit=head), file("a", b"3"))
    assert good.status_code == 200
    assert app.get("/ann/m/resolve/main/a", ann).content == b"3"


def test_branches_with_slashes_and_missing_ones(app: Any, ann: str) -> None:
    app.post("/api/models/ann/m/branch/dev%2Fx", ann, json={})
    assert commit(app, ann, "ann/m", file("a", b"1"), branch="dev%2Fx").status_code == 200
    assert paths(app, ann, "ann/m") == {}
    answer = commit(app, ann, "ann/m", file("a", b"1"), branch="nowhere")
    assert (answer.status_code, answer.headers["X-Error-Code"]) == (404, "RevisionNotFound")
    app.post("/api/models/ann/m/tag/main", ann, json={"tag": "v1"})
    assert commit(app, ann, "ann/m", file("a", b"1"), branch="v1").status_code == 404


def test_pull_requests_are_refused_with_a_message(app: Any, ann: str) -> None:
    for path in ("commit/main", "preupload/main"):
        answer = app.post(f"/api/models/ann/m/{path}?create_pr=1", ann, json={"files": []})
        assert answer.status_code == 501
        assert "pull requests" in answer.headers["X-Error-Message"]
    answer = app.get("/api/models/ann/m/xet-write-token/main?create_pr=1", ann)
    assert answer.status_code == 501
    assert commit(app, ann, "ann/m", file("a", b"1"), branch="main?hot_reload=1").status_code == 200


def test_who_may_commit(app: Any, ann: str) -> None:
    make_repo(app, ann, "ann/secret", private=True)
    for name, token, status in (
        ("ann/m", app.user("bob"), 403),
        ("ann/m", app.user("ann", ("read",)), 403),
        ("ann/m", app.user("ann", projects=["ann/other"]), 403),
        ("ann/m", None, 401),
        ("ann/secret", app.user("bob"), 404),
        ("ann/missing", ann, 404),
    ):
        answer = commit(app, token, name, file("a", b"1"))
        assert answer.status_code == status, (name, answer.text)
    assert paths(app, ann, "ann/m") == {}


def refused_bodies() -> list[tuple[bytes, int, str]]:
    return [
        (b"", 400, "header"),
        (header() + b"not json\n", 400, "line 2 of the commit is not JSON"),
        (header() + b"[1, 2]\n", 400, "line 2"),
        (header() + file("a", b"abc")[:-20], 400, "line 2 of the commit is not JSON"),
        (header() + b"[" * 500_000 + b"\n", 400, "line 2 of the commit is not JSON"),
        (header() + header(), 400, "second header"),
        (header() + line("file", path="a", content="a*b=", encoding="base64"), 400, "damaged"),
        (header() + line("file", path="a", content="QQ==QQ==", encoding="base64"), 400, "damaged"),
        (header() + line("file", path="a", content="QQ", encoding="base64"), 400, "damaged"),
        (header() + line("file", path="a", content="x", encoding="rot13"), 400, "encoding"),
        (header() + line("file", path="a"), 400, "no content"),
        (header() + line("file", content="QQ==", encoding="base64"), 400, "no path"),
        (header() + file("a", b"1") + file("a", b"2"), 400, "a second time"),
        (header() + file("../a", b"1"), 400, "`..` is not a file's name"),
        (header() + file("/a", b"1"), 400, "empty name"),
        (header() + file("a/.git/config", b"1"), 400, ".git"),
        (header() + file("a\\b", b"1"), 400, "backslash"),
        (header() + file("a\nb", b"1"), 400, "control"),
        (header() + line("lfsFile", path="a", algo="md5", oid="0" * 64), 400, "sha256"),
        (header() + line("lfsFile", path="a", algo="sha256", oid="0" * 63), 400, "sha256"),
        (header() + line("lfsFile", path="a", algo="sha256", oid="0" * 64, size=-1), 400, "size"),
        (header() + line("launchMissiles", path="a"), 400, "launchMissiles"),
        (header() + b'{"key": "header", "value": {"x": "' + b"a" * 3_000_000, 400, "longer than"),
        (header() + b"a" * 3_000_000, 400, "longer than"),
        (line("header", summary="x", parentCommit=7), 400, "parentCommit"),
        (header() + file("a", b"f") + file("a/b", b"below a file"), 400, "is a file, not a folder"),
    ]


def test_refused_bodies_leave_nothing(app: Any, ann: str) -> None:
    for body, status, says in refused_bodies():
        answer = app.post("/api/models/ann/m/commit/main", ann, content=body, headers=NDJSON)
        assert answer.status_code == status, (body[:200], answer.text)
        assert says in answer.json()["error"], body[:200]
    assert paths(app, ann, "ann/m") == {}
    assert os.listdir(app.registry.settings.data / "tmp") == []


def test_a_long_content_goes_to_the_store_in_pieces(app: Any, ann: str) -> None:
    data = os.urandom(5_000_001)
    escaped = file("escaped.bin", data).replace(b"/", b"\\/")
    tail = b'{"key":"file","value":{"path":"after","encoding":"base64" , "content" : "%s"}}\n' % (
        base64.b64encode(data[:2_000_000])
    )
    answer = commit(app, ann, "ann/m", header(), escaped, tail, file("small", b"s"))
    assert answer.status_code == 200, answer.text
    assert app.get("/ann/m/resolve/main/escaped.bin", ann).content == data
    assert app.get("/ann/m/resolve/main/after", ann).content == data[:2_000_000]


def refused_long_bodies() -> list[tuple[bytes, str]]:
    return [
        (file("a", bytes(3_000_000))[:-1_000_000], "ends within a content"),
        (file("a", bytes(3_000_000)).replace(b'"base64"', b'"utf-8"'), "not in base64"),
        (file("a", bytes(3_000_000)).replace(b"AAAA", b"A=AA", 500_000), "damaged"),
        (file("a", bytes(3_000_000)).replace(b'"file"', b'"header"'), "longer than"),
        (file("a", bytes(3_000_001)).replace(b'", "path', b'\\n", "path'), "damaged"),
        (
            file("a", bytes(3_000_000)).replace(b'"path"', b'"content": "QQ==", "path"'),
            "longer than",
        ),
    ]


def test_long_contents_that_are_refused(app: Any, ann: str) -> None:
    for body, says in refused_long_bodies():
        answer = commit(app, ann, "ann/m", header(), body)
        assert answer.status_code == 400, (body[-200:], answer.text)
        assert says in answer.json()["error"], body[-200:]
    assert os.listdir(app.registry.settings.data / "tmp") == []


def test_files_beyond_the_inline_size_must_come_as_lfs(make_app: Any) -> None:
    app = make_app(max_inline=2_000_000)
    token = app.user("ann")
    make_repo(app, token, "ann/m")
    for size in (2_000_001, 5_000_000):
        answer = commit(app, token, "ann/m", file("a", bytes(size)))
        assert answer.status_code == 413, answer.text
        assert "LFS" in answer.text
    assert commit(app, token, "ann/m", file("a", bytes(2_000_000))).status_code == 200


def test_the_reader_holds_no_more_than_a_line(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    reader = CommitReader(store, 1 << 30, 1 << 30)
    data = bytes(range(256)) * 100_000
    text = header() + file("big", data) + file("small", b"x")
    most = 0
    for start in range(0, len(text), 4099):
        reader.feed(text[start : start + 4099])
        most = max(most, len(reader._line))
    found = reader.finish()
    reader.close()
    assert [o.stored.size for o in found if isinstance(o, Inline)] == [len(data), 1]
    assert most < 1.1 * (1 << 20)


def test_quota_of_a_commit(make_app: Any) -> None:
    app = make_app(quota=10_000)
    token = app.user("ann")
    make_repo(app, token, "ann/m")
    assert commit(app, token, "ann/m", file("a", bytes(9_000))).status_code == 200
    answer = commit(app, token, "ann/m", file("b", bytes(2_000)))
    assert answer.status_code in (403, 413)
    assert set(paths(app, token, "ann/m")) == {"a"}
    assert commit(app, token, "ann/m", header("less"), line("deletedFile", path="a")).status_code == 200


def test_a_pointer_file_is_the_object_that_it_names(app: Any, ann: str) -> None:
    """Git gives a pointer text and an LFS file the same id, so without a right to the object it must not come in."""
    secret = b"somebody's weights" * 10
    bob = app.user("bob")
    make_repo(app, bob, "bob/private", private=True)
    send(app, bob, "bob/private", secret)
    assert commit(app, bob, "bob/private", large("w.bin", secret)).status_code == 200
    pointer = lfs_pointer(sha256(secret), len(secret))
    answer = commit(app, ann, "ann/m", file("mine.bin", pointer))
    assert answer.status_code == 400
    assert "was not uploaded" in answer.json()["error"]
    # Other texts that look like a pointer are text.
    odd = pointer.replace(b"size ", b"size  ")
    assert commit(app, ann, "ann/m", file("odd", odd)).status_code == 200
    assert app.get("/ann/m/resolve/main/odd", ann).content == odd
    send(app, ann, "ann/m", secret)
    assert commit(app, ann, "ann/m", file("mine.bin", pointer)).status_code == 200
    assert app.get("/ann/m/resolve/main/mine.bin", ann).content == secret


def test_squash_keeps_the_files_and_drops_the_history(app: Any, ann: str) -> None:
    for number in range(3):
        commit(app, ann, "ann/m", header(f"number {number}"), file("a", b"%d" % number))
    tagged = app.get("/api/models/ann/m", ann).json()["sha"]
    app.post("/api/models/ann/m/tag/main", ann, json={"tag": "kept"})
    answer = app.post("/api/models/ann/m/super-squash/main", ann, json={"message": "squashed"})
    assert answer.status_code == 200, answer.text
    commits = app.get("/api/models/ann/m/commits/main", ann).json()
    assert [c["title"] for c in commits] == ["squashed"]
    assert app.get("/ann/m/resolve/main/a", ann).content == b"2"
    assert app.get("/api/models/ann/m/revision/kept", ann).json()["sha"] == tagged
    again = app.post("/api/models/ann/m/super-squash/main", ann, json={"message": "squashed"})
    assert again.json() == answer.json()
    assert app.post("/api/models/ann/m/super-squash/no", ann, json={}).status_code == 404
    assert app.post("/api/models/ann/m/super-squash/main", app.user("bob"), json={}).status_code == 403


def test_names_that_differ_by_case_are_warned_of(app: Any, ann: str) -> None:
    answer = commit(app, ann, "ann/m", file("Readme.txt", b"a"), file("README.txt", b"b"))
    assert answer.status_code == 200
    assert "case only" in answer.headers["X-HF-Warning"]


def test_a_broken_card_is_named(app: Any, ann: str) -> None:
    answer = commit(app, ann, "ann/m", file("README.md", b"---\nlicense: [\n---\n"))
    assert answer.status_code == 400
    assert "README.md" in answer.json()["error"]


def test_json_lines_with_unicode_paths(app: Any, ann: str) -> None:
    body = header() + json.dumps(
        {"key": "file", "value": {"path": "übung.txt", "content": "grüße"}}, ensure_ascii=False
    ).encode("utf-8")
    assert app.post("/api/models/ann/m/commit/main", ann, content=body, headers=NDJSON).status_code == 200
    assert app.get("/ann/m/resolve/main/%C3%BCbung.txt", ann).content == "grüße".encode()
