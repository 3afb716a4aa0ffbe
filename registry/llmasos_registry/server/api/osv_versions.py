"""Whether a version is affected: the evaluation that the OSV specification gives, over PEP 440 and semantic versions.

Source: https://ossf.github.io/osv-schema/#evaluation
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import total_ordering
from typing import Any

from packaging.version import InvalidVersion, Version

PYPI = "PyPI"
_SEMVER = re.compile(
    r"v?(0|[1-9][0-9]{0,17})(?:\.(0|[1-9][0-9]{0,17}))?(?:\.(0|[1-9][0-9]{0,17}))?(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?"
)


@total_ordering
class SemVer:
    """A semantic version in its order of precedence (semver.org 2.0.0, section 11). Raises ValueError."""

    def __init__(self, text: str) -> None:
        found = _SEMVER.fullmatch(text)
        if found is None:
            raise ValueError(text)
        numbers = tuple(int(part or 0) for part in found.group(1, 2, 3))
        # A pre-release comes before its release; numbers come before words; fewer parts before more.
        marks = tuple(
            (0, int(mark), "") if mark.isdecimal() else (1, 0, mark) for mark in (found[4] or "").split(".")
        )
        self._key: tuple[Any, ...] = (numbers, 0 if found[4] else 1, marks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SemVer) and self._key == other._key

    def __lt__(self, other: SemVer) -> bool:
        return self._key < other._key

    def __hash__(self) -> int:
        return hash(self._key)


def _read(kind: str, ecosystem: str, text: str) -> Any:
    """The version in its order. Raises ValueError."""
    if kind == "ECOSYSTEM" and ecosystem.partition(":")[0] == PYPI:
        try:
            return Version(text)
        except InvalidVersion as error:
            raise ValueError(text) from error
    return SemVer(text)


def readable(kind: str, ecosystem: str, text: str) -> bool:
    """Whether a range of this type can hold such a version. Commits of GIT ranges are not compared here."""
    if kind == "GIT" or text in ("0", "*"):
        return True
    try:
        _read(kind, ecosystem, text)
    except ValueError:
        return False
    return True


def is_affected(affected: Mapping[str, Any], version: str) -> bool:
    """Whether one entry of ``affected`` holds a version: listed, or in a range."""
    ecosystem = affected["package"]["ecosystem"]
    if any(_same(ecosystem, version, listed) for listed in affected.get("versions") or ()):
        return True
    return any(
        _in_range(part["type"], ecosystem, part["events"], version) for part in affected.get("ranges") or ()
    )


def _same(ecosystem: str, one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        return bool(_read("ECOSYSTEM", ecosystem, one) == _read("ECOSYSTEM", ecosystem, other))
    except ValueError:
        return False


def _in_range(kind: str, ecosystem: str, events: Sequence[Mapping[str, str]], version: str) -> bool:
    if kind == "GIT":
        return False
    try:
        wanted = _read(kind, ecosystem, version)
        points = sorted(_points(kind, ecosystem, events))
        limits = [event["limit"] for event in events if "limit" in event]
        below = not limits or any(text == "*" or wanted < _read(kind, ecosystem, text) for text in limits)
    except ValueError:
        # What cannot be read is in no range.
        return False
    inside = False
    for (bounded, at), name in points:
        if name == "introduced" and (not bounded or wanted >= at):
            inside = True
        elif (name == "fixed" and (not bounded or wanted >= at)) or (
            name == "last_affected" and bounded and wanted > at
        ):
            inside = False
    return inside and below


def _points(
    kind: str, ecosystem: str, events: Sequence[Mapping[str, str]]
) -> Iterator[tuple[tuple[bool, Any], str]]:
    """((False, 0) for the beginning of everything, else (True, version); what happens there)."""
    for event in events:
        for name in ("introduced", "fixed", "last_affected"):
            if name in event:
                text = event[name]
                yield ((False, 0) if text == "0" else (True, _read(kind, ecosystem, text))), name
