"""Settings: where files go, what may be fetched, how strict to be. Precedence: flag > environment > file > default.

The file is ``config.toml`` in the configuration directory::

    offline = true

    [plugins.acme-llama]      # settings that acme-llama's manifest declares under [settings]
    cache_mb = 256

Cheap to import: the command line reads it before anything else, so the TOML reader is loaded only when the file exists.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llmasos.errors import ConfigError
from llmasos.near_miss import did_you_mean

CONFIG_FILE = "config.toml"

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})


class Setting(NamedTuple):
    """One row of the table below: ``kind`` is ``path``, ``bool`` or ``text``; ``variables`` are tried in order."""

    kind: str
    variables: tuple[str, ...]
    help: str


#: Every setting. ``config_dir`` cannot be set in the file, because the file lies in it.
SETTINGS: dict[str, Setting] = {
    "cache_dir": Setting("path", ("LLMASOS_CACHE",), "index, downloads, logs of failures"),
    "config_dir": Setting("path", ("LLMASOS_CONFIG",), "config.toml and the list of disabled plugins"),
    "data_dir": Setting("path", ("LLMASOS_DATA",), "what the user put there to stay: data kept under a name"),
    "offline": Setting("bool", ("LLMASOS_OFFLINE", "HF_HUB_OFFLINE"), "fetch nothing"),
    "strict": Setting("bool", ("LLMASOS_STRICT",), "plugin failures are errors, and tracebacks are shown"),
    "trace_plugins": Setting("bool", ("LLMASOS_TRACE_PLUGINS",), "print every plugin load and hook call"),
    "no_plugins": Setting("bool", ("LLMASOS_NO_PLUGINS",), "ignore every installed plugin"),
    "registry": Setting("text", ("LLMASOS_REGISTRY",), "address of the registry, for example https://host"),
}


class Config(NamedTuple):
    """The settings in force. ``origins`` says where each came from: ``flag``, a variable's name, the file or ``default``."""

    cache_dir: Path
    config_dir: Path
    data_dir: Path
    offline: bool
    strict: bool
    trace_plugins: bool
    no_plugins: bool
    #: Where plugins and models are published and found; None when nobody said.
    registry: str | None
    #: ``[plugins.<id>]`` tables of the file, unchecked: the manifest of each plugin says what is allowed.
    plugins: Mapping[str, Mapping[str, Any]]
    origins: Mapping[str, str]


def parse_bool(text: str, source: str) -> bool:
    """A truth value as people write it in environment variables. Raises ConfigError naming ``source``."""
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ConfigError(f"{source} is {text!r}, which is neither true nor false", hint="use 1 or 0")


def _user_directory(environ: Mapping[str, str], xdg: str, fallback: str) -> Path:
    base = environ.get(xdg, "")
    # The XDG specification says relative values are invalid and to be ignored.
    if base and os.path.isabs(base):
        return Path(base) / "llmasos"
    if sys.platform == "win32" and environ.get("LOCALAPPDATA"):
        return Path(environ["LOCALAPPDATA"]) / "llmasos" / fallback.lstrip(".")
    return Path(os.path.expanduser("~")) / fallback / "llmasos"


def read_file(path: Path) -> dict[str, Any]:
    """The parsed configuration file, ``{}`` when there is none. Raises ConfigError naming the line or the unknown key."""
    try:
        text = path.read_bytes().decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read {path}: {error}", hint="make it a readable UTF-8 file, or remove it"
        ) from error
    import tomllib

    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{path} is not valid TOML: {error}", hint="correct that line, or remove the file"
        ) from error
    allowed = sorted((set(SETTINGS) - {"config_dir"}) | {"plugins"})
    for key, value in table.items():
        if key not in allowed:
            raise ConfigError(
                f"unknown key `{key}` in {path}{did_you_mean(key, allowed)}",
                hint=f"known keys: {', '.join(allowed)}",
            )
        if key == "plugins":
            if not isinstance(value, dict) or not all(isinstance(item, dict) for item in value.values()):
                raise ConfigError(
                    f"`plugins` in {path} must hold one table a plugin", hint="write [plugins.plugin-id]"
                )
        elif SETTINGS[key].kind == "bool" and not isinstance(value, bool):
            raise ConfigError(
                f"`{key}` in {path} must be true or false, not {value!r}", hint=f"write {key} = true"
            )
        elif SETTINGS[key].kind in ("path", "text") and not isinstance(value, str):
            raise ConfigError(
                f"`{key}` in {path} must be a string, not {value!r}",
                hint=f'write {key} = "{"/some/folder" if SETTINGS[key].kind == "path" else "https://host"}"',
            )
    return table


def load_config(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    file: bool = True,
) -> Config:
    """Settings from flags (values of None are not given), environment, file and defaults.

    ``file`` False leaves the file out. Raises ConfigError for a value or key that makes no sense.
    """
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    if unknown := sorted(set(given) - set(SETTINGS)):
        raise ConfigError(f"unknown setting `{unknown[0]}`{did_you_mean(unknown[0], sorted(SETTINGS))}")
    variables = os.environ if environ is None else environ
    defaults: dict[str, Any] = {
        "cache_dir": _user_directory(variables, "XDG_CACHE_HOME", ".cache"),
        "config_dir": _user_directory(variables, "XDG_CONFIG_HOME", ".config"),
        "data_dir": _user_directory(variables, "XDG_DATA_HOME", ".local/share"),
    }
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    table: dict[str, Any] = {}
    # config_dir first: it says where the file is.
    for key in ("config_dir", *(name for name in SETTINGS if name != "config_dir")):
        setting = SETTINGS[key]
        variable = next((name for name in setting.variables if variables.get(name)), None)
        if key in given:
            value, origin = given[key], "flag"
        elif variable is not None:
            text = variables[variable]
            value, origin = (parse_bool(text, variable) if setting.kind == "bool" else text), variable
        elif key in table:
            value, origin = table[key], str(values["config_dir"] / CONFIG_FILE)
        else:
            value, origin = defaults.get(key), "default"
        values[key] = _typed(setting.kind, value)
        origins[key] = origin
        if key == "config_dir" and file:
            table = read_file(values["config_dir"] / CONFIG_FILE)
    return Config(**values, plugins=table.get("plugins", {}), origins=origins)


def _typed(kind: str, value: Any) -> Path | str | bool | None:
    if kind == "path":
        return Path(os.path.abspath(os.path.expanduser(value)))
    if kind == "bool":
        return bool(value)
    return str(value) if value else None
