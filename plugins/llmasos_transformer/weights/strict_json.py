"""JSON from strangers: one object, each key once, text that can be shown."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:80]!r} appears twice")
            seen.add(key)
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parse_object(raw: bytes, *, constants: bool = False) -> dict[str, Any]:
    """The object in ``raw``. ``constants`` lets NaN and Infinity pass, which some published configurations contain.

    Raises ValueError, with the reason, for anything that is not UTF-8, not JSON, not an object, nested too deeply for
    Python, or that has a key twice at any level (readers differ in which of the two they believe).
    """
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=None if constants else _refuse_constant,
        )
        if b"\\u" in raw:
            # The escape of a lone surrogate is JSON, but not text: it could not be printed or written to a record.
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("not valid JSON: an escape stands for no character") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"must be a JSON object, is {type(value).__name__}")
    return value
