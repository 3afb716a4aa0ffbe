"""Tokens of registries: ``LLMASOS_TOKEN``, else ``credentials.toml`` in the configuration folder (mode 0600).

The file has one table a registry, named by its address::

    ["https://registry.example"]
    token = "llma_..."
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmasos.config import Config
from llmasos.errors import ConfigError, UsageError
from llmasos.kernel.atomic import write_atomic
from llmasos_registry.client.connection import Connection, registry_url

CREDENTIALS_FILE = "credentials.toml"
VARIABLE = "LLMASOS_TOKEN"


def connect(config: Config, url: str | None = None, *, need_token: bool = False) -> Connection:
    """A connection to ``url``, else to the registry of the settings, with this user's token for it.

    Raises UsageError when no registry is known, there is no token although one is needed, or nothing may be fetched.
    """
    address = url or config.registry
    if not address:
        raise UsageError(
            "no registry is set",
            hint="set LLMASOS_REGISTRY, `registry` in config.toml, or pass --registry URL",
        )
    address = registry_url(address)
    if config.offline:
        raise UsageError(
            f"the registry {address} is not asked, because offline is set ({config.origins['offline']})",
            hint="unset it for this command",
        )
    token = read_token(config.config_dir, address)
    if need_token and token is None:
        raise UsageError(
            f"there is no token for {address}", hint=f"`llmasos registry login`, or set {VARIABLE}"
        )
    return Connection(address, token)


def read_token(config_dir: Path, registry: str, environ: Mapping[str, str] | None = None) -> str | None:
    """The token for a registry, or None. Raises ConfigError when the file is damaged."""
    named = (os.environ if environ is None else environ).get(VARIABLE, "").strip()
    if named:
        return named
    row = _read(config_dir).get(registry_url(registry))
    token = row.get("token") if isinstance(row, dict) else None
    return token if isinstance(token, str) and token else None


def store_token(config_dir: Path, registry: str, token: str | None) -> Path:
    """Remember a token, or forget it (None); the file. Raises ConfigError when it cannot be written."""
    import tomli_w

    table = _read(config_dir)
    if token is None:
        table.pop(registry_url(registry), None)
    else:
        table[registry_url(registry)] = {"token": token}
    path = config_dir / CREDENTIALS_FILE
    try:
        write_atomic(path, tomli_w.dumps(table).encode(), mode=0o600)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _read(config_dir: Path) -> dict[str, Any]:
    path = config_dir / CREDENTIALS_FILE
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"cannot read {path}: {error}", hint="correct it, or remove it and sign in again"
        ) from error
