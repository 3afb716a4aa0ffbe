"""Source distributions: only what is needed to publish one safely. Nothing in them is run here, or by our installer.

A ``.tar.gz`` is read as strictly as a wheel: one gzip stream, plain files and folders below one top folder, no links,
devices or sparse files, sizes capped while unpacking. Sources: PEP 625, PEP 643, POSIX pax.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from packaging.metadata import Metadata
from packaging.utils import InvalidSdistFilename, parse_sdist_filename

from llmasos_registry.wheel.dist_info import parse_metadata
from llmasos_registry.wheel.member_path import check_collisions, check_path
from llmasos_registry.wheel.refusal import LIMITS, Limits, WheelRefused

_BLOCK = 512
_INPUT, _OUTPUT = 1 << 16, 1 << 18
_FILENAME = re.compile(r"[A-Za-z0-9_.+!-]+\.tar\.gz", re.ASCII)
#: A pax header holds a path and some times; git puts a commit id into the global one.
_MAX_HEADER = 1 << 16


@dataclass(frozen=True, slots=True)
class SdistFacts:
    """What a source distribution is. ``name`` and ``version`` are normalised."""

    filename: str
    name: str
    version: str
    metadata: Metadata
    metadata_bytes: bytes
    size: int
    expanded: int

    @property
    def requires_python(self) -> str | None:
        """The range of Python versions, as text."""
        return str(self.metadata.requires_python or "") or None

    @property
    def requires_dist(self) -> tuple[str, ...]:
        """Requirement lines, normalised; often incomplete before a build."""
        return tuple(str(requirement) for requirement in self.metadata.requires_dist or ())


def read_sdist(file: BinaryIO, filename: str, limits: Limits = LIMITS) -> SdistFacts:
    """Read and check a ``.tar.gz``. Raises WheelRefused naming the member and the rule."""
    if not _FILENAME.fullmatch(filename):
        raise WheelRefused(
            "file name", f"{filename[:200]!a} is not the name of a .tar.gz source distribution"
        )
    try:
        name, version = parse_sdist_filename(filename)
    except InvalidSdistFilename as error:
        raise WheelRefused("file name", f"{filename[:200]!r} is no source distribution: {error}") from error
    size = file.seek(0, 2)
    if size > limits.archive:
        raise WheelRefused("archive size", f"{size} bytes are more than the {limits.archive} allowed")
    file.seek(0)
    stream = _Unpacked(file, size, limits)
    top = filename.removesuffix(".tar.gz")
    wanted = f"{top}/PKG-INFO"
    found: bytes | None = None
    paths: list[str] = []
    for path, length in _members(stream):
        check_path(path)
        if path.removesuffix("/") != top and not path.startswith(f"{top}/"):
            raise WheelRefused("member path", f"is not below the folder {top}", member=path)
        paths.append(path)
        if len(paths) > limits.members:
            raise WheelRefused("archive size", f"more than {limits.members} members")
        if path == wanted and length > limits.text:
            raise WheelRefused(
                "member size", f"{length} bytes are more than the {limits.text} allowed", member=path
            )
        if path == wanted:
            found = stream.take(length)
        else:
            stream.skip(length)
        stream.skip(-length % _BLOCK)
    check_collisions(paths)
    if found is None:
        raise WheelRefused("metadata", "is missing", member=wanted)
    return SdistFacts(
        filename,
        str(name),
        str(version),
        parse_metadata(found, name, version, wanted),
        found,
        size,
        stream.produced,
    )


class _Unpacked:
    """The bytes of one gzip stream, counted while they are unpacked."""

    def __init__(self, file: BinaryIO, size: int, limits: Limits) -> None:
        self._file = file
        self._size = size
        self._limits = limits
        self._inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._ready = b""
        self.produced = 0

    def _more(self) -> bool:
        """Unpack another piece; False at the end, which must be the end of the file too."""
        if self._inflate.eof:
            if self._inflate.unused_data or self._file.read(1):
                raise WheelRefused("gzip frame", "there is data behind the end of the compressed stream")
            return False
        data = self._inflate.unconsumed_tail or self._file.read(_INPUT)
        try:
            self._ready = self._inflate.decompress(data, _OUTPUT)
        except zlib.error as error:
            raise WheelRefused("gzip frame", f"cannot be unpacked: {error}") from error
        if not data and not self._ready and not self._inflate.eof:
            raise WheelRefused("gzip frame", "the compressed stream is cut short")
        self.produced += len(self._ready)
        if self.produced > self._limits.expanded:
            raise WheelRefused(
                "archive size", f"unpacks to more than the {self._limits.expanded} bytes allowed"
            )
        if self.produced > self._limits.ratio_from and self.produced > self._limits.ratio * self._size:
            raise WheelRefused(
                "compression ratio", f"{self._size} bytes unpack to more than {self.produced}: a bomb"
            )
        return True

    def pieces(self, count: int) -> Iterator[bytes]:
        """Exactly ``count`` bytes. Raises WheelRefused when there are fewer."""
        while count:
            if not self._ready and not self._more():
                raise WheelRefused("tar frame", "the archive is cut short")
            piece, self._ready = self._ready[:count], self._ready[count:]
            count -= len(piece)
            yield piece

    def take(self, count: int) -> bytes:
        """``count`` bytes at once; for what is capped."""
        return b"".join(self.pieces(count))

    def skip(self, count: int) -> None:
        """Unpack and forget."""
        for _ in self.pieces(count):
            pass

    def rest_is_zero(self) -> bool:
        """Whether only zeros follow up to the end."""
        while True:
            if self._ready.strip(b"\0"):
                return False
            self._ready = b""
            if not self._more():
                return True


def _members(stream: _Unpacked) -> Iterator[tuple[str, int]]:
    """(path, length) of files and folders; the consumer reads the content and its padding before asking for the next."""
    path: str | None = None
    while True:
        header = stream.take(_BLOCK)
        if header == bytes(_BLOCK):
            if not stream.rest_is_zero():
                raise WheelRefused("tar frame", "there is data behind the end of the archive")
            return
        name, length, kind = _header(header)
        if kind in b"xgL":
            if length > _MAX_HEADER or path is not None:
                raise WheelRefused("tar frame", "has a header that is too long or repeated", member=name)
            data = stream.take(length)
            stream.skip(-length % _BLOCK)
            path = _long_name(data, kind, name)
            continue
        name, path = (path or name), None
        if kind in b"5":
            yield name.rstrip("/") + "/", length
        elif kind in b"0\0":
            yield name, length
        else:
            raise WheelRefused("member kind", "is a link, a device or a sparse file", member=name)


def _header(block: bytes) -> tuple[str, int, bytes]:
    """(name, length, kind) of a ustar header."""
    name = block[:100].rstrip(b"\0")
    if block[257:263] == b"ustar\0" and block[345:500].rstrip(b"\0"):
        name = block[345:500].rstrip(b"\0") + b"/" + name
    text = _text(name)
    checked = sum(block) - sum(block[148:156]) + 8 * 32
    if _octal(block[148:156], text) != checked:
        raise WheelRefused("tar frame", "its header has a wrong checksum", member=text)
    return text, _octal(block[124:136], text), block[156:157]


def _octal(field: bytes, name: str) -> int:
    digits = field.strip(b" \0")
    if not re.fullmatch(rb"[0-7]{1,12}", digits):
        raise WheelRefused("tar frame", "its header holds a number that is not octal", member=name)
    return int(digits, 8)


def _text(name: bytes) -> str:
    if b"\0" in name:
        raise WheelRefused("member name", "the name goes on behind its end", member=ascii(name[:80]))
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise WheelRefused("member name", "the name is not UTF-8", member=ascii(name[:80])) from error


def _long_name(data: bytes, kind: bytes, name: str) -> str | None:
    """The path that a pax or GNU header gives to the next member."""
    if kind == b"L":
        return _text(data.removesuffix(b"\0"))
    path: str | None = None
    while data:
        match = re.match(rb"([1-9][0-9]{0,5}) ([^=\0\n]{1,100})=", data)
        end = int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise WheelRefused("tar frame", "has a damaged pax header", member=name)
        key, value = match[2], data[match.end() : end - 1]
        data = data[end:]
        if key in (b"size", b"linkpath", b"hdrcharset") or key.startswith(b"GNU.sparse"):
            raise WheelRefused(
                "tar frame", f"has a pax header {ascii(key)[2:-1]}, which changes what it is", member=name
            )
        if key == b"path":
            if kind == b"g" or path is not None:
                raise WheelRefused("tar frame", "has a pax header that names several members", member=name)
            path = _text(value)
    return path
