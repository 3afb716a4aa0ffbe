"""Reading members of a ZIP archive from strangers, Zstandard ones too (method 93), which Python's zipfile learns in 3.14.

Nothing is extracted to disk, so names lead nowhere; sizes are bounded while a member is read, whatever the archive says of itself.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

from llmasos.api import InputError, MissingDependency

_ZSTANDARD = 93
#: Members of an archive.
MAX_MEMBERS = 1_000_000
#: A member may be this many times larger than it is in the archive, above the first megabyte.
_MAX_RATIO = 2000


class Archive:
    """An open archive. Use as a context manager. Raises InputError for what is no archive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise InputError(f"{path} is no ZIP archive: {error}") from None
        self._members = {member.filename: member for member in self._zip.infolist()}
        if len(self._zip.infolist()) > MAX_MEMBERS:
            self._zip.close()
            raise InputError(f"{path} has more than {MAX_MEMBERS} members")

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def names(self) -> list[str]:
        """Names of the members, in the order of the archive."""
        return list(self._members)

    def read(self, name: str, limit: int) -> bytes:
        """A whole member of at most ``limit`` bytes. Raises InputError."""
        member = self._members.get(name)
        if member is None:
            raise InputError(f"{self.path} has no {name}")
        bound = min(limit, (1 << 20) + member.compress_size * _MAX_RATIO)
        try:
            data = (
                self._zstandard(member, bound)
                if member.compress_type == _ZSTANDARD
                else self._plain(member, bound)
            )
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            RuntimeError,
            OSError,
            EOFError,
            zlib.error,
            struct.error,
        ) as error:
            raise InputError(f"{self.path}: {name} cannot be read: {error}") from None
        if len(data) > bound:
            raise InputError(f"{self.path}: {name} has more than {bound} bytes")
        if zlib.crc32(data) != member.CRC:
            raise InputError(f"{self.path}: {name} is damaged: its checksum does not fit")
        return data

    def _plain(self, member: zipfile.ZipInfo, bound: int) -> bytes:
        with self._zip.open(member) as stream:
            return stream.read(bound + 1)

    def _zstandard(self, member: zipfile.ZipInfo, bound: int) -> bytes:
        try:
            import zstandard
        except ModuleNotFoundError:
            raise MissingDependency(
                f"{self.path} is compressed with Zstandard, for which the package zstandard is needed",
                hint="pip install 'llmasos[evals]'",
            ) from None
        if member.flag_bits & 1:
            raise InputError(f"{self.path}: {member.filename} is encrypted")
        with open(self.path, "rb") as file:
            file.seek(member.header_offset)
            header = file.read(30)
            if header[:4] != b"PK\x03\x04":
                raise zipfile.BadZipFile("no local header")
            name, extra = struct.unpack("<HH", header[26:30])
            file.seek(member.header_offset + 30 + name + extra)
            try:
                with zstandard.ZstdDecompressor().stream_reader(
                    file.read(member.compress_size), read_across_frames=True
                ) as stream:
                    return bytes(stream.read(bound + 1))
            except zstandard.ZstdError as error:
                raise zipfile.BadZipFile(str(error)) from None
