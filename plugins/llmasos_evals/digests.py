"""What tasks, data and documents are compared by: SHA-256 of canonical JSON."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from llmasos.api import canonical_json


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON; what JSON cannot hold (dates, NaN) counts as its ``str``."""
    return hashlib.sha256(_encoded(value)).hexdigest()


def digest_rows(parts: Mapping[str, Iterable[Any]]) -> str:
    """SHA-256 over named lists of rows, one canonical line a row, so that the size of the data costs no memory."""
    hasher = hashlib.sha256()
    for name in sorted(parts):
        hasher.update(f"#{name}\n".encode())
        for row in parts[name]:
            hasher.update(_encoded(row))
            hasher.update(b"\n")
    return hasher.hexdigest()


def plain(value: Any) -> Any:
    """``value`` with tuples as lists and numpy numbers as Python's, so that it equals itself read back from JSON."""
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return value


def _encoded(value: Any) -> bytes:
    try:
        return canonical_json(value)
    except (TypeError, ValueError):
        return canonical_json(_jsonable(plain(value)))


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    if (
        value is None
        or isinstance(value, bool | int | str)
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    return str(value)
