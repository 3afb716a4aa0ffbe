"""A guard in front of the YAML library, whose C code ends the process on a file that nests deeply enough."""

from __future__ import annotations

from pathlib import Path

import yaml

from llmasos.api import InputError

#: Deeper than any task file; the C code gives up at some tens of thousands.
MAX_DEPTH = 500
#: Every level takes one of these characters, so that a file with few of them cannot be deep.
_OPENING = b"[{-?"

_Parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_nesting(raw: bytes, path: Path | str) -> None:
    """Raises InputError for YAML that nests more than ``MAX_DEPTH`` levels; other faults are left to the loader."""
    if sum(raw.count(character) for character in _OPENING) <= MAX_DEPTH and not _deep_indent(raw):
        return
    depth = 0
    try:
        for event in yaml.parse(raw, Loader=_Parser):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    raise InputError(
                        f"{path}: nested more than {MAX_DEPTH} levels deep, which no task file is"
                    )
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    except (yaml.YAMLError, UnicodeDecodeError, ValueError):
        return


def _deep_indent(raw: bytes) -> bool:
    """Whether a line begins with so many spaces that mappings written below each other could be too deep."""
    return b"\n" + b" " * MAX_DEPTH in raw
