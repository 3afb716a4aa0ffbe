"""What a source says about the members of a group it makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: Name and revision of the data set that a file belongs to, when it does not lie beside its data.
Data = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class Member:
    """A task of a file, by its name in it; None for the one the file is about."""

    path: Path
    name: str | None
    data: Data | None = None
