"""A guard in front of the YAML library, whose C code ends the process on a file that nests deeply enough.

And in front of everything behind it: a few lines of aliases to aliases stand for more values than there is memory.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from llmasos.api import InputError

#: Deeper than any task file; the C code gives up at some tens of thousands.
MAX_DEPTH = 500
#: Every level takes one of these characters, so that a file with few of them cannot be deep.
_OPENING = b"[{-?"
#: Values of a file whose aliases are written out. The largest task file in use has some thousands.
MAX_VALUES = 1_000_000
_ANCHOR = re.compile(rb"(?:^|[\s\[{,])&[\w-]")
_ALIAS = re.compile(rb"(?:^|[\s\[{,])\*[\w-]")

_Parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_nesting(raw: bytes, path: Path | str) -> None:
    """Raises InputError for YAML of more than ``MAX_DEPTH`` levels, of more than ``MAX_VALUES`` values once its aliases are
    written out, or with an alias to what it stands in. Other faults are left to the loader."""
    shallow = sum(raw.count(character) for character in _OPENING) <= MAX_DEPTH and not _deep_indent(raw)
    if shallow and not (_ALIAS.search(raw) and _ANCHOR.search(raw)):
        return
    sizes: dict[str, int | None] = {}  # of what an anchor names; None while it is being read
    open_ones: list[tuple[str | None, int]] = [(None, 0)]  # anchor, and values so far
    try:
        for event in yaml.parse(raw, Loader=_Parser):
            if isinstance(event, yaml.CollectionStartEvent):
                open_ones.append((event.anchor, 1))
                if event.anchor is not None:
                    sizes[event.anchor] = None
                if len(open_ones) > MAX_DEPTH + 1:
                    raise InputError(
                        f"{path}: nested more than {MAX_DEPTH} levels deep, which no task file is"
                    )
                continue
            if isinstance(event, yaml.CollectionEndEvent):
                anchor, size = open_ones.pop()
            elif isinstance(event, yaml.ScalarEvent):
                anchor, size = event.anchor, 1
            elif isinstance(event, yaml.AliasEvent):
                known = sizes.get(event.anchor, 1)
                if known is None:
                    raise InputError(f"{path}: `*{event.anchor}` stands within what it stands for")
                anchor, size = None, known
            else:
                continue
            if anchor is not None:
                sizes[anchor] = size
            around, values = open_ones.pop()
            open_ones.append((around, values + size))
            if values + size > MAX_VALUES:
                raise InputError(
                    f"{path}: more than {MAX_VALUES} values with its aliases written out, which no task file has"
                )
    except (yaml.YAMLError, UnicodeDecodeError, ValueError):
        return


def _deep_indent(raw: bytes) -> bool:
    """Whether a line begins with so many spaces that mappings written below each other could be too deep."""
    return b"\n" + b" " * MAX_DEPTH in raw
