"""Pages of the simple API: both forms, who sees what, what caches are told, and that they are never stale."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from registries import InProcess
from test_index_upload import JSON, page, upload
from wheelsmith import make_plugin_wheel, make_wheel

from llmasos_registry.server.index.formats import negotiate

API_JSON = "application/vnd.pypi.simple.v1+json"
API_HTML = "application/vnd.pypi.simple.v1+html"


@pytest.mark.parametrize(
    ("accept", "got"),
    [
        (None, "text/html"),
        ("", "text/html"),
        ("*/*", "text/html"),
        ("text/html", "text/html"),
        (API_JSON, API_JSON),
        (API_HTML, API_HTML),
        ("application/vnd.pypi.simple.latest+json", API_JSON),
        (f"{API_JSON}, {API_HTML}; q=0.1, text/html; q=0.01", API_JSON),  # pip
        (f"{API_JSON};q=1, {API_HTML};q=0.2, text/html;q=0.01", API_JSON),  # uv
        (f"{API_JSON};q=0.1, {API_HTML};q=0.9", API_HTML),
        (f"{API_JSON};q=0, text/html", "text/html"),
        ("application/*", API_JSON),
        ("text/*;q=0.5, application/vnd.pypi.simple.v1+json;q=0.6", API_JSON),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
        ("application/json", None),
        ("image/png", None),
        ("text/html;q=0", None),
        (f"{API_JSON};q=nonsense", None),
        ("application/vnd.pypi.simple.v2+json", None),
    ],
)  # fmt: skip
def test_the_form_is_what_the_client_asks_for(accept: str | None, got: str | None) -> None:
    assert negotiate(accept) == got


def test_forms_over_http(app: InProcess, tmp_path: Path) -> None:
    upload(app, app.user("ann"), make_wheel(tmp_path, "acme"))
    for accept, got in (
        (API_JSON, API_JSON),
        (API_HTML, f"{API_HTML}; charset=utf-8"),
        ("*/*", "text/html; charset=utf-8"),
    ):
        answer = app.get("/simple/acme/", headers={"Accept": accept})
        assert (answer.status_code, answer.headers["content-type"]) == (200, got)
        assert "Accept" in answer.headers["vary"]
        head = app.call("HEAD", "/simple/acme/", headers={"Accept": accept})
        assert (head.headers["content-length"], head.content) == (answer.headers["content-length"], b"")
    assert app.get("/simple/acme/", headers={"Accept": "image/png"}).status_code == 406
    asked = app.get(f"/simple/acme/?format={API_JSON.replace('+', '%2B')}")
    assert asked.headers["content-type"] == API_JSON
    assert app.get("/simple/", headers=JSON).json()["projects"] == [{"name": "acme"}]


class Links(HTMLParser):
    """The anchors and marks of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[dict[str, str | None]] = []
        self.marks: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "a":
            self.links.append(found)
        if tag == "meta":
            self.marks[str(found["name"])] = str(found["content"])


def test_the_html_form_says_what_the_json_form_says(app: InProcess, tmp_path: Path) -> None:
    token = app.user("ann")
    upload(app, token, make_wheel(tmp_path, "acme", metadata=["Requires-Python: >=3.9,<4"]))
    app.post("/v1/plugins/acme/versions/1.0/yank", token, json={"reason": 'broken "here" <b>'})
    (file,) = page(app, "acme")["files"]
    html = Links(app.get("/simple/acme/").text)
    (link,) = html.links
    assert html.marks == {"pypi:repository-version": "1.4", "pypi:project-status": "active"}
    assert link["href"] == f"{file['url']}#sha256={file['hashes']['sha256']}"
    assert link["data-requires-python"] == file["requires-python"] == "<4,>=3.9"
    assert link["data-yanked"] == file["yanked"] == 'broken "here" <b>'
    assert link["data-core-metadata"] == f"sha256={file['core-metadata']['sha256']}"
    assert [(link["href"]) for link in Links(app.get("/simple/").text).links] == ["acme/"]


def test_addresses_work_behind_any_prefix(app: InProcess, tmp_path: Path) -> None:
    upload(app, app.user("ann"), make_wheel(tmp_path, "acme"))
    (file,) = page(app, "acme")["files"]
    assert urljoin("https://host/some/prefix/simple/acme/", file["url"]).startswith(
        "https://host/some/prefix/files/"
    )


def test_names_lead_to_their_normal_form(app: InProcess, tmp_path: Path) -> None:
    upload(app, app.user("ann"), make_wheel(tmp_path, "acme-tools"))
    for address in ("/simple/Acme_Tools/", "/simple/acme.tools/", "/simple/acme--tools/"):
        answer = app.get(address)
        assert (answer.status_code, urljoin(address, answer.headers["location"])) == (
            301,
            "/simple/acme-tools/",
        )
    answer = app.get("/simple/acme_tools")
    assert urljoin("/simple/acme_tools", answer.headers["location"]) == "/simple/acme-tools/"
    for address in (
        "/simple/none-such/",
        "/simple/-acme/",
        "/simple/%2e%2e/",
        "/simple/%C3%A9/",
    ):
        assert app.get(address).status_code == 404, address


def test_etags_and_compression(app: InProcess, tmp_path: Path) -> None:
    token = app.user("ann")
    upload(app, token, make_wheel(tmp_path, "acme"))
    tags = set()
    for headers in ({**JSON, "Accept-Encoding": "identity"}, {**JSON, "Accept-Encoding": "gzip"}, {"Accept": "text/html", "Accept-Encoding": "gzip"}):  # fmt: skip
        answer = app.get("/simple/acme/", headers=headers)
        etag = answer.headers["etag"]
        tags.add(etag)
        again = app.get("/simple/acme/", headers={**headers, "If-None-Match": etag})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert answer.headers["cache-control"] == "no-cache"
    assert len(tags) == 3, "each form has its own"
    with app.client.stream("GET", "/simple/acme/", headers={**JSON, "Accept-Encoding": "gzip"}) as raw:
        packed = b"".join(raw.iter_raw())
    assert json.loads(gzip.decompress(packed))["name"] == "acme"
    upload(app, token, make_wheel(tmp_path, "acme", "2.0"))
    changed = app.get("/simple/acme/", headers={**JSON, "If-None-Match": answer.headers["etag"]})
    assert changed.status_code == 200
    assert [file["filename"].split("-")[1] for file in changed.json()["files"]] == ["1.0", "2.0"]


def test_versions_are_in_their_order(app: InProcess, tmp_path: Path) -> None:
    token = app.user("ann")
    for version in ("10.0", "9.0", "1.0rc1", "1.0"):
        upload(app, token, make_wheel(tmp_path, "acme", version))
    assert page(app, "acme")["versions"] == ["1.0rc1", "1.0", "9.0", "10.0"]


def test_a_page_is_current_whoever_changed_it(
    make_app: Callable[..., InProcess], app: InProcess, tmp_path: Path
) -> None:
    """Two processes over one database: what one publishes, the other serves with the next request."""
    other = InProcess(app.registry.settings)
    try:
        token = app.user("ann")
        upload(app, token, make_wheel(tmp_path, "acme"))
        for number in range(2, 5):
            assert len(page(app, "acme")["files"]) == len(page(other, "acme")["files"]) == number - 1
            upload(other if number % 2 else app, token, make_wheel(tmp_path, "acme", f"{number}.0"))
        assert len(page(app, "acme")["files"]) == 4
        app.delete("/v1/plugins/acme", token)
        assert other.get("/simple/acme/").status_code == 404
        assert other.get("/simple/", headers=JSON).json()["projects"] == []
    finally:
        other.client.close()
        other.db.close()


def test_yanked_versions_say_why_and_can_come_back(app: InProcess, tmp_path: Path) -> None:
    token = app.user("ann")
    upload(app, token, make_wheel(tmp_path, "acme"))
    path = "/v1/plugins/acme/versions/1.0/yank"
    assert app.post(path, token, json={"reason": "wrong weights"}).status_code == 200
    assert page(app, "acme")["files"][0]["yanked"] == "wrong weights"
    serial = page(app, "acme")["meta"]["_last-serial"]
    assert app.delete(path, token).status_code == 200
    assert page(app, "acme")["files"][0]["yanked"] is False
    assert page(app, "acme")["meta"]["_last-serial"] > serial


def test_private_projects_do_not_exist_for_strangers(app: InProcess, tmp_path: Path) -> None:
    ann, eve = app.user("ann"), app.user("eve")
    assert app.post("/v1/plugins", ann, json={"name": "secret", "private": True}).status_code == 201
    upload(app, ann, make_wheel(tmp_path, "secret"))
    upload(app, ann, make_wheel(tmp_path, "open"))
    (file,) = page(app, "secret", ann)["files"]
    address = "/simple/secret/" + file["url"]
    seen = app.get("/simple/secret/", ann, headers=JSON)
    assert seen.headers["cache-control"].startswith("private")
    assert app.get(address, ann).headers["cache-control"].startswith("private")
    for token in (None, eve):
        missing = app.get("/simple/missing/", token)
        hidden = app.get("/simple/secret/", token)
        assert (hidden.status_code, hidden.text.replace("secret", "missing")) == (404, missing.text)
        for path in (address, address + ".metadata"):
            assert app.get(path, token).status_code == 404
        assert app.get("/simple/", token, headers=JSON).json()["projects"] == [{"name": "open"}]
    assert app.get("/simple/", ann, headers=JSON).json()["projects"] == [{"name": "open"}, {"name": "secret"}]
    app.call("PATCH", "/v1/plugins/secret", ann, json={"private": False})
    assert page(app, "secret")["name"] == "secret"
    assert app.get("/simple/", headers=JSON).json()["projects"] == [{"name": "open"}, {"name": "secret"}]


def test_a_quarantined_project_serves_no_files(app: InProcess, tmp_path: Path) -> None:
    ann, boss = app.user("ann"), app.user("boss", ("admin",), admin=True)
    upload(app, ann, make_plugin_wheel(tmp_path, "acme"))
    address = "/simple/acme/" + page(app, "acme")["files"][0]["url"]
    change = {"status": "quarantined", "status_reason": "malware report 7"}
    assert app.call("PATCH", "/v1/plugins/acme", ann, json=change).status_code == 403
    assert app.call("PATCH", "/v1/plugins/acme", boss, json=change).status_code == 200
    listed = page(app, "acme")
    assert (listed["files"], listed["versions"]) == ([], [])
    assert listed["project-status"] == {"status": "quarantined", "reason": "malware report 7"}
    assert app.get(address).status_code == app.get(address + ".metadata").status_code == 404
    assert upload(app, ann, make_plugin_wheel(tmp_path, "acme", "2.0")).status_code == 409
    for mine in ({"status": "active"}, {"status_reason": "all is well"}):
        assert app.call("PATCH", "/v1/plugins/acme", ann, json=mine).status_code == 403
    assert app.call("PATCH", "/v1/plugins/acme", ann, json={"private": False}).status_code == 200
    assert app.call("PATCH", "/v1/plugins/acme", boss, json={"status": "active"}).status_code == 200
    assert app.get(address).status_code == 200
    assert page(app, "acme")["project-status"] == {"status": "active"}


def test_archived_projects_take_no_files_and_deprecated_ones_do(app: InProcess, tmp_path: Path) -> None:
    token = app.user("ann")
    upload(app, token, make_wheel(tmp_path, "acme"))
    for status, code in (("archived", 409), ("deprecated", 200)):
        app.call("PATCH", "/v1/plugins/acme", token, json={"status": status})
        assert page(app, "acme")["project-status"]["status"] == status
        assert len(page(app, "acme")["files"]) == 1
        assert upload(app, token, make_wheel(tmp_path, "acme", "2.0")).status_code == code


def test_deleted_names_never_come_back(app: InProcess, tmp_path: Path) -> None:
    ann, bob = app.user("ann"), app.user("bob")
    wheel = make_wheel(tmp_path, "acme-tools")
    upload(app, ann, wheel)
    upload(app, ann, make_wheel(tmp_path, "acme-tools", "2.0"))
    address = "/simple/acme-tools/" + page(app, "acme-tools")["files"][0]["url"]
    assert app.delete(f"/v1/plugins/acme-tools/files/{wheel.name}", bob).status_code == 403
    assert app.delete(f"/v1/plugins/acme-tools/files/{wheel.name}", ann).status_code == 204
    assert [file["filename"].split("-")[1] for file in page(app, "acme-tools")["files"]] == ["2.0"]
    assert app.get(address).status_code == 404
    answer = upload(app, ann, wheel)
    assert (answer.status_code, "not used again" in answer.json()["error"]) == (400, True)
    assert app.delete(f"/v1/plugins/acme-tools/files/{wheel.name}", ann).status_code == 404
    assert app.delete("/v1/plugins/acme-tools", bob).status_code == 403
    assert app.delete("/v1/plugins/acme-tools", ann).status_code == 204
    assert app.get("/simple/acme-tools/").status_code == 404
    assert app.get("/v1/plugins/acme-tools").status_code == 404
    for name in ("acme-tools", "acmetools", "acme-too1s"):
        assert upload(app, ann, make_wheel(tmp_path, name, "3.0")).status_code == 409


def test_the_list_of_projects_has_an_etag(app: InProcess, tmp_path: Path) -> None:
    token = app.user("ann")
    upload(app, token, make_wheel(tmp_path, "acme"))
    first = app.get("/simple/", headers=JSON)
    kept = {**JSON, "If-None-Match": first.headers["etag"]}
    upload(app, token, make_wheel(tmp_path, "acme", "2.0"))
    assert app.get("/simple/", headers=kept).status_code == 304, "another version is no other project"
    upload(app, token, make_wheel(tmp_path, "other"))
    assert app.get("/simple/", headers=kept).status_code == 200


def test_a_registry_that_wants_tokens_shows_nothing_without(
    make_app: Callable[..., InProcess], tmp_path: Path
) -> None:
    app = make_app(require_login=True)
    token = app.user("ann")
    upload(app, token, make_wheel(tmp_path, "acme"))
    assert app.get("/simple/").status_code == app.get("/simple/acme/").status_code == 401
    listed: Any = app.client.get("/simple/acme/", headers=JSON, auth=("__token__", token))
    assert listed.json()["name"] == "acme"
