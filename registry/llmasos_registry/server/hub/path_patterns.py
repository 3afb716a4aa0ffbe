"""Patterns of `.gitignore` and `.gitattributes`, matched in time that no pattern can blow up.

They come from clients, and regular expressions made of them take exponential time for some. Source: gitignore(5),
gitattributes(5).
"""

from __future__ import annotations

import fnmatch
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

#: Longer lists, lines and names are cut off or never match.
MAX_LINES = 2000
MAX_PATTERN = 512


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line: the names of its path, whether it must match from the top, only folders, and whether it takes back."""

    names: tuple[str, ...]
    anchored: bool
    folder: bool
    negated: bool


def parse_pattern(line: str) -> Pattern | None:
    """A pattern out of one line, None for a comment or nothing."""
    text = line.rstrip("\r\n")
    while text.endswith(" ") and not text.endswith("\\ "):
        text = text[:-1]
    if not text or text.startswith("#") or len(text) > MAX_PATTERN:
        return None
    negated = text.startswith("!")
    text = text[1:] if negated else text
    folder = text.endswith("/")
    text = text.rstrip("/")
    if not text:
        return None
    anchored = "/" in text
    names = tuple(name for name in text.split("/") if name)
    return Pattern(names, anchored, folder, negated) if names else None


class TooCostly(Exception):
    """Many patterns against many long paths: the time that a request may take for them is over."""


def _check_time(until: float) -> None:
    if time.monotonic() > until:
        raise TooCostly


def ignored(patterns: Sequence[Pattern], path: str, until: float = math.inf) -> bool:
    """Whether `.gitignore` leaves a file out: the last pattern that matches decides, and a folder takes all below along.

    Raises TooCostly when it is later than ``until`` (``time.monotonic``).
    """
    names = path.split("/")
    for depth in range(1, len(names) + 1):
        verdict = False
        for pattern in patterns:
            _check_time(until)
            if pattern.folder and depth == len(names):
                continue
            if _matches(pattern, names[:depth]):
                verdict = not pattern.negated
        if verdict:
            return True
    return False


def read_ignore(text: str) -> tuple[Pattern, ...]:
    """The patterns of a `.gitignore`."""
    return tuple(p for p in map(parse_pattern, text.splitlines()[:MAX_LINES]) if p is not None)


def read_lfs_attributes(text: str) -> tuple[Pattern, ...]:
    """The patterns of a `.gitattributes` that send files to LFS; negated ones (`-filter`) take them back."""
    found: list[Pattern] = []
    for line in text.splitlines()[:MAX_LINES]:
        name, *attributes = line.split() or [""]
        if name.startswith(("!", "[attr]")):
            continue
        pattern = parse_pattern(name)
        if pattern is None or pattern.folder:
            continue
        for attribute in attributes:
            key, _, value = attribute.lstrip("-!").partition("=")
            if key == "filter":
                lfs = attribute[0] not in "-!" and value == "lfs"
                found.append(Pattern(pattern.names, pattern.anchored, False, not lfs))
    return tuple(found)


def sent_to_lfs(patterns: Sequence[Pattern], path: str, until: float = math.inf) -> bool:
    """Whether `.gitattributes` names the file for LFS: the last pattern that matches decides. Raises TooCostly as ``ignored``."""
    names = path.split("/")
    verdict = False
    for pattern in patterns:
        _check_time(until)
        if _matches(pattern, names):
            verdict = not pattern.negated
    return verdict


def _matches(pattern: Pattern, names: Sequence[str]) -> bool:
    if not pattern.anchored:
        return _name_matches(pattern.names[0], names[-1])
    # Row by row: which beginnings of the path the pattern's names so far can stand for.
    reach = {0}
    for position, part in enumerate(pattern.names):
        if part == "**":
            if position == len(pattern.names) - 1:
                # At the end it stands for everything inside, not for the folder itself.
                return any(start < len(names) for start in reach)
            reach = set(range(min(reach), len(names) + 1))
        else:
            reach = {at + 1 for at in reach if at < len(names) and _name_matches(part, names[at])}
        if not reach:
            return False
    return len(names) in reach


def _name_matches(pattern: str, name: str) -> bool:
    """Wildcards in one name: greedy, and back only to the last star, so the time is at most length times length."""
    parts = _parts(pattern)
    at = star = mark = 0
    position = 0
    starred = False
    while position < len(name):
        if at < len(parts) and parts[at] is None:
            starred, star, mark = True, at, position
            at += 1
        elif at < len(parts) and _one(parts[at], name[position]):
            at += 1
            position += 1
        elif starred:
            mark += 1
            at, position = star + 1, mark
        else:
            return False
    return all(part is None for part in parts[at:])


_TOKEN = re.compile(r"\*+|\?|\\.|\[[!^]?\]?[^\]]*\]|.", re.DOTALL)


def _parts(pattern: str) -> list[str | None]:
    """A pattern in pieces for one character each; None is a star."""
    return [None if token.startswith("*") else token for token in _TOKEN.findall(pattern)]


def _one(part: str | None, char: str) -> bool:
    if part is None:
        return False
    if part == "?":
        return True
    if part.startswith("\\") and len(part) == 2:
        return part[1] == char
    if part.startswith("[") and len(part) > 2:
        return fnmatch.fnmatchcase(char, part.replace("[^", "[!", 1))
    return part == char
