"""RECORD: the list of a wheel's files with their digests, which must be neither longer nor shorter than the archive.

Source: "Recording installed projects" and "Binary distribution format" of the PyPA specifications.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass

from llmasos_registry.wheel.refusal import WheelRefused

#: Digest lengths in bytes of what a RECORD may use: sha256 or stronger.
DIGESTS = {"sha256": 32, "sha384": 48, "sha512": 64}
#: Deprecated signatures beside RECORD, which RECORD cannot hold.
UNLISTED = ("RECORD.jws", "RECORD.p7s")


@dataclass(frozen=True, slots=True)
class Row:
    """What RECORD says of one file; ``size`` None when it leaves it out."""

    algorithm: str
    digest: bytes
    size: int | None


def parse_record(data: bytes, name: str) -> dict[str, Row]:
    """Rows by path, without the row of RECORD itself. ``name`` is RECORD's path. Raises WheelRefused."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise WheelRefused("RECORD", "is not UTF-8", member=name) from error
    rows: dict[str, Row] = {}
    own = False
    try:
        for fields in csv.reader(io.StringIO(text, newline=""), strict=True):
            if not fields:
                continue
            if len(fields) != 3:
                raise WheelRefused("RECORD", f"a row has {len(fields)} fields, not three", member=name)
            path, digest, size = fields
            if path == name:
                if own or digest or size:
                    raise WheelRefused("RECORD", "lists itself twice or with a digest", member=name)
                own = True
            elif path in rows:
                raise WheelRefused("RECORD", "RECORD lists it twice", member=path)
            else:
                rows[path] = _row(path, digest, size)
    except csv.Error as error:
        raise WheelRefused("RECORD", f"cannot be parsed: {error}", member=name) from error
    return rows


def _row(path: str, digest: str, size: str) -> Row:
    algorithm, _, value = digest.partition("=")
    expected = DIGESTS.get(algorithm)
    if expected is None:
        raise WheelRefused(
            "RECORD", f"RECORD gives no sha256, sha384 or sha512 of it but {digest[:40]!r}", member=path
        )
    try:
        raw = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise WheelRefused("RECORD", "its digest in RECORD is not base64", member=path) from error
    if len(raw) != expected:
        raise WheelRefused("RECORD", f"its digest in RECORD is not {expected} bytes long", member=path)
    if size and not (size.isascii() and size.isdigit() and len(size) < 16):
        raise WheelRefused("RECORD", f"its size in RECORD is {size[:40]!r}", member=path)
    return Row(algorithm, raw, int(size) if size else None)


def check_listed(rows: dict[str, Row], files: Iterable[str], name: str) -> None:
    """Every file is listed and every row is a file. Raises WheelRefused naming the first that is not."""
    folder = name.removesuffix("RECORD")
    present = set(files) - {name} - {folder + other for other in UNLISTED}
    if hidden := sorted(present - rows.keys()):
        raise WheelRefused("RECORD", "RECORD does not list it", member=hidden[0])
    if ghosts := sorted(rows.keys() - present):
        raise WheelRefused("RECORD", "RECORD lists it, and the archive does not have it", member=ghosts[0])
