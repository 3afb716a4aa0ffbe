"""JSON files from strangers: bounded in size, regular files only, no key twice, no numbers that are none."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from llmasos.api import InputError

#: A record of the 13,000 stock tasks has about 40 MB.
MAX_JSON = 256 << 20
#: One document of a run: its prompts, answers and what is logged of them.
MAX_LINE = 64 << 20


def regular_file(path: Path) -> int:
    """The size of a file in bytes. Raises InputError when there is none, or when it is a link or a device."""
    try:
        status = os.lstat(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is not a regular file", hint="links and devices are not followed in a run")
    return status.st_size


def read_object(path: Path, limit: int = MAX_JSON) -> dict[str, Any]:
    """The JSON object in a file. Raises InputError naming the file for anything else."""
    size = regular_file(path)
    if size > limit:
        raise InputError(f"{path} has {size} bytes; at most {limit} are read")
    try:
        return parse_object(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(
            f"{path} is damaged: {error}", hint="compute the run again, or ask whoever gave you the file"
        ) from None


def foreign_json(path: Path, limit: int) -> Any:
    """The JSON value in a file that another program wrote, with NaN and Infinity. Raises InputError naming the file."""
    size = regular_file(path)
    if size > limit:
        raise InputError(f"{path} has {size} bytes; at most {limit} are read")
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}") from None


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def parse_object(data: bytes | str) -> dict[str, Any]:
    """The JSON object in a text. Raises ValueError saying what it is instead."""
    try:
        value = json.loads(data, object_pairs_hook=_unique, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")
