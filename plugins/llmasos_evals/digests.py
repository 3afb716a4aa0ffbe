"""Canonical JSON and its SHA-256: what tasks, data and documents are compared by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces; values that JSON lacks appear as their ``str``."""
    return json.dumps(
        value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_fallback
    ).encode("utf-8", "surrogatepass")


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def digest_rows(parts: Mapping[str, Iterable[Any]]) -> str:
    """SHA-256 over named lists of rows, one canonical line a row, so that the size of the data costs no memory."""
    hasher = hashlib.sha256()
    for name in sorted(parts):
        hasher.update(f"#{name}\n".encode())
        for row in parts[name]:
            hasher.update(canonical_json(row))
            hasher.update(b"\n")
    return hasher.hexdigest()


def plain(value: Any) -> Any:
    """``value`` with tuples as lists and numpy numbers as Python's, so that it equals itself read back from JSON."""
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return value


def _fallback(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
