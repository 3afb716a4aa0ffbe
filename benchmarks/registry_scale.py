"""Growth: publishing, simple page and search in a registry with many projects, against an empty one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from registry_report import Line, Sizes
from registry_servers import Absent


def scale_lines(work: Path, sizes: Sizes) -> Iterator[Line]:
    """."""
    raise Absent("waiting for server")
    yield
