"""What is remembered about plugins between runs: which are disabled, and which failed in this environment.

Disabled plugins are the user's wish and live in the configuration folder. Quarantine is an observation and lives in the
cache folder, one file a plugin: id, fingerprint of the environment it failed in, one line, traceback. A failure is
forgotten when the plugin, its manifest, its code or the environment changes, or on ``plugin enable --retry``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from llmasos import __version__
from llmasos.errors import ConfigError
from llmasos.kernel.index import search_path, stamp
from llmasos.kernel.record import PluginRecord

STATE_FILE = "plugins.json"
#: A plugin with more source files than this is fingerprinted by the first ones only.
MAX_FILES = 2000


def read_disabled(config_dir: Path) -> frozenset[str]:
    """Ids the user disabled. Raises ConfigError when the file is damaged: guessing could enable what was disabled."""
    path = config_dir / STATE_FILE
    try:
        with open(path, encoding="utf-8") as file:
            ids = json.load(file)["disabled"]
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"cannot read the list of disabled plugins in {path}: {error}", hint=f"remove {path}"
        ) from error
    if not isinstance(ids, list) or not all(isinstance(item, str) for item in ids):
        raise ConfigError(f"`disabled` in {path} is not a list of plugin ids", hint=f"remove {path}")
    return frozenset(ids)


def write_disabled(config_dir: Path, disabled: frozenset[str]) -> None:
    """Store the ids. Raises ConfigError when the folder cannot be written."""
    from llmasos.kernel.atomic import write_atomic

    path = config_dir / STATE_FILE
    try:
        write_atomic(path, (json.dumps({"disabled": sorted(disabled)}, indent=2) + "\n").encode())
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror or error}",
            hint="set LLMASOS_CONFIG to a folder you may write to",
        ) from error


class Failure(NamedTuple):
    """Why a plugin is in quarantine."""

    id: str
    version: str
    fingerprint: str
    summary: str
    traceback: str


class Quarantine:
    """The failures stored in one cache folder."""

    def __init__(self, cache_dir: Path) -> None:
        self._folder = cache_dir / "quarantine"

    def _file(self, plugin_id: str) -> Path:
        # The id may be a word of the user's; a plugin's own ids need no replacement.
        name = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in plugin_id)
        return self._folder / f"{name}.json"

    def ids(self) -> list[str]:
        """Plugins with a stored failure, current or not."""
        try:
            names = os.listdir(self._folder)
        except OSError:
            return []
        return sorted(
            name.removesuffix(".json")
            for name in names
            if name.endswith(".json") and not name.startswith(".")
        )

    def read(self, plugin_id: str) -> Failure | None:
        """The stored failure, current or not; None when there is none or it cannot be read."""
        try:
            with open(self._file(plugin_id), encoding="utf-8") as file:
                data = json.load(file)
            return Failure(*(str(data[field]) for field in Failure._fields))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def current(self, record: PluginRecord) -> Failure | None:
        """The stored failure if it happened to this very plugin in this very environment."""
        failure = self.read(record.id)
        return failure if failure is not None and failure.fingerprint == fingerprint(record) else None

    def add(self, record: PluginRecord, summary: str, traceback: str) -> bool:
        """Remember a failure. False when the cache folder cannot be written."""
        from llmasos.kernel.atomic import write_atomic

        failure = Failure(record.id, record.version, fingerprint(record), summary, traceback)
        try:
            write_atomic(
                self._file(record.id),
                json.dumps(failure._asdict(), indent=1).encode("utf-8", "backslashreplace"),
            )
        except OSError:
            return False
        return True

    def forget(self, plugin_id: str) -> bool:
        """Remove a stored failure. False when there was none."""
        try:
            os.unlink(self._file(plugin_id))
        except OSError:
            return False
        return True


def fingerprint(record: PluginRecord) -> str:
    """sha256 over what could make a failed plugin work next time: its files and the installed environment."""
    import hashlib

    facts: list[Any] = [record.id, record.version, record.manifest, sys.version, sys.executable, __version__]
    # The working directory and the script's folder come and go with the way Python was started; the rest is "installed".
    started_from = {os.path.abspath("."), os.path.dirname(os.path.abspath(sys.argv[0] if sys.argv else ""))}
    facts.extend([folder, stamp(folder)] for folder in search_path() if folder not in started_from)
    facts.extend(_sources(record.package))
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def _sources(folder: str) -> list[tuple[str, list[int] | None]]:
    found: list[tuple[str, list[int] | None]] = []
    for base, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__" and not name.startswith("."))
        for name in sorted(files):
            if name.endswith((".py", ".toml", ".so", ".pyd")):
                path = os.path.join(base, name)
                found.append((os.path.relpath(path, folder), stamp(path)))
                if len(found) >= MAX_FILES:
                    return found
    return found
