"""The operator changes a project on the data folder; what serves that folder obeys at once."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx2
import pytest
import sqlalchemy as sa
from registries import InProcess, Server
from wheelsmith import make_wheel

from llmasos.cli.main import run
from llmasos_registry.server.db.tables_api import audit_log, events

JSON = {"Accept": "application/vnd.pypi.simple.v1+json"}


def form_of(wheel: Path) -> dict[str, str]:
    name, version = wheel.name.split("-")[:2]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    fields = {":action": "file_upload", "protocol_version": "1", "filetype": "bdist_wheel"}
    return {**fields, "name": name, "version": version, "sha256_digest": digest}


def publish(app: InProcess, token: str, wheel: Path) -> None:
    files = {"content": (wheel.name, wheel.read_bytes(), "application/octet-stream")}
    answer = app.post("/legacy/", token, data=form_of(wheel), files=files)
    assert answer.status_code == 200, answer.text


def page(app: InProcess, key: str) -> Any:
    return app.get(f"/simple/{key}/", headers=JSON).json()


@pytest.fixture
def project(app: InProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """`project("set", NAME, ...) -> JSON of stdout, or stderr when it failed`, on the data of `app`."""
    if not app.db.sqlite:
        url = app.db.url.render_as_string(hide_password=False)
        monkeypatch.setenv("LLMASOS_REGISTRY_DATABASE", url)

    def command(*arguments: str, expect: int = 0) -> Any:
        capsys.readouterr()
        code = run(["registry", "project", *arguments, "--json", "--data", str(app.registry.settings.data)])
        said = capsys.readouterr()
        assert code == expect, said.err
        return json.loads(said.out) if said.out else said.err

    return command


@pytest.fixture
def acme(app: InProcess, tmp_path: Path) -> str:
    """The token of the user ann, who published a wheel of `acme-tools`."""
    token = app.user("ann")
    publish(app, token, make_wheel(tmp_path, "acme-tools"))
    return token


def lines(app: InProcess) -> list[Any]:
    """Who changed which project how, out of the audit log."""
    with app.db.read() as conn:
        return [
            (row.actor, row.target, row.detail)
            for row in conn.execute(
                sa.select(audit_log).where(audit_log.c.action == "plugin.change").order_by(audit_log.c.id)
            )
        ]


def test_quarantine_and_its_end(app: InProcess, acme: str, project: Callable[..., Any]) -> None:
    (file,) = page(app, "acme-tools")["files"]
    address = urljoin("/simple/acme-tools/", file["url"])
    state = project("set", "Acme_Tools", "--status", "quarantined", "--reason", "steals keys")
    assert (state["status"], state["status_reason"], state["owner"]) == ("quarantined", "steals keys", "ann")
    shut = page(app, "acme-tools")
    assert (shut["files"], shut["versions"]) == ([], [])
    assert shut["project-status"] == {"status": "quarantined", "reason": "steals keys"}
    assert shut["meta"]["_last-serial"] == state["serial"]
    assert app.get(address).status_code == 404
    lift = app.call("PATCH", "/v1/plugins/acme-tools", acme, json={"status": "active"})
    assert lift.status_code == 403, "the owner does not end what the operator began"
    again = project("set", "acme-tools", "--status", "quarantined", "--reason", "steals keys")
    assert again == state, "nothing differs, nothing is written"
    freed = project("set", "acme-tools", "--status", "active")
    assert (freed["status"], freed["status_reason"]) == ("active", None)
    assert page(app, "acme-tools")["files"] == [file]
    assert app.get(address).status_code == 200
    changes = lines(app)
    assert all(actor.startswith("operator:") for actor, _, _ in changes)
    assert [detail for _, _, detail in changes] == [
        {"status": "quarantined", "status_reason": "steals keys"},
        {"status": "active", "status_reason": None},
    ]
    with app.db.read() as conn:
        told = conn.execute(sa.select(events.c.payload).where(events.c.event == "plugin.change")).scalars()
        assert [(body["name"], body["status"]) for body in told] == [
            ("acme-tools", "quarantined"),
            ("acme-tools", "active"),
        ]


def test_privacy_and_source_distributions(app: InProcess, acme: str, project: Callable[..., Any]) -> None:
    changed = project("set", "acme-tools", "--private", "--sdists")
    assert (changed["private"], changed["sdists"], changed["status"]) == (True, True, "active")
    assert app.get("/simple/acme-tools/").status_code == 404
    assert app.get("/simple/acme-tools/", acme).status_code == 200
    assert project("list") == [changed], "the operator sees private projects"
    same = app.call("PATCH", "/v1/plugins/acme-tools", acme, json={"private": True, "sdists": True})
    assert same.json() == changed, "one answer over HTTP and on the command line"
    back = project("set", "acme-tools", "--public", "--no-sdists")
    assert (back["private"], back["sdists"]) == (False, False)
    assert app.get("/simple/acme-tools/").status_code == 200


def test_an_archived_project_takes_no_files(
    app: InProcess, acme: str, project: Callable[..., Any], tmp_path: Path
) -> None:
    project("set", "acme-tools", "--status", "archived")
    wheel = make_wheel(tmp_path, "acme-tools", "9.0")
    files = {"content": (wheel.name, wheel.read_bytes(), "application/octet-stream")}
    assert app.post("/legacy/", acme, data=form_of(wheel), files=files).status_code == 409
    assert len(page(app, "acme-tools")["files"]) == 1


def test_mistakes_are_told_with_a_way_out(app: InProcess, acme: str, project: Callable[..., Any]) -> None:
    unknown = project("set", "Acme.Tool", "--private", expect=5)
    assert "no project `Acme.Tool`" in unknown
    assert "did you mean `acme-tools`?" in unknown
    assert "project list" in project("set", "../etc/passwd", "--private", expect=5)
    assert "nothing to change" in project("set", "acme-tools", expect=2)
    assert "'--status'" in project("set", "acme-tools", "--status", "asleep", expect=2)
    assert "at most 500" in project("set", "acme-tools", "--reason", "x" * 501, expect=2)
    assert "nicode" in project("set", "acme-tools", "--reason", "\udcff", expect=2)
    assert lines(app) == []


def test_a_running_server_serves_no_file_of_a_project_that_is_quarantined_beside_it(
    registry: Server, tmp_path: Path
) -> None:
    address = f"{registry.url}/simple/acme-live/"

    def files() -> list[Any]:
        return list(httpx2.get(address, headers=JSON, timeout=30).raise_for_status().json()["files"])

    def llmasos(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "llmasos", "registry", "project", *arguments]
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "LLMASOS_"))}
        return subprocess.run(
            [*command, "--data", str(registry.data)], capture_output=True, text=True, env=environ, timeout=120
        )

    wheel = make_wheel(tmp_path, "acme-live")
    sent = httpx2.post(
        f"{registry.url}/legacy/",
        data=form_of(wheel),
        files={"content": (wheel.name, wheel.read_bytes(), "application/octet-stream")},
        headers={"Authorization": f"Bearer {registry.user('ann')}"},
        timeout=30,
    )
    assert sent.status_code == 200, sent.text
    (file,) = files()
    wheel_address = urljoin(address, file["url"])
    assert httpx2.get(wheel_address, timeout=30).content == wheel.read_bytes()
    done = llmasos("set", "acme-live", "--status", "quarantined", "--reason", "reported")
    assert (done.returncode, done.stdout) == (0, "changed acme-live\n"), done.stderr
    assert files() == []
    assert httpx2.get(wheel_address, timeout=30).status_code == 404
    shown = llmasos("list").stdout
    assert all(word in shown for word in ("acme-live", "ann", "quarantined", "public", "reported"))
