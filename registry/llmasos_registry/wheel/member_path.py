"""Which names a file in an archive may have: those that mean the same file on every system that unpacks it."""

from __future__ import annotations

import re
import unicodedata

from llmasos_registry.wheel.refusal import WheelRefused

MAX_PART = 255
MAX_PATH = 1024
MAX_DEPTH = 64

#: Names that Windows gives to devices, with any extension and any case; the raised digits count as digits there.
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])", re.IGNORECASE)
#: Separators, drive letters and streams, and what Windows forbids in a name.
_FORBIDDEN = frozenset('\\:<>"|?*')


def check_path(name: str) -> None:
    """Accept a relative path with forward slashes, or a folder's with one at its end. Raises WheelRefused."""
    if not name.isprintable():
        raise WheelRefused("member name", "the name has characters that cannot be printed", member=name)
    if len(name.encode("utf-8", "surrogatepass")) > MAX_PATH:
        raise WheelRefused("member name", f"the name is longer than {MAX_PATH} bytes", member=name)
    if name.startswith("/"):
        raise WheelRefused("member path", "the path is absolute", member=name)
    if found := _FORBIDDEN & set(name):
        raise WheelRefused("member name", f"the name holds {sorted(found)[0]!r}", member=name)
    if unicodedata.normalize("NFC", name) != name:
        raise WheelRefused("member name", "the name is not in Unicode's composed form (NFC)", member=name)
    parts = name.removesuffix("/").split("/")
    if len(parts) > MAX_DEPTH:
        raise WheelRefused("member path", f"more than {MAX_DEPTH} folders deep", member=name)
    for part in parts:
        _check_part(part, name)


def _check_part(part: str, name: str) -> None:
    if part in ("", ".", ".."):
        raise WheelRefused("member path", f"the path has a part {part!r}", member=name)
    if len(part.encode("utf-8", "surrogatepass")) > MAX_PART:
        raise WheelRefused("member name", f"a part of the name is longer than {MAX_PART} bytes", member=name)
    if part[-1] in ". " or part[0] == " ":
        raise WheelRefused(
            "member name", "a part of the name begins or ends with a space, or ends with a dot", member=name
        )
    if _DEVICE.fullmatch(part.partition(".")[0].rstrip(" ")):
        raise WheelRefused("member name", "the name is that of a device on Windows", member=name)


def collision_key(name: str) -> str:
    """Equal for two names that a file system without case, or with another Unicode form, takes for one."""
    folded = unicodedata.normalize("NFKD", name.removesuffix("/")).casefold()
    return unicodedata.normalize("NFKC", folded)


def check_collisions(names: list[str]) -> None:
    """No two names for one place, and no file where another needs a folder. Raises WheelRefused naming both."""
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in names:
        key = collision_key(name)
        if name.endswith("/"):
            folders.setdefault(key, name)
            if key in files:
                raise WheelRefused(
                    "member collision", f"is a folder where {files[key]!r} is a file", member=name
                )
            continue
        if key in files:
            what = (
                "occurs twice"
                if files[key] == name
                else f"is the same place as {files[key]!r} on some systems"
            )
            raise WheelRefused("member collision", what, member=name)
        files[key] = name
        above = key.rpartition("/")[0]
        while above and above not in folders:
            folders[above] = name
            above = above.rpartition("/")[0]
    for key, name in files.items():
        if key in folders:
            raise WheelRefused(
                "member collision", f"is a file, and {folders[key]!r} needs a folder there", member=name
            )
