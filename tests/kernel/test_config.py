"""Settings: flag > environment > file > default, and no silent surprises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmasos.config import SETTINGS, load_config, parse_bool
from llmasos.errors import ConfigError


def test_defaults_follow_the_xdg_specification(tmp_path: Path) -> None:
    config = load_config(
        {}, {"HOME": "/home/a", "XDG_CACHE_HOME": str(tmp_path / "c"), "XDG_CONFIG_HOME": "relative/ignored"}
    )
    assert config.cache_dir == tmp_path / "c" / "llmasos"
    assert config.config_dir == Path("~/.config/llmasos").expanduser()
    assert (config.offline, config.strict, config.trace_plugins, config.no_plugins) == (
        False,
        False,
        False,
        False,
    )
    assert set(config.origins) == set(SETTINGS)
    assert set(config.origins.values()) == {"default"}


@pytest.mark.parametrize(
    ("flag", "variables", "file", "value", "origin"),
    [
        (None, {}, "", False, "default"),
        (None, {}, "offline = true", True, "file"),
        (None, {"LLMASOS_OFFLINE": "0"}, "offline = true", False, "LLMASOS_OFFLINE"),
        (None, {"HF_HUB_OFFLINE": "1"}, "", True, "HF_HUB_OFFLINE"),
        (None, {"LLMASOS_OFFLINE": "0", "HF_HUB_OFFLINE": "1"}, "", False, "LLMASOS_OFFLINE"),
        (None, {"LLMASOS_OFFLINE": ""}, "offline = true", True, "file"),
        (True, {"LLMASOS_OFFLINE": "0"}, "offline = false", True, "flag"),
        (False, {"LLMASOS_OFFLINE": "1"}, "", False, "flag"),
    ],
)
def test_precedence(
    tmp_path: Path, flag: bool | None, variables: dict[str, str], file: str, value: bool, origin: str
) -> None:
    (tmp_path / "config.toml").write_text(file)
    config = load_config({"offline": flag}, {"LLMASOS_CONFIG": str(tmp_path), **variables})
    assert config.offline is value
    assert config.origins["offline"] == (str(tmp_path / "config.toml") if origin == "file" else origin)


def test_folders_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config({"cache_dir": "here"}, {"LLMASOS_CONFIG": "~/there"})
    assert config.cache_dir == tmp_path / "here"
    assert config.config_dir == Path("~/there").expanduser()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ofline = true", "unknown key `ofline` in .*did you mean `offline`"),
        ("config_dir = 'x'", "unknown key `config_dir`"),
        ("offline = 1", "`offline` in .* must be true or false"),
        ("cache_dir = 5", "`cache_dir` in .* must be a string"),
        ("plugins = 5", "one table a plugin"),
        ("[plugins]\nacme = 5", "one table a plugin"),
        ("offline = ", "not valid TOML"),
    ],
)
def test_what_is_wrong_with_the_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config({}, {"LLMASOS_CONFIG": str(tmp_path)})
    assert caught.value.hint
    assert caught.value.exit_code == 2
    # The doctor still has to be able to work.
    assert load_config({}, {"LLMASOS_CONFIG": str(tmp_path)}, file=False).offline is False


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot read"):
        load_config({}, {"LLMASOS_CONFIG": str(tmp_path)})
    (tmp_path / "config.toml").unlink()
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot read"):
        load_config({}, {"LLMASOS_CONFIG": str(tmp_path)})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", True),
        ("TRUE", True),
        (" yes ", True),
        ("on", True),
        ("0", False),
        ("No", False),
        ("off", False),
        ("", False),
    ],
)
def test_truth(text: str, value: bool) -> None:
    assert parse_bool(text, "X") is value


def test_neither_true_nor_false() -> None:
    with pytest.raises(ConfigError, match="LLMASOS_STRICT is 'perhaps'"):
        load_config({}, {"LLMASOS_STRICT": "perhaps"}, file=False)


def test_unknown_flags_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ConfigError, match="unknown setting `ofline`, did you mean `offline`"):
        load_config({"ofline": True}, {}, file=False)


@pytest.mark.parametrize("table", [{}, {"acme": {"a": 1}}])
def test_plugin_tables_are_kept_as_they_are(tmp_path: Path, table: dict[str, Any]) -> None:
    (tmp_path / "config.toml").write_text("".join(f"[plugins.{name}]\na = 1\n" for name in table))
    assert load_config({}, {"LLMASOS_CONFIG": str(tmp_path)}).plugins == table


def test_it_is_cheap_to_import() -> None:
    code = "import sys, llmasos.config; print(sorted({'tomllib', 'dataclasses', 'json', 'pydantic', 'difflib'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_the_registry_is_an_address_or_nothing(tmp_path: Path) -> None:
    def registry(variables: dict[str, str]) -> str | None:
        return load_config({}, {"LLMASOS_CONFIG": str(tmp_path), **variables}).registry

    assert registry({}) is None
    (tmp_path / "config.toml").write_text('registry = "https://one.example"')
    assert registry({}) == "https://one.example"
    assert registry({"LLMASOS_REGISTRY": "http://two.example"}) == "http://two.example"
    (tmp_path / "config.toml").write_text("registry = 3")
    with pytest.raises(ConfigError, match="must be a string") as caught:
        registry({})
    assert caught.value.hint == 'write registry = "https://host"'
