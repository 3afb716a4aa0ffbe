"""Signed documents: JSON objects from strangers, bounded and read strictly."""

from __future__ import annotations

from typing import Any

from llmasos_registry.signatures.errors import SignatureRefused
from llmasos_registry.strict_json import loads


def parse_object(data: bytes | str, limit: int, what: str) -> dict[str, Any]:
    """The JSON object in ``data``. Raises SignatureRefused naming ``what`` for anything else, or above ``limit`` bytes."""
    if len(data) > limit:
        raise SignatureRefused(f"{what} has more than {limit} bytes")
    try:
        value = loads(data)
    except ValueError as error:
        raise SignatureRefused(f"{what} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise SignatureRefused(f"{what} is not a JSON object")
    return value
