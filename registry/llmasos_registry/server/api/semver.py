"""Versions of models and datasets: semantic versions that PEP 440 reads in the same order.

``1.2.0`` or ``1.2.0-rc.1`` with alpha, beta or rc. Other pre-release words and build numbers are refused: semver and
PEP 440 would sort them differently, and ranges over them would mean two things.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from llmasos_registry.server.failures import bad_request

_NUMBER = r"(?:0|[1-9][0-9]{0,8})"
_VERSION = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-(?:alpha|beta|rc)\.{_NUMBER})?")
#: Characters of a range in a query.
LONGEST_RANGE = 200


def check_version(text: str) -> str:
    """The version itself. Raises Failure 400."""
    if not _VERSION.fullmatch(text):
        raise bad_request(
            f"`{text[:64]}` is not a version of a release",
            hint="write MAJOR.MINOR.PATCH, for example 1.2.0 or 2.0.0-rc.1",
        )
    return text


def is_version(text: str) -> bool:
    """Whether the text is the version of a release, not a range."""
    return _VERSION.fullmatch(text) is not None


def read_range(text: str) -> SpecifierSet:
    """A PEP 440 range such as ``>=1.2,<2``. Raises Failure 400."""
    try:
        return SpecifierSet(text if len(text) <= LONGEST_RANGE else "?")
    except InvalidSpecifier:
        raise bad_request(
            f"`{text[:LONGEST_RANGE]}` is neither a version nor a range",
            hint="write 1.2.0, or a range such as '>=1.2,<2'",
        ) from None


def newest_in(versions: Iterable[str], wanted: SpecifierSet) -> str | None:
    """The newest version in a range; pre-releases only when the range names one or nothing else fits (PEP 440)."""
    named = {Version(text): text for text in versions}
    fitting = list(wanted.filter(named))
    return named[max(fitting)] if fitting else None
