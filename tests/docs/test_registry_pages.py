"""The pages about hosting a registry: the settings are those of the code, the operator's commands run as they stand."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from page import PAGES, blocks

pytest.importorskip("sqlalchemy", reason="needs the extra `registry`")

from llmasos.cli.main import run
from llmasos.cli.registry import COMMANDS
from llmasos_registry.server.serve import first_admin, open_registry
from llmasos_registry.server.settings import Settings, settings_table


def test_the_settings_are_those_of_the_code() -> None:
    page = (PAGES / "reference" / "registry-server.md").read_text(encoding="utf-8")
    assert settings_table() in page


def test_the_commands_of_the_page_run_as_they_stand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = open_registry(Settings(data=tmp_path / "srv" / "registry"))
    assert first_admin(registry)
    registry.db.close()
    ran = []
    for block in blocks("how-to/host-a-registry.md"):
        if block.language != "console" or " serve " in block.text:
            continue
        for line in (
            block.text.replace("/srv/", f"{tmp_path}/srv/").replace("/backup/", f"{tmp_path}/").splitlines()
        ):
            words = shlex.split(line)
            assert words[:2] == ["llmasos", "registry"]
            assert run(words[1:]) == 0, capsys.readouterr().err
            ran.append(words[2])
    assert {"user", "token", "org", "gc", "scrub", "audit", "backup", "restore"} <= set(ran)
    assert (tmp_path / "srv" / "restored" / "registry.sqlite").is_file()


def test_the_settings_files_of_the_page_are_read() -> None:
    import tomllib

    tables = [tomllib.loads(b.text) for b in blocks("how-to/host-a-registry.md") if b.language == "toml"]
    assert len(tables) == 2
    for table in tables:
        Settings.model_validate({"data": "x", **table})


def test_the_reference_names_every_command_of_the_operator() -> None:
    page = (PAGES / "reference" / "registry-server.md").read_text(encoding="utf-8")
    ours = ("registry_serve:", "registry_accounts:", "registry_store:")
    named = [name for name, (path, _) in COMMANDS.items() if path.partition("cli.")[2].startswith(ours)]
    assert len(named) >= 9
    for name in named:
        assert f"`{name}" in page or f"registry {name} " in page, name
