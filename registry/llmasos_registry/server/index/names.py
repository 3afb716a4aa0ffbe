"""Names of projects: which are allowed, which are the same, which look the same.

Sources: PEP 503 and 508 (names), PEP 426's advice on confusable characters, as PyPI applies it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_NAME = re.compile(r"[A-Z0-9](?:[A-Z0-9._-]{0,98}[A-Z0-9])?", re.IGNORECASE | re.ASCII)
_KEY = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,98}[a-z0-9])?", re.ASCII)
_RUNS = re.compile(r"[-_.]+")
_LOOK_ALIKE = str.maketrans({"0": "o", "1": "l", "i": "l", "-": None})
#: Would be taken for what is part of Python, of an installer's options, or of this registry's addresses.
PROHIBITED = frozenset(
    [
        "main",
        "none",
        "null",
        "true",
        "false",
        "pip-install",
        "requirements-txt",
        "requirements",
        "setup-py",
        "test",
        "tests",
        "src",
        "dist",
        "build",
        "site-packages",
        "python",
        "python2",
        "python3",
        "stdlib",
        "local",
        "upstream",
    ]
)


def is_name(name: str) -> bool:
    """Whether a project may be named so at all (PEP 508)."""
    return _NAME.fullmatch(name) is not None


def is_key(text: str) -> bool:
    """Whether it is a normalised name."""
    return _KEY.fullmatch(text) is not None and "--" not in text


def key_of(name: str) -> str:
    """The normalised name (PEP 503)."""
    return _RUNS.sub("-", name).lower()


def skeleton(key: str) -> str:
    """Equal for names that people mistake for each other: ``l`` ``1`` ``i``, ``o`` ``0``, and where words are divided."""
    return key.translate(_LOOK_ALIKE)


def is_reserved(key: str, prefixes: Iterable[str]) -> bool:
    """Whether the upstream is never asked for it."""
    return any(key.startswith(prefix) or key == prefix.rstrip("-") for prefix in prefixes)


def imitated_prefix(key: str, prefixes: Iterable[str]) -> str | None:
    """The reserved prefix that a name only looks as if it had, e.g. ``llmas0s-core``."""
    for prefix in prefixes:
        if skeleton(key).startswith(skeleton(prefix.rstrip("-"))) and not key.startswith(prefix.rstrip("-")):
            return prefix
    return None
