"""Which paths and ref names a repository takes: those that every client can write to a disk, and git can name."""

from __future__ import annotations

import re
import unicodedata

from llmasos_registry.server.failures import bad_request

#: Bytes of a whole path, and of one name in it (what common file systems take).
MAX_PATH = 1024
MAX_NAME = 255
MAX_DEPTH = 64
MAX_REF = 250

_HEX = re.compile(r"[0-9a-f]{40}")
_REF_BAD = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//")


def safe_path(path: str) -> str:
    """The path itself when it may stand in a repository. Raises Failure 400 naming the rule."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise _refused(path, "it is not Unicode text") from None
    if size > MAX_PATH:
        raise _refused(path, f"it is longer than {MAX_PATH} bytes")
    names = path.split("/")
    if len(names) > MAX_DEPTH:
        raise _refused(path, f"it is more than {MAX_DEPTH} folders deep")
    for name in names:
        _check_name(path, name)
    return path


def _check_name(path: str, name: str) -> None:
    if not name:
        raise _refused(path, "it has an empty name (a slash at an end, or two together)")
    if name in (".", ".."):
        raise _refused(path, f"`{name}` is not a file's name")
    # Windows and macOS find `.git` under these spellings too.
    folded = "".join(c for c in name if unicodedata.category(c) != "Cf").rstrip(". ").lower()
    if folded in (".git", "git~1"):
        raise _refused(path, "`.git` belongs to git")
    if "\\" in name:
        raise _refused(path, "a backslash separates folders on Windows")
    if any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in name):
        raise _refused(path, "it has control characters")
    if len(name.encode()) > MAX_NAME:
        raise _refused(path, f"a name in it is longer than {MAX_NAME} bytes")


def _refused(path: str, why: str) -> Exception:
    shown = ascii(path if len(path) <= 120 else path[:117] + "...")
    return bad_request(f"Refused path {shown}: {why}")


def safe_ref(name: str) -> str:
    """The name of a branch or tag, when git could have it too. Raises Failure 400. Source: git-check-ref-format."""
    bad = (
        not name
        or len(name.encode("utf-8", "surrogatepass")) > MAX_REF
        or _REF_BAD.search(name) is not None
        or name.startswith(("/", "-", "."))
        or name.endswith(("/", ".", ".lock"))
        or "/." in name
        or name == "@"
    )
    if bad:
        raise bad_request(f"Not a name for a branch or tag: {name[:120]!a}")
    # A revision of 40 hex digits is a commit, and `refs/...` is a full name.
    if _HEX.fullmatch(name) or name.startswith("refs/") or name == "HEAD":
        raise bad_request(f"A branch or tag cannot be called {name}")
    return name
