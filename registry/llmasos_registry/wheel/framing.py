"""The frame of a zip archive, read so that there is exactly one way to read it.

Zip describes every member twice (in front of its data and in the central directory at the end) and lets readers choose
whom to believe; archives that show one thing to a checker and another to an installer live from that. Here both
descriptions must agree, and members, central directory and end record must fill the file without gap or overlap: nothing
in front, between or behind them. Sources: PKWARE APPNOTE 6.3.10; PyPI's rules for uploads (2025).

Left out because no wheel needs it: archives of 4 GiB, archive and member comments, encryption, methods other than store
and deflate.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from llmasos_registry.wheel.member_path import check_collisions, check_path
from llmasos_registry.wheel.refusal import LIMITS, Limits, WheelRefused

_END = struct.Struct("<4s4H2LH")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_STORED, _DEFLATED = 0, 8
_DESCRIPTOR, _UTF8 = 1 << 3, 1 << 11
#: Deflate's speed hints, a data descriptor, UTF-8 names; every other flag changes how the data is to be read.
_FLAGS = (1 << 1) | (1 << 2) | _DESCRIPTOR | _UTF8
#: Extra fields that say nothing about name, size or content: times and owners (Info-ZIP, NTFS).
_HARMLESS_EXTRAS = frozenset({0x000A, 0x5455, 0x5855, 0x7855, 0x7875})
_ZIP64 = 0x0001
_BLOCK = 1 << 16
_OUTPUT = 1 << 18


@dataclass(frozen=True, slots=True)
class Member:
    """One file or folder of an archive; its two descriptions were found to agree."""

    name: str
    size: int
    packed: int
    crc: int
    deflated: bool
    mode: int  #: Unix permission bits, 0 when the archive has none
    offset: int  #: of the data in the archive

    @property
    def is_folder(self) -> bool:
        return self.name.endswith("/")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A record of the central directory."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    mode: int
    header: int


def read_members(file: BinaryIO, limits: Limits = LIMITS) -> list[Member]:
    """All members in the order of their data. Raises WheelRefused for a frame that can be read in two ways."""
    length = file.seek(0, 2)
    if length > limits.archive:
        raise WheelRefused("archive size", f"{length} bytes are more than the {limits.archive} allowed")
    count, directory_size, directory = _end_record(file, length)
    if count > limits.members:
        raise WheelRefused("archive size", f"{count} members are more than the {limits.members} allowed")
    if directory_size > limits.directory:
        raise WheelRefused("archive size", f"a central directory of {directory_size} bytes is too long")
    if directory + directory_size != length - _END.size:
        raise WheelRefused("zip frame", "the central directory does not end where the end record begins")
    entries = _central_directory(_read(file, directory, directory_size), count)
    _check_totals(entries, limits)
    check_collisions([entry.name for entry in entries])
    members, position = [], 0
    for entry in sorted(entries, key=lambda item: item.header):
        if entry.header != position:
            _refuse(
                entry.name,
                "is not where the member before it ends: data is hidden between or shared by members",
            )
        member, position = _local(file, entry, directory)
        members.append(member)
    if position != directory:
        raise WheelRefused("zip frame", "there is data between the last member and the central directory")
    return members


def member_bytes(file: BinaryIO, member: Member) -> Iterator[bytes]:
    """The unpacked bytes in pieces of at most 256 KiB. Raises WheelRefused when they are not what the headers say."""
    file.seek(member.offset)
    left, produced, crc = member.packed, 0, 0
    inflate = zlib.decompressobj(-zlib.MAX_WBITS) if member.deflated else None
    while left or (inflate is not None and inflate.unconsumed_tail):
        pending = inflate.unconsumed_tail if inflate is not None else b""
        if not pending:
            pending = file.read(min(_BLOCK, left))
            if not pending:
                raise WheelRefused("zip frame", "the archive ends inside this member", member=member.name)
            left -= len(pending)
        if inflate is not None:
            try:
                piece = inflate.decompress(pending, _OUTPUT)
            except zlib.error as error:
                raise WheelRefused("zip data", f"cannot be unpacked: {error}", member=member.name) from error
        else:
            piece = pending
        produced += len(piece)
        if produced > member.size:
            raise WheelRefused(
                "zip data", f"unpacks to more than the {member.size} bytes it claims", member=member.name
            )
        crc = zlib.crc32(piece, crc)
        if inflate is not None and inflate.eof and (left or inflate.unused_data):
            raise WheelRefused(
                "zip data", "has data behind the end of its compressed stream", member=member.name
            )
        if piece:
            yield piece
    if inflate is not None:
        # All input is taken; what zlib still holds back is less than one window.
        rest = inflate.flush()
        if not inflate.eof:
            raise WheelRefused("zip data", "its compressed stream is cut short", member=member.name)
        produced += len(rest)
        crc = zlib.crc32(rest, crc)
        if rest:
            yield rest
    if produced != member.size or crc != member.crc:
        raise WheelRefused(
            "zip data", "its size or checksum is not the one in the archive's headers", member=member.name
        )


def _refuse(name: str, message: str) -> NoReturn:
    raise WheelRefused("zip frame", message, member=name)


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise WheelRefused("zip frame", "the archive is shorter than its headers say")
    return data


def _end_record(file: BinaryIO, length: int) -> tuple[int, int, int]:
    """(members, size and offset of the central directory), from the last 22 bytes and from nowhere else."""
    if length < _END.size:
        raise WheelRefused("zip frame", "not a zip archive")
    magic, disk, first_disk, here, total, size, offset, comment = _END.unpack(
        _read(file, length - _END.size, _END.size)
    )
    if magic != b"PK\x05\x06" or comment:
        raise WheelRefused("zip frame", "not a zip archive, or one with a comment or other data at its end")
    if disk or first_disk or here != total:
        raise WheelRefused("zip frame", "an archive in several volumes")
    if total == _FULL16 or size == _FULL32 or offset == _FULL32:
        raise WheelRefused("zip frame", "a zip64 archive; files below 4 GiB need no such thing")
    return total, size, offset


def _central_directory(data: bytes, count: int) -> list[_Entry]:
    entries, position = [], 0
    for _ in range(count):
        if position + _CENTRAL.size > len(data):
            raise WheelRefused("zip frame", "the central directory is shorter than the end record says")
        (
            magic, _made_by, needed, flags, method, _time, _date, crc, packed, size, name_size, extra_size,
            comment_size, disk, _internal, external, header,
        ) = _CENTRAL.unpack_from(data, position)  # fmt: skip
        if magic != b"PK\x01\x02":
            raise WheelRefused("zip frame", "the central directory has a record that is none")
        position += _CENTRAL.size
        raw_name = data[position : position + name_size]
        extra = data[position + name_size : position + name_size + extra_size]
        position += name_size + extra_size + comment_size
        if position > len(data):
            raise WheelRefused("zip frame", "a record of the central directory reaches beyond it")
        name = _decode(raw_name, flags)
        if comment_size or disk:
            _refuse(name, "has a comment or lies in another volume")
        if (needed & 0xFF) > 45 or flags & ~_FLAGS:
            _refuse(name, "needs features of zip that no wheel needs (encryption, patches, masked headers)")
        if method not in (_STORED, _DEFLATED):
            _refuse(name, f"is packed by method {method}; only store and deflate are read everywhere")
        size, packed, header = _widen(name, _extras(name, extra), size, packed, header)
        if method == _STORED and size != packed:
            _refuse(name, "is stored, and its two sizes differ")
        mode = _mode(name, external)
        if name.endswith("/") and size:
            _refuse(name, "is a folder with content")
        entries.append(_Entry(name, raw_name, flags, method, crc, packed, size, mode, header))
    if position != len(data):
        raise WheelRefused("zip frame", "the central directory has more records than the end record says")
    return entries


def _decode(raw: bytes, flags: int) -> str:
    try:
        # Without the flag readers guess the encoding, each differently.
        name = raw.decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError as error:
        raise WheelRefused("member name", "the name is not UTF-8", member=raw.decode("latin-1")) from error
    check_path(name)
    return name


def _extras(name: str, data: bytes) -> bytes | None:
    """The content of the zip64 field, if there is one. Fields that rename a member or change how it is read are refused."""
    wide: bytes | None = None
    seen: set[int] = set()
    while data:
        if len(data) < 4:
            _refuse(name, "has a damaged extra field")
        kind, size = struct.unpack_from("<2H", data)
        if len(data) < 4 + size or kind in seen:
            _refuse(name, "has a damaged or repeated extra field")
        seen.add(kind)
        if kind == _ZIP64:
            wide = data[4 : 4 + size]
        elif kind not in _HARMLESS_EXTRAS:
            _refuse(name, f"has an extra field {kind:#06x}, which can give it another name or meaning")
        data = data[4 + size :]
    return wide


def _widen(name: str, wide: bytes | None, *fields: int) -> tuple[int, int, int]:
    """Size, packed size and offset with those that are all ones replaced by the zip64 field, which must hold just them."""
    missing = sum(value == _FULL32 for value in fields)
    if (wide is None and missing) or (wide is not None and len(wide) != 8 * missing):
        _refuse(name, "has a zip64 field that does not fit its header")
    values = iter(struct.unpack(f"<{missing}Q", wide or b""))
    size, packed, header = (next(values) if value == _FULL32 else value for value in fields)
    return size, packed, header


def _mode(name: str, external: int) -> int:
    """The permission bits; links, devices and programs that change the user are refused."""
    mode, folder = external >> 16, name.endswith("/")
    kind = stat.S_IFMT(mode)
    if kind not in (0, stat.S_IFDIR if folder else stat.S_IFREG):
        raise WheelRefused("member kind", "is a link or another special file", member=name)
    if bool(external & 0x10) and not folder:
        raise WheelRefused(
            "member kind", "claims to be a folder, by a name that says it is a file", member=name
        )
    if mode & (stat.S_ISUID | stat.S_ISGID):
        raise WheelRefused("member kind", "would run with the rights of its owner (setuid)", member=name)
    return stat.S_IMODE(mode)


def _check_totals(entries: list[_Entry], limits: Limits) -> None:
    """Bombs by their own account; a member that unpacks to more than it says is caught while unpacking."""
    expanded, packed = sum(entry.size for entry in entries), sum(entry.packed for entry in entries)
    if expanded > limits.expanded:
        raise WheelRefused(
            "archive size", f"unpacks to {expanded} bytes, more than the {limits.expanded} allowed"
        )
    for name, size, small in [(None, expanded, packed), *((e.name, e.size, e.packed) for e in entries)]:
        if size > limits.ratio_from and size > limits.ratio * max(small, 1):
            raise WheelRefused("compression ratio", f"{small} bytes unpack to {size}: a bomb", member=name)


def _local(file: BinaryIO, entry: _Entry, directory: int) -> tuple[Member, int]:
    """Compare the header in front of the data with the central directory; the member and where the next one begins."""
    name = entry.name
    if entry.header + _LOCAL.size > directory:
        _refuse(name, "begins inside or behind the central directory")
    magic, needed, flags, method, _time, _date, crc, packed, size, name_size, extra_size = _LOCAL.unpack(
        _read(file, entry.header, _LOCAL.size)
    )
    if magic != b"PK\x03\x04":
        _refuse(name, "has no header where the central directory points")
    rest = _read(file, entry.header + _LOCAL.size, name_size + extra_size)
    if (
        rest[:name_size] != entry.raw_name
        or flags != entry.flags
        or method != entry.method
        or (needed & 0xFF) > 45
    ):
        _refuse(name, "has another name, method or flags in front of its data than in the central directory")
    wide = _extras(name, rest[name_size:])
    described = bool(flags & _DESCRIPTOR)
    if wide is not None:
        # Some writers add the field to every local header. That is no second meaning as long as it repeats the first.
        if len(wide) != 16:
            _refuse(name, "has a zip64 field that does not fit its header")
        narrow = (size, packed)
        size, packed = struct.unpack("<2Q", wide)
        if any(n not in (_FULL32, w) for n, w in zip(narrow, (size, packed), strict=True)):
            _refuse(name, "has a zip64 field that does not fit its header")
    here, there = (crc, packed, size), (entry.crc, entry.packed, entry.size)
    if here != there and not (described and here == (0, 0, 0)):
        _refuse(
            name, "has other sizes or another checksum in front of its data than in the central directory"
        )
    offset = entry.header + _LOCAL.size + name_size + extra_size
    end = offset + entry.packed
    if described:
        if method == _STORED and entry.size:
            _refuse(name, "is stored, and its size follows its data, where nobody can find it")
        shape = struct.Struct("<4s1L2Q" if wide is not None else "<4s3L")
        if end + shape.size > directory:
            _refuse(name, "reaches into the central directory")
        if shape.unpack(_read(file, end, shape.size)) != (b"PK\x07\x08", *there):
            _refuse(name, "has other sizes or another checksum behind its data than in the central directory")
        end += shape.size
    if end > directory:
        _refuse(name, "reaches into the central directory")
    return Member(name, entry.size, entry.packed, entry.crc, method == _DEFLATED, entry.mode, offset), end
