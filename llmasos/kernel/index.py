"""The index: every installed plugin's manifest as one JSON file, so that listing costs one read and a few stats.

The key holds everything the answer depends on: interpreter, llmasos version, manifest schema, change time of each
``sys.path`` folder (installing or removing anything changes one) and of each manifest and package folder the entry points
lead to (editable installs live outside ``sys.path``). When the key differs the environment is scanned again
(``llmasos.kernel.discovery``) and the file replaced atomically; when the file cannot be written everything works, only
slower. The index is for listing: the loader reads the manifest it needs again.

On the path of ``llmasos --help``, hence plain functions and no imports that cost anything.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from pathlib import Path
from typing import Any

from llmasos import API_VERSION, __version__
from llmasos.kernel.record import PluginRecord

#: Layout of the index file itself.
INDEX_VERSION = 2
#: Kept equal to llmasos.kernel.manifest.MANIFEST_VERSION (a test compares them); importing that would import pydantic.
MANIFEST_SCHEMA = 1
MANIFEST_FILE = "llmasos.toml"


def stamp(path: str) -> list[int] | None:
    """Change time in nanoseconds and size of a file or folder, None when it is not there."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    # The size of a folder is the file system's affair and changes on its own on some.
    return [status.st_mtime_ns, status.st_size if not _is_folder(status.st_mode) else 0]


def _is_folder(mode: int) -> bool:
    return (mode & 0o170000) == 0o040000


def package_folder(package: str) -> str | None:
    """The folder of a top-level package that holds a manifest, found without importing it (editable installs too)."""
    import importlib.util

    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, AttributeError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if os.path.isfile(os.path.join(folder, MANIFEST_FILE)):
            return os.path.abspath(folder)
    return None


def environment_key() -> dict[str, Any]:
    """What the index depends on and can be known before reading it."""
    return {
        "index": INDEX_VERSION,
        "manifest": MANIFEST_SCHEMA,
        "llmasos": __version__,
        "api": list(API_VERSION),
        "python": sys.version,
        "executable": sys.executable,
        "path": [[folder, stamp(folder)] for folder in search_path()],
    }


def search_path() -> list[str]:
    """``sys.path`` as absolute folders without repetition, in order."""
    return list(dict.fromkeys(os.path.abspath(folder) for folder in sys.path if isinstance(folder, str)))


def index_file(cache_dir: Path) -> Path:
    """The index of this interpreter and search path; other environments that share the cache have their own."""
    name = "\0".join([sys.executable, sys.version, *search_path()])
    return cache_dir / "index" / f"plugins-{zlib.crc32(name.encode('utf-8', 'surrogateescape')):08x}.json"


def read_index(path: Path, key: dict[str, Any]) -> list[PluginRecord] | None:
    """The stored records when they are still true, else None. Anything odd about the file is a miss, never an error."""
    try:
        with open(path, "rb") as file:
            checksum, text = file.readline(), file.read()
        if checksum != _checksum(text):
            return None
        stored = json.loads(text)
        if stored["key"] != key:
            return None
        if any(stamp(name) != value for name, value in stored["stamps"].items()):
            return None
        if any(package_folder(name) is not None for name in stored["missing"]):
            return None
        return [PluginRecord(**fields) for fields in stored["plugins"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _checksum(text: bytes) -> bytes:
    """The first line of the file: what follows it is trusted to have the shape it was written with."""
    return b"%08x\n" % zlib.crc32(text)


def write_index(path: Path, key: dict[str, Any], records: list[PluginRecord]) -> bool:
    """Store the records. False when the cache folder cannot be written."""
    from llmasos.kernel.atomic import write_atomic

    stamps: dict[str, list[int] | None] = {}
    for record in records:
        stamps.update(record.stamps)
    missing = sorted({record.missing for record in records if record.missing})
    data = {
        "key": key,
        "stamps": stamps,
        "missing": missing,
        "plugins": [record.to_json() for record in records],
    }
    text = json.dumps(data, separators=(",", ":")).encode()
    try:
        write_atomic(path, _checksum(text) + text)
    except OSError:
        return False
    return True


def load_index(cache_dir: Path) -> list[PluginRecord]:
    """All installed plugins, sorted by id, from the index or, when that is stale, from a fresh scan. Never raises."""
    path = index_file(cache_dir)
    # Taken before the scan: a change during the scan makes the next run scan again.
    key = environment_key()
    records = read_index(path, key)
    if records is None:
        from llmasos.kernel.discovery import discover

        records = discover()
        write_index(path, key, records)
    return records
