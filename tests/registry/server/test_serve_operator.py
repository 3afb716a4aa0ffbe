"""The operator's commands on a data folder, beside a running server."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from llmasos.cli import registry as registry_cli
from llmasos.cli.main import import_command, run


@pytest.fixture
def llmasos(registry: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """`llmasos("user", "list") -> JSON of stdout, or stderr when it failed`, on the data of the running server."""

    def command(*arguments: str, data: Path | None = None, expect: int = 0) -> Any:
        capsys.readouterr()
        code = run(["registry", *arguments, "--json", "--data", str(data or registry.data)])
        said = capsys.readouterr()
        assert code == expect, said.err
        return json.loads(said.out) if said.out else said.err

    return command


def call(registry: Any, path: str, token: str) -> int:
    request = urllib.request.Request(registry.url + path, headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("name", sorted(registry_cli.COMMANDS))
def test_the_table_says_what_the_commands_say(name: str) -> None:
    path, summary = registry_cli.COMMANDS[name]
    command = import_command(path)
    assert command.name in (name, "command")
    assert command.get_short_help_str(limit=200) == summary


def test_users_and_tokens_while_it_serves(registry: Any, llmasos: Any) -> None:
    assert llmasos("user", "add", "uma", "--quota", "5G")["quota"] == 5 * 10**9
    assert "taken" in llmasos("user", "add", "UMA", expect=2)
    made = llmasos("token", "new", "uma", "--scope", "read", "--project", "acme/*", "--expires", "12h")
    assert (made["scopes"], made["projects"]) == (["read"], ["acme/*"])
    whole = llmasos("token", "new", "uma")["token"]
    assert call(registry, "/v1/tokens", whole) == 200
    assert [t["id"] for t in llmasos("token", "list", "uma")] == [made["id"] + 1, made["id"]]
    llmasos("token", "revoke", str(made["id"]))
    assert call(registry, "/v1/orgs/x", made["token"]) == 401
    assert llmasos("user", "disable", "uma")["disabled"] is True
    assert call(registry, "/v1/tokens", whole) == 401
    llmasos("user", "enable", "uma")
    assert call(registry, "/v1/tokens", whole) == 200
    assert "no user `nobody`" in llmasos("token", "new", "nobody", expect=5)
    assert "no administrator" in llmasos("token", "new", "uma", "--scope", "admin", expect=2)
    assert "is no expiry" in llmasos("token", "new", "uma", "--expires", "soon", expect=2)
    assert "only administrator" in llmasos("user", "disable", "admin", expect=2)
    for span in ("99999999999w", "9" * 5000 + "d", "9999-12-31T23:59:59-23:00", ""):
        assert "is no expiry" in llmasos("token", "new", "uma", "--expires", span, expect=2)
    assert "number of bytes" in llmasos("user", "set", "uma", "--quota", "99999999999T", expect=2)
    assert "'ID'" in llmasos("token", "revoke", str(1 << 63), expect=2)
    assert llmasos("user", "set", "uma", "--admin")["admin"] is True
    assert {u["name"] for u in llmasos("user", "list")} == {"admin", "uma"}


def test_organisations_while_it_serves(llmasos: Any) -> None:
    for name in ("ora", "ole"):
        llmasos("user", "add", name)
    llmasos("org", "add", "orgco", "--owner", "ora")
    members = llmasos("org", "members", "orgco", "--add", "ole:reader")
    assert members == [{"user": "ole", "role": "reader"}, {"user": "ora", "role": "owner"}]
    assert "last owner" in llmasos("org", "members", "orgco", "--remove", "ora", expect=2)
    assert "is no role" in llmasos("org", "members", "orgco", "--add", "ole:king", expect=2)
    assert llmasos("org", "set", "orgco", "--quota", "1T")["quota"] == 10**12
    assert [o["members"] for o in llmasos("org", "list") if o["name"] == "orgco"] == [2]


def test_the_store_is_looked_after_while_it_serves(registry: Any, llmasos: Any, tmp_path: Path) -> None:
    assert llmasos("gc", "--dry-run")["blobs"] == 0
    assert llmasos("gc")["dry_run"] is False
    assert llmasos("scrub")["clean"] is True
    assert llmasos("audit", "verify")["faults"] == []
    backup = llmasos("backup", str(tmp_path / "backup"))
    assert backup["damaged"] == []
    assert "is not empty" in llmasos("backup", str(tmp_path / "backup"), expect=2)
    llmasos("restore", str(tmp_path / "backup"), data=tmp_path / "again")
    assert llmasos("user", "list", data=tmp_path / "again") == llmasos("user", "list")
    assert call(registry, "/v1/tokens", registry.user("zoe")) == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gc_grace", "-1"),
        ("rate_api", "-1"),
        ("multipart_chunk", "0"),
        ("port", "70000"),
        ("public_url", "https://example.org/"),
        ("public_url", "example.org"),
        ("max_wheel", "large"),
        ("database", "mysql://registry@db.example.org/registry"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(
    llmasos: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    variable = f"LLMASOS_REGISTRY_{name.upper()}"
    monkeypatch.setenv(variable, value)
    said = llmasos("user", "list", expect=2)
    assert f"registry setting `{name}`" in said
    assert variable in said


def test_an_unknown_setting_is_named_with_those_that_there_are(llmasos: Any, tmp_path: Path) -> None:
    (tmp_path / "registry.toml").write_text('databse = "x"\n', encoding="utf-8")
    said = llmasos("user", "list", data=tmp_path, expect=2)
    assert "registry setting `databse`: there is no such setting" in said
    assert "database" in said.partition("hint:")[2]


def test_a_database_that_does_not_answer_is_named_without_its_password(llmasos: Any, tmp_path: Path) -> None:
    (tmp_path / "registry.toml").write_text(
        'database = "postgresql+psycopg://registry:hidden@127.0.0.1:9/none"\n', encoding="utf-8"
    )
    said = llmasos("user", "list", data=tmp_path, expect=4)
    assert "cannot be used" in said
    assert "127.0.0.1:9" in said
    assert "hidden" not in said


def test_a_damaged_database_is_an_error_with_a_way_out(llmasos: Any, tmp_path: Path) -> None:
    (tmp_path / "registry.sqlite").write_bytes(b"no database at all" * 100)
    assert "restore a backup" in llmasos("user", "list", data=tmp_path, expect=4)


def test_a_folder_without_a_registry_is_an_error(llmasos: Any, tmp_path: Path) -> None:
    assert "there is no registry in" in llmasos("user", "list", data=tmp_path, expect=5)
    assert not list(tmp_path.iterdir())
