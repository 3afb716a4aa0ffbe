"""One merged index: local and reserved names are never looked up upstream, others are, checked, kept and proxied."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from registries import InProcess
from test_index_upload import JSON, page, upload
from wheelsmith import make_wheel, wheel_members

from llmasos_registry.server.db.tables_index import upstream_files

API = "application/vnd.pypi.simple.v1+json"


class StaticIndex:
    """An index in this process: ``files`` by project, ``seen`` requests, and ways to misbehave."""

    def __init__(self) -> None:
        self.pages: dict[str, dict[str, Any]] = {}
        self.bodies: dict[str, bytes] = {}
        self.seen: list[str] = []
        self.status: int | None = None
        self.kind = API
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.seen.append(self.path)
                body, kind, headers = b"", "application/octet-stream", {}
                code = outer.status or 200
                key = self.path.removeprefix("/simple/").rstrip("/")
                if code == 200 and key in outer.pages:
                    body, kind = json.dumps(outer.pages[key]).encode(), outer.kind
                    headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()}"'
                    if self.headers.get("If-None-Match") == headers["ETag"]:
                        code, body = 304, b""
                elif code == 200 and self.path in outer.bodies:
                    body = outer.bodies[self.path]
                elif code == 200:
                    code = 404
                self.send_response(code)
                for name, value in {
                    "Content-Type": kind,
                    "Content-Length": str(len(body)),
                    **headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/simple/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add(self, name: str, wheel: Path, **changes: Any) -> dict[str, Any]:
        """List a wheel; ``changes`` to its entry."""
        data = wheel.read_bytes()
        members = wheel_members(name, wheel.name.split("-")[1])
        metadata = next(body for path, body in members.items() if path.endswith("METADATA"))
        path = f"/packages/{wheel.name}"
        self.bodies[path] = data
        self.bodies[path + ".metadata"] = metadata
        entry = {
            "filename": wheel.name,
            "url": path,
            "hashes": {"sha256": hashlib.sha256(data).hexdigest()},
            "size": len(data),
            "upload-time": "2020-01-01T00:00:00Z",
            "requires-python": ">=3.8",
            "core-metadata": {"sha256": hashlib.sha256(metadata).hexdigest()},
            **changes,
        }
        listed = self.pages.setdefault(name, {"meta": {"api-version": "1.1"}, "name": name, "files": []})
        listed["files"].append(entry)
        return entry


@pytest.fixture
def upstream() -> Iterator[StaticIndex]:
    index = StaticIndex()
    yield index
    index.server.shutdown()
    index.server.server_close()


@pytest.fixture
def app(make_app: Callable[..., InProcess], upstream: StaticIndex) -> InProcess:
    return make_app(upstream_index=upstream.url)


def test_other_names_come_from_the_upstream_in_our_form(
    app: InProcess, upstream: StaticIndex, tmp_path: Path
) -> None:
    wheel = make_wheel(tmp_path, "friend")
    upstream.add("friend", wheel, yanked="old")
    (file,) = page(app, "friend")["files"]
    assert file["url"].startswith("../../files/upstream/friend/")
    assert (file["yanked"], file["requires-python"], file["size"]) == ("old", ">=3.8", wheel.stat().st_size)
    assert page(app, "friend")["meta"]["api-version"] == "1.4"
    assert 'data-yanked="old"' in app.get("/simple/friend/").text
    assert upstream.seen == ["/simple/friend/"], "one question for three pages"
    address = "/simple/friend/" + file["url"]
    for _ in range(2):
        assert app.get(address).content == wheel.read_bytes()
        metadata = app.get(address + ".metadata")
        assert hashlib.sha256(metadata.content).hexdigest() == file["core-metadata"]["sha256"]
    assert app.get(address, headers={"Range": "bytes=0-3"}).content == wheel.read_bytes()[:4]
    path = f"/packages/{wheel.name}"
    assert sorted(upstream.seen[1:]) == [path, path + ".metadata"], "the second time from the store"
    answer = app.get("/simple/friend/", headers=JSON)
    assert (
        app.get("/simple/friend/", headers={**JSON, "If-None-Match": answer.headers["etag"]}).status_code
        == 304
    )
    assert app.get("/simple/", headers=JSON).json()["projects"] == []


def test_local_names_are_never_looked_up(app: InProcess, upstream: StaticIndex, tmp_path: Path) -> None:
    boss = app.user("boss", ("admin",), admin=True)
    ours = make_wheel(tmp_path, "friend")
    upload(app, boss, ours)
    folder = tmp_path / "theirs"
    folder.mkdir()
    theirs = make_wheel(folder, "friend", "99.0")
    entry = upstream.add("friend", theirs)
    assert [file["filename"] for file in page(app, "friend")["files"]] == [ours.name]
    direct = f"/files/upstream/friend/{entry['hashes']['sha256']}/{theirs.name}"
    assert app.get(direct).status_code == app.get(direct + ".metadata").status_code == 404
    app.call("PATCH", "/v1/plugins/friend", boss, json={"private": True})
    assert app.get("/simple/friend/").status_code == 404, "a private name hides the upstream's as well"
    app.delete("/v1/plugins/friend", boss)
    assert app.get("/simple/friend/").status_code == app.get(direct).status_code == 404, (
        "and so does a deleted one"
    )
    assert upstream.seen == []


def test_reserved_names_are_never_looked_up(app: InProcess, upstream: StaticIndex, tmp_path: Path) -> None:
    entry = upstream.add("llmasos-evil", make_wheel(tmp_path, "llmasos-evil", files={"x/__init__.py": ""}))
    for name in ("llmasos-evil", "llmasos", "llmasos-anything"):
        assert app.get(f"/simple/{name}/").status_code == 404
    file = f"{entry['hashes']['sha256']}/{entry['filename']}"
    assert app.get(f"/files/upstream/llmasos-evil/{file}").status_code == 404
    assert upload(app, app.user("ann"), make_wheel(tmp_path, "llmasos-mine")).status_code == 200
    assert upstream.seen == []


def test_nobody_but_an_administrator_puts_a_project_before_the_upstream_s(
    app: InProcess, upstream: StaticIndex, tmp_path: Path
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    upstream.add("friend", make_wheel(folder, "friend"))
    ann, boss = app.user("ann"), app.user("boss", ("admin",), admin=True)
    wheel = make_wheel(tmp_path, "friend", "99.0")
    answer = upload(app, ann, wheel)
    assert (answer.status_code, "exists at the upstream" in answer.json()["error"]) == (403, True)
    assert upload(app, ann, make_wheel(tmp_path, "brand-new")).status_code == 200
    assert app.post("/v1/plugins", ann, json={"name": "friend"}).status_code == 403
    upstream.status = 503
    assert upload(app, ann, make_wheel(tmp_path, "another-new")).status_code == 502, "unknown is not free"
    assert upload(app, boss, wheel).status_code == 200


def test_other_bytes_than_listed_are_refused(app: InProcess, upstream: StaticIndex, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "friend", files={"friend/x.bin": hashlib.shake_256(b"x").digest(300_000)})
    entry = upstream.add("friend", wheel)
    path = entry["url"]
    upstream.bodies[path] = upstream.bodies[path][:-1] + b"X"
    upstream.bodies[path + ".metadata"] += b"Requires-Dist: evil\n"
    address = f"/files/upstream/friend/{entry['hashes']['sha256']}/{wheel.name}"
    metadata = app.get(address + ".metadata")
    assert metadata.status_code == 502
    assert f"expected sha256 {entry['core-metadata']['sha256']}, found" in metadata.json()["error"]
    try:
        got = app.get(address).content
    except Exception:  # the connection ends without its last piece
        got = b""
    assert len(got) < wheel.stat().st_size
    with app.db.read() as conn:
        assert conn.execute(sa.select(upstream_files)).first() is None
    upstream.bodies[path] = wheel.read_bytes()
    assert app.get(address).content == wheel.read_bytes()


def test_pages_are_kept_for_a_while_and_then_asked_for_again(
    make_app: Callable[..., InProcess], upstream: StaticIndex, tmp_path: Path
) -> None:
    upstream.add("friend", make_wheel(tmp_path, "friend"))
    app = make_app(upstream_index=upstream.url, upstream_ttl=0)
    first = page(app, "friend")
    assert page(app, "friend") == first
    assert len(upstream.seen) == 2, "the second answer was 304"
    upstream.add("friend", make_wheel(tmp_path, "friend", "2.0"))
    assert len(page(app, "friend")["files"]) == 2
    upstream.status = 500
    assert len(page(app, "friend")["files"]) == 2, "what was known is used while the upstream is ill"
    answer = app.get("/simple/stranger/")
    assert answer.status_code == 502, "an unknown name is not reported as missing"
    upstream.status = None
    assert app.get("/simple/stranger/").status_code == 404


def test_what_is_no_page_is_refused(app: InProcess, upstream: StaticIndex) -> None:
    bodies: tuple[Any, ...] = (
        {"files": []},
        {"meta": {"api-version": "2.0"}, "files": []},
        {"meta": {"api-version": "1.0"}, "files": {}},
        {"meta": [], "files": []},
        [],
    )
    for body in bodies:
        upstream.pages["friend"] = body
        assert app.get("/simple/friend/").status_code == 502


def test_entries_that_cannot_be_checked_are_left_out(
    app: InProcess, upstream: StaticIndex, tmp_path: Path
) -> None:
    wheel = make_wheel(tmp_path, "friend")
    for changes in (
        {"hashes": {"md5": "0" * 32}},
        {"hashes": {"sha256": "xyz"}},
        {"hashes": None},
        {"filename": "../friend-1.0-py3-none-any.whl"},
        {"filename": "friend.exe"},
        {"filename": 7},
        {"url": "file:///etc/passwd"},
        {"url": None},
    ):
        upstream.add("friend", wheel, **changes)
    upstream.pages["friend"]["files"].append("nonsense")
    assert page(app, "friend")["files"] == []
    upstream.pages.pop("friend")
    upstream.add(
        "odd", wheel, size="big", **{"core-metadata": True, "upload-time": "<b>", "requires-python": 3}
    )
    (file,) = page(app, "odd")["files"]
    assert not {"size", "core-metadata", "upload-time", "requires-python"} & file.keys()


def test_a_page_that_is_no_json_is_refused(app: InProcess, upstream: StaticIndex, tmp_path: Path) -> None:
    upstream.add("friend", make_wheel(tmp_path, "friend"))
    upstream.kind = "text/html"
    answer = app.get("/simple/friend/")
    assert (answer.status_code, "JSON" in answer.json()["error"]) == (502, True)


def test_a_quarantine_of_the_upstream_holds_here(
    app: InProcess, upstream: StaticIndex, tmp_path: Path
) -> None:
    upstream.add("friend", make_wheel(tmp_path, "friend"))
    upstream.pages["friend"]["project-status"] = {"status": "quarantined"}
    assert page(app, "friend")["files"] == []
