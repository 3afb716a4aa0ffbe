"""Times as the API reads and writes them: RFC 3339; written in UTC, with ``Z`` at the end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time within the years 1 to 9999, in UTC too") from None


def read_moment(text: str) -> datetime:
    """A time with its offset, in UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without an offset")
    return _utc(moment)


#: A time in a body, with its offset; in UTC once it is read.
Moment = Annotated[AwareDatetime, AfterValidator(_utc)]


def rfc3339(moment: datetime) -> str:
    """A moment as text, to the microsecond when it has any."""
    return moment.isoformat().replace("+00:00", "Z")


def rfc3339_or_none(moment: datetime | None) -> str | None:
    """The same, for what may not have happened."""
    return None if moment is None else rfc3339(moment)
