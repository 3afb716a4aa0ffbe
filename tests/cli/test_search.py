"""`llmasos search` against a real registry."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

pytest.importorskip("granian", reason="needs the extra `registry`")

from registries import Server, start_server

from llmasos.cli.search import command
from llmasos.errors import UsageError
from llmasos_registry.server.api.documents import index_document
from llmasos_registry.server.db.engine import utcnow

__all__ = ["start_server"]


@pytest.fixture(scope="module")
def server(start_server: object) -> Iterator[Server]:
    made: Server = start_server()  # type: ignore[operator]
    made.user("ann")
    with made.db.write() as conn:
        for number in range(105):
            index_document(
                conn,
                kind="plugin" if number % 2 else "model",
                key=f"river-{number:03}",
                name=f"River-{number:03}",
                owner_id=1,
                owner="ann",
                private=False,
                summary="Flows",
                version="1.0.0",
                downloads=number,
                updated_at=utcnow(),
            )
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def run(*args: str) -> tuple[str, str]:
    done = CliRunner().invoke(command, list(args), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def test_table_json_and_pages(server: Server) -> None:
    out, err = run("river", "--registry", server.url, "--limit", "2")
    lines = out.splitlines()
    assert lines[0].split() == ["kind", "name", "version", "summary"]
    assert "River-104" in lines[-2] + lines[-1]
    assert "there is more: --limit 20" in err
    found = json.loads(run("--json", "--registry", server.url, "--limit", "1000", "riv")[0])
    assert len({row["name"] for row in found}) == 105
    models = json.loads(run("--json", "--registry", server.url, "--kind", "model", "--limit", "9", "riv")[0])
    assert {row["kind"] for row in models} == {"model"}
    assert len(models) == 9


def test_nothing_found(server: Server) -> None:
    _, err = run("no-such-thing", "--registry", server.url)
    assert "nothing found" in err
    assert json.loads(run("--json", "no-such-thing", "--registry", server.url)[0]) == []


def test_without_a_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMASOS_REGISTRY", raising=False)
    done = CliRunner().invoke(command, ["river"])
    assert isinstance(done.exception, UsageError)
    assert "LLMASOS_REGISTRY" in (done.exception.hint or "")
