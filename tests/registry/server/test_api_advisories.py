"""Advisories: the OSV format, the evaluation of ranges, queries as OSV.dev takes them, and `uv audit`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner
from registries import InProcess, Server
from wheelsmith import make_wheel

from llmasos.cli.registry_advisory import command
from llmasos.errors import InputError, NotFound
from llmasos_registry.server.api.osv_versions import SemVer, is_affected


def document(number: str = "x_LLMASOS-2026-0001", **changes: Any) -> dict[str, Any]:
    affected = {
        "package": {"ecosystem": "PyPI", "name": "Llmasos_Acme"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "1.0"}, {"fixed": "1.2.1"}]}],
    }
    return {
        "id": number,
        "summary": "Reads files it should not",
        "affected": [affected],
        "references": [{"type": "WEB", "url": "https://example.org/a"}],
        **changes,
    }


@pytest.fixture
def admin(app: InProcess) -> str:
    return app.user("chief", ["admin"], admin=True)


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json().get("vulns", [])]


def query(app: InProcess, version: str | None = None, name: str = "llmasos-acme", **more: Any) -> Any:
    body: dict[str, Any] = {"package": {"name": name, "ecosystem": "PyPI"}, **more}
    if version is not None:
        body["version"] = version
    return app.post("/v1/query", json=body)


@pytest.mark.parametrize(
    ("kind", "ecosystem", "events", "inside", "outside"),
    [
        ("ECOSYSTEM", "PyPI", [{"introduced": "0"}], ["0.0.1", "99", "1.0.dev1"], []),
        (
            "ECOSYSTEM",
            "PyPI",
            [{"introduced": "1.0"}, {"fixed": "1.10"}],
            ["1.0", "1.9", "1.0.0", "v1.2", "1.10rc1", "1.2.post1"],
            ["0.9", "1.10", "1.10.0", "2", "1.0rc1", "nonsense", ""],
        ),
        (
            "ECOSYSTEM",
            "PyPI",
            [{"introduced": "0"}, {"last_affected": "2.0"}],
            ["2.0", "1"],
            ["2.0.1", "2.0.post1"],
        ),
        (
            "ECOSYSTEM",
            "PyPI",
            # In any order, and twice.
            [{"fixed": "3.1"}, {"introduced": "3.0"}, {"fixed": "1.5"}, {"introduced": "1.0"}],
            ["1.0", "1.4", "3.0", "3.0.9"],
            ["1.5", "2.9", "3.1"],
        ),
        ("ECOSYSTEM", "PyPI", [{"introduced": "1.0"}, {"limit": "2.0"}], ["1.9"], ["2.0", "0.9"]),
        ("ECOSYSTEM", "PyPI", [{"introduced": "1.0"}, {"limit": "*"}], ["1.9", "50"], ["0.9"]),
        (
            "SEMVER",
            "llmasos",
            [{"introduced": "1.0.0-alpha.2"}, {"fixed": "1.0.0"}],
            ["1.0.0-alpha.2", "1.0.0-alpha.10", "1.0.0-beta", "1.0.0-rc.1"],
            ["1.0.0", "1.0.0-alpha.1", "1.0.0+build", "0.9.9"],
        ),
        ("GIT", "PyPI", [{"introduced": "0"}], [], ["1.0", "abc"]),
    ],
)
def test_ranges(
    kind: str, ecosystem: str, events: list[dict[str, str]], inside: list[str], outside: list[str]
) -> None:
    entry = {"package": {"ecosystem": ecosystem, "name": "x"}, "ranges": [{"type": kind, "events": events}]}
    assert [v for v in inside + outside if is_affected(entry, v)] == inside


def test_listed_versions_are_compared_as_versions() -> None:
    entry = {"package": {"ecosystem": "PyPI", "name": "x"}, "versions": ["1.0", "2.0.0-odd"]}
    assert [v for v in ("1.0.0", "1", "1.0.1", "2.0.0-odd", "2.0.0") if is_affected(entry, v)] == [
        "1.0.0",
        "1",
        "2.0.0-odd",
    ]


def test_order_of_semantic_versions() -> None:
    # The example of the specification, section 11.
    texts = [
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc.1",
        "1.0.0",
    ]
    assert sorted(set(texts), key=SemVer) == texts


def test_queries(app: InProcess, admin: str) -> None:
    made = app.post("/v1/advisories", admin, json=document())
    assert made.status_code == 201, made.text
    assert ids(query(app, "1.2")) == ids(query(app, name="LLMASOS.acme")) == ["x_LLMASOS-2026-0001"]
    assert query(app, "1.2.1").json() == query(app, "1.2", name="other").json() == {}
    full = query(app, "1.0").json()["vulns"][0]
    assert full == app.get("/v1/vulns/x_LLMASOS-2026-0001").json() == made.json()
    assert full["modified"].endswith("Z")
    assert full["published"] == full["modified"]
    purl = {"purl": "pkg:pypi/llmasos-acme@1.2?x=y#z"}
    assert ids(app.post("/v1/query", json={"package": purl})) == ["x_LLMASOS-2026-0001"]
    assert (
        ids(app.post("/v1/query", json={"package": {"purl": "pkg:pypi/llmasos_acme"}, "version": "1.3"}))
        == []
    )
    assert ids(app.post("/v1/query", json={"package": {"purl": "pkg:golang/github.com/a/b@1"}})) == []
    assert ids(app.post("/v1/query", json={"commit": "6879efc2c1596d11a6a6ad296f80063b558d5e0f"})) == []
    # Names of other ecosystems are other things.
    assert ids(app.post("/v1/query", json={"package": {"name": "llmasos-acme", "ecosystem": "npm"}})) == []


def test_batches_keep_their_order(app: InProcess, admin: str) -> None:
    app.post("/v1/advisories", admin, json=document())
    queries = [
        {"package": {"name": "nothing", "ecosystem": "PyPI"}, "version": "1"},
        {"package": {"name": "llmasos-acme", "ecosystem": "PyPI"}, "version": "1.1"},
        {"package": {"purl": "pkg:pypi/llmasos-acme@9"}},
    ]
    answer = app.post("/v1/querybatch", json={"queries": queries}).json()
    assert [[v["id"] for v in r.get("vulns", [])] for r in answer["results"]] == [
        [],
        ["x_LLMASOS-2026-0001"],
        [],
    ]
    assert set(answer["results"][1]["vulns"][0]) == {"id", "modified"}
    assert app.post("/v1/querybatch", json={"queries": []}).json() == {"results": []}
    many = [{"package": {"name": f"p{n}", "ecosystem": "PyPI"}} for n in range(1000)]
    assert len(app.post("/v1/querybatch", json={"queries": many}).json()["results"]) == 1000
    assert app.post("/v1/querybatch", json={"queries": [*many, many[0]]}).status_code == 400


def test_pages(app: InProcess, admin: str) -> None:
    for number in range(105):
        assert (
            app.post("/v1/advisories", admin, json=document(f"x_LLMASOS-2026-{number:04}")).status_code == 201
        )
    first = query(app, "1.1").json()
    assert len(first["vulns"]) == 100
    second = query(app, "1.1", page_token=first["next_page_token"]).json()
    assert len(second["vulns"]) == 5
    assert "next_page_token" not in second
    assert {v["id"] for v in first["vulns"] + second["vulns"]} == {
        f"x_LLMASOS-2026-{n:04}" for n in range(105)
    }
    assert query(app, page_token="***").status_code == 400


SENSELESS: list[dict[str, Any]] = [
    {},
    {"version": "1.0"},
    {"package": {}},
    {"package": {"name": "x"}},
    {"package": {"name": "x", "ecosystem": "PyPI", "purl": "pkg:pypi/x"}},
    {"package": {"purl": "pkg:pypi/x@1"}, "version": "1"},
    {"package": {"purl": "nonsense"}},
    {"package": {"purl": "pkg:pypi"}},
    {"package": {"purl": "pkg:pypi/a%00b"}},
    {"package": {"purl": "pkg:pypi/a"}, "page_token": "\u00e9\u00e9\u00e9\u00e9"},
]


def test_queries_that_make_no_sense(app: InProcess) -> None:
    for body in SENSELESS:
        assert app.post("/v1/query", json=body).status_code == 400, body


MALFORMED: list[dict[str, Any]] = [
    {"id": "no spaces please"},
    {"affected": []},
    {"affected": [{"package": {"ecosystem": "PyPI", "name": "x"}}]},
    {
        "affected": [
            {
                "package": {"ecosystem": "PyPI", "name": "x"},
                "ranges": [{"type": "ECOSYSTEM", "events": []}],
            }
        ]
    },
    *(
        {
            "affected": [
                {
                    "package": {"ecosystem": "PyPI", "name": "x"},
                    "ranges": [{"type": "ECOSYSTEM", "events": e}],
                }
            ]
        }
        for e in (
            [{"fixed": "1.0"}],
            [{"introduced": "0", "fixed": "1.0"}],
            [{"introduced": "0"}, {"fixed": "2"}, {"last_affected": "1"}],
            [{"introduced": "not a version"}],
            [{"introduced": None}],
        )
    ),
    {"severity": [{"type": "HIGH", "score": "9"}]},
    {"references": [{"type": "WEB", "url": "javascript:alert(1)"}]},
    {"unknown": 1},
    {"modified": "yesterday"},
    {"modified": "0001-01-01T00:00:00+23:59"},
]


def test_documents_are_checked(app: InProcess, admin: str) -> None:
    for changes in MALFORMED:
        refused = app.post("/v1/advisories", admin, json=document(**changes))
        assert refused.status_code == 400, changes
        assert app.get("/v1/vulns/x_LLMASOS-2026-0001").status_code == 404


def test_replaced_and_withdrawn(app: InProcess, admin: str) -> None:
    app.post("/v1/advisories", admin, json=document())
    assert app.post("/v1/advisories", admin, json=document()).status_code == 409
    changed = document()
    changed["affected"][0]["package"]["name"] = "llmasos-other"
    path = "/v1/advisories/x_LLMASOS-2026-0001"
    assert app.call("PUT", path, admin, json=changed).status_code == 200
    assert ids(query(app, "1.1")) == []
    assert ids(query(app, "1.1", name="llmasos-other")) == ["x_LLMASOS-2026-0001"]
    assert app.call("PUT", "/v1/advisories/x_LLMASOS-2026-0002", admin, json=changed).status_code == 400
    gone = app.call("PUT", path, admin, json={**changed, "withdrawn": "2026-05-01T00:00:00+02:00"})
    assert gone.json()["withdrawn"] == "2026-04-30T22:00:00Z"
    assert ids(query(app, "1.1", name="llmasos-other")) == []
    assert app.get("/v1/vulns/x_LLMASOS-2026-0001").status_code == 200


def test_only_administrators_publish(app: InProcess) -> None:
    ann = app.user("ann")
    path = "/v1/advisories"
    assert app.post(path, ann, json=document()).status_code == 403
    assert app.post(path, json=document()).status_code == 401
    assert app.call("PUT", f"{path}/x_LLMASOS-2026-0001", ann, json=document()).status_code == 403


def test_commands_of_the_operator(app: InProcess, tmp_path: Path) -> None:
    if not app.db.sqlite:
        pytest.skip("the command finds a PostgreSQL database by settings, which this test has not")
    file = tmp_path / "advisory.json"
    file.write_text(json.dumps(document()))
    data = ["--data", str(app.registry.settings.data)]
    run = CliRunner()
    added = run.invoke(command, ["add", str(file), *data], catch_exceptions=False)
    assert added.output == "published x_LLMASOS-2026-0001\n"
    listed = run.invoke(command, ["list", "--json", *data], catch_exceptions=False)
    assert [one["id"] for one in json.loads(listed.output)] == ["x_LLMASOS-2026-0001"]
    assert ids(query(app, "1.1")) == ["x_LLMASOS-2026-0001"]
    assert run.invoke(command, ["withdraw", str(file), *data]).output == "withdrew x_LLMASOS-2026-0001\n"
    assert ids(query(app, "1.1")) == []
    assert isinstance(run.invoke(command, ["withdraw", "NO-1", *data]).exception, NotFound)
    for text in ("{", json.dumps(document(affected=[]))):
        file.write_text(text)
        wrong = run.invoke(command, ["add", str(file), *data]).exception
        assert isinstance(wrong, InputError)
        assert str(file) in wrong.message


def test_uv_audit_asks_this_registry(registry: Server, tmp_path: Path) -> None:
    token = registry.user("auditor")
    admin = {"Authorization": f"Bearer {registry.admin_token}"}
    for version in ("1.0.0", "2.0.0"):
        wheel = make_wheel(tmp_path, "llmasos-audited", version)
        form = {
            ":action": "file_upload",
            "protocol_version": "1",
            "name": "llmasos-audited",
            "version": version,
            "filetype": "bdist_wheel",
        }
        files = {"content": (wheel.name, wheel.read_bytes(), "application/octet-stream")}
        sent = httpx2.post(
            f"{registry.url}/legacy/", data=form, files=files, headers={"Authorization": f"Bearer {token}"}
        )
        assert sent.status_code == 200, sent.text
    advisory = document("x_LLMASOS-2026-0009")
    advisory["affected"][0]["package"]["name"] = "llmasos-audited"
    assert httpx2.post(f"{registry.url}/v1/advisories", json=advisory, headers=admin).status_code == 201
    project = tmp_path / "project"
    project.mkdir()

    def audit(version: str) -> tuple[int, Any]:
        text = f'[project]\nname = "p"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["llmasos-audited=={version}"]\n'
        (project / "pyproject.toml").write_text(text)
        (project / "uv.lock").unlink(missing_ok=True)
        from uv import find_uv_bin

        done = subprocess.run(
            [
                find_uv_bin(),
                "audit",
                "--preview",
                "--output-format=json",
                f"--service-url={registry.url}",
                f"--default-index={registry.url}/simple/",
            ],
            cwd=project,
            capture_output=True,
            text=True,
            env={k: v for k, v in os.environ.items() if not k.startswith("UV_")}
            | {"UV_CACHE_DIR": str(tmp_path / "cache")},
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    status, report = audit("1.0.0")
    assert status == 1
    (found,) = report["vulnerabilities"]
    assert found["id"] == "x_LLMASOS-2026-0009"
    assert found["dependency"] == {"name": "llmasos-audited", "version": "1.0.0"}
    assert found["fix_versions"] == ["1.2.1"]
    status, report = audit("2.0.0")
    assert (status, report["vulnerabilities"]) == (0, [])
