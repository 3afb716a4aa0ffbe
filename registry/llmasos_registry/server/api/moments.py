"""Times as the API writes them: RFC 3339, UTC, ``Z`` at the end."""

from __future__ import annotations

from datetime import datetime


def rfc3339(moment: datetime) -> str:
    """A moment as text, to the microsecond when it has any."""
    return moment.isoformat().replace("+00:00", "Z")


def rfc3339_or_none(moment: datetime | None) -> str | None:
    """The same, for what may not have happened."""
    return None if moment is None else rfc3339(moment)
