"""The descriptor every collect hook yields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """One thing a plugin offers, delivered by a collect hook and promised by ``[[provides]]`` in its manifest.

    ``name`` is the bare name; the full name is ``plugin-id/name``. ``factory`` is ``"package.module:attribute"`` and is
    imported only when the contribution is used, so that a plugin's descriptors cost nothing to list.
    """

    kind: ClassVar[str] = ""

    name: str
    factory: str
