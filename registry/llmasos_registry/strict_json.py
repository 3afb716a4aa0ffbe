"""JSON from strangers, read in the one way that all parsers agree on: UTF-8, no key twice, no numbers that are none.

Two parsers that disagree about a document are how a checked text comes to mean something else to who uses it.
"""

from __future__ import annotations

import json
from typing import Any


def loads(data: bytes | str, *, constants: bool = False) -> Any:
    """The value of a JSON text. ``constants`` takes NaN and Infinity, which configurations of models do hold.

    Raises ValueError, for nesting too deep to read too. The caller bounds the size.
    """
    text = data.decode("utf-8") if isinstance(data, bytes) else data
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=None if constants else _no_number)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")
