"""Why an archive is not taken, and how much of one is read before giving up."""

from __future__ import annotations

from dataclasses import dataclass

from llmasos.errors import InputError


class WheelRefused(InputError):
    """An archive breaks a rule. ``member`` is the file inside it (None: the archive itself), ``rule`` names the rule."""

    def __init__(
        self, rule: str, message: str, *, member: str | None = None, hint: str | None = None
    ) -> None:
        # A hostile name must not move the cursor of the terminal that shows it, nor fill the screen.
        shown = "" if member is None else f"{ascii(member[:200])[1:-1]}: "
        super().__init__(f"{shown}{message} [{rule}]", hint=hint)
        self.member = member
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps on one archive, in bytes unless named otherwise. They hold while reading, whatever the headers claim."""

    archive: int = 2 << 30
    members: int = 60_000  #: number of members; below what needs zip64
    directory: int = 16 << 20  #: the central directory
    expanded: int = 8 << 30  #: all members together
    ratio: int = 50  #: expanded over packed, looked at above ``ratio_from``
    ratio_from: int = 64 << 20  #: short files of zeros compress well and harm nobody
    text: int = 4 << 20  #: METADATA, WHEEL, entry_points.txt and manifests, each
    record: int = 16 << 20


LIMITS = Limits()
