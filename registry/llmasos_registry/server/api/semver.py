"""Versions of models and datasets in requests, and ranges over them; what is a version stands in ``release_version``."""

from __future__ import annotations

from collections.abc import Iterable

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from llmasos_registry.release_version import FORM, is_version
from llmasos_registry.server.failures import bad_request

#: Characters of a range in a query.
LONGEST_RANGE = 200


def check_version(text: str) -> str:
    """The version itself. Raises Failure 400."""
    if not is_version(text):
        raise bad_request(f"`{text[:64]}` is not a version of a release", hint=FORM)
    return text


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
