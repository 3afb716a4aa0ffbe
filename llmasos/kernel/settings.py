"""Settings that a plugin's manifest declares: environment > config.toml > the manifest's default."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from llmasos.config import CONFIG_FILE, Config, parse_bool
from llmasos.errors import ConfigError
from llmasos.kernel.record import PluginRecord
from llmasos.near_miss import capped, did_you_mean


def variable(plugin_id: str, name: str) -> str:
    """Environment variable of a plugin's setting: ``acme-llama`` and ``cache_mb`` give LLMASOS_ACME_LLAMA_CACHE_MB."""
    return f"LLMASOS_{plugin_id}_{name}".replace("-", "_").upper()


def plugin_settings(
    record: PluginRecord, config: Config, environ: Mapping[str, str] | None = None
) -> dict[str, str | int | float | bool]:
    """The value of each declared setting. Raises ConfigError for an unknown key or a value of the wrong type."""
    variables = os.environ if environ is None else environ
    declared: Mapping[str, Mapping[str, Any]] = record.manifest.get("settings", {})
    given = config.plugins.get(record.id, {})
    place = f"[plugins.{record.id}] in {config.config_dir / CONFIG_FILE}"
    for key in given:
        if key not in declared:
            raise ConfigError(
                f"unknown key `{key}` in {place}{did_you_mean(key, declared)}",
                hint=f"settings of {record.id}: {capped(declared) or 'none'}",
            )
    values: dict[str, str | int | float | bool] = {}
    for key, setting in declared.items():
        if text := variables.get(variable(record.id, key)):
            values[key] = _convert(text, setting["type"], variable(record.id, key))
        elif key in given:
            if type(given[key]).__name__ != setting["type"]:
                raise ConfigError(f"`{key}` in {place} must be of type {setting['type']}, not {given[key]!r}")
            values[key] = given[key]
        else:
            values[key] = setting["default"]
    return values


def _convert(text: str, kind: str, source: str) -> str | int | float | bool:
    if kind == "bool":
        return parse_bool(text, source)
    try:
        return int(text) if kind == "int" else float(text) if kind == "float" else text
    except ValueError as error:
        raise ConfigError(f"{source} is {text!r}, which is not of type {kind}") from error
