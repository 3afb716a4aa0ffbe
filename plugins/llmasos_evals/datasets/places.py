"""Where a data set lies: the splits it has, and their files, fetched when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


class Place(Protocol):
    """A data set that has been found."""

    #: Names of the splits.
    splits: Sequence[str]
    #: Format of all files, or None: each by its ending.
    format: str | None
    #: What its reader is told.
    options: Mapping[str, Any]
    #: Types of columns as somebody stated them, or None.
    features: Any
    #: For the record: ``kind``, ``name``, ``config``, ``revision``.
    origin: Mapping[str, str | None]

    def paths(self, split: str) -> Sequence[Path]:
        """The files of a split. Raises InputError for files that cannot be had or are not what they were."""


@dataclass(frozen=True, slots=True)
class FilesPlace:
    """Files that a task names, or that lie in a folder."""

    files: Mapping[str, Sequence[Path]]
    format: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    features: Any = None
    origin: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def splits(self) -> Sequence[str]:
        """Names of the splits."""
        return list(self.files)

    def paths(self, split: str) -> Sequence[Path]:
        """The files of a split."""
        return self.files[split]
