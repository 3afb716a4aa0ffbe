"""JSON from strangers: bounded, UTF-8, no key twice, no numbers that are none.

Two parsers that disagree about a document are how a signed text comes to mean two things, so what parsers disagree about
is refused.
"""

from __future__ import annotations

import json
from typing import Any

from llmasos_registry.signatures.errors import SignatureRefused


def parse_object(data: bytes | str, limit: int, what: str) -> dict[str, Any]:
    """The JSON object in ``data``. Raises SignatureRefused naming ``what`` for anything else, or above ``limit`` bytes."""
    if len(data) > limit:
        raise SignatureRefused(f"{what} has more than {limit} bytes")
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise SignatureRefused(f"{what} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise SignatureRefused(f"{what} is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")
