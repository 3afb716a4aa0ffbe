"""The files of a model's folder, as signatures and the registry name them: relative paths with slashes, and SHA-256."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from llmasos.errors import InputError

#: Where the signature of a model lies in its repository.
SIGNATURE_FILE = "model.sig"
#: What is never part of a model's content: the signature itself and what git keeps beside a repository's files.
UNSIGNED = (".git", ".gitattributes", ".github", ".gitignore", SIGNATURE_FILE)
_CHUNK = 1 << 20


def is_unsigned(path: str, ignore: Iterable[str] = UNSIGNED) -> bool:
    """Whether a path, or a folder that it lies in, is one of ``ignore``."""
    return any(path == item or path.startswith(item + "/") for item in ignore)


def clean_path(path: str) -> bool:
    """Whether a path is relative, has no empty, ``.`` or ``..`` segment, no backslash and no control character."""
    parts = path.split("/")
    return bool(path) and all(
        part not in ("", ".", "..") and "\\" not in part and part.isprintable() for part in parts
    )


def list_files(folder: Path, ignore: Iterable[str] = UNSIGNED) -> list[str]:
    """Relative paths of the files in a folder, sorted by their segments; ``ignore`` names what is left out, with its content.

    Raises InputError for symbolic links, devices and names that have no place in a repository: what they mean depends on
    the machine, so a signature over them would say nothing.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    left_out = tuple(ignore)
    found = sorted(_walk(folder, "", left_out), key=lambda path: path.split("/"))
    for path in found:
        if not clean_path(path):
            raise InputError(f"{path!r} in {folder} is not a name for a repository", hint="rename the file")
    return found


def _walk(folder: Path, prefix: str, ignore: tuple[str, ...]) -> Iterator[str]:
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror or error}") from error
    for entry in entries:
        path = prefix + entry.name
        if is_unsigned(path, ignore):
            continue
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            yield from _walk(Path(entry.path), f"{path}/", ignore)
        elif stat.S_ISREG(mode):
            yield path
        else:
            what = "a symbolic link" if stat.S_ISLNK(mode) else "no file"
            raise InputError(
                f"{entry.path} is {what}", hint="copy the folder with its content: cp -rL FOLDER COPY"
            )


def file_sha256(path: Path, read: Callable[[int], None] | None = None) -> str:
    """Hex SHA-256 of a file; ``read`` is told how many bytes were read. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(_CHUNK)
        view = memoryview(buffer)
        while count := file.readinto(buffer):
            digest.update(view[:count])
            if read is not None:
                read(count)
    return digest.hexdigest()


def hash_files(
    folder: Path, paths: Iterable[str], read: Callable[[int], None] | None = None
) -> dict[str, str]:
    """path -> hex SHA-256. Raises InputError naming a file that cannot be read."""
    found: dict[str, str] = {}
    for path in paths:
        try:
            found[path] = file_sha256(folder / path, read)
        except OSError as error:
            raise InputError(f"cannot read {folder / path}: {error.strerror or error}") from error
    return found
