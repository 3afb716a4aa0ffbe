"""Zip archives that two readers would read in two ways."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmasos_registry.wheel.framing import member_bytes, read_members
from llmasos_registry.wheel.refusal import WheelRefused


def archive(
    *, method: int = zipfile.ZIP_DEFLATED, name: str = "a.txt", data: bytes = b"hello, hello, hello"
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr(zipfile.ZipInfo(name), data, method)
        file.writestr(zipfile.ZipInfo("b/c.txt"), b"second", method)
    return buffer.getvalue()


class Pipe(io.RawIOBase):
    """Where a zip can be written but not corrected afterwards: sizes follow the data."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, piece: bytes) -> int:  # type: ignore[override]
        self.data += bytes(piece)
        return len(piece)


def streamed(*, zip64: bool = False) -> bytes:
    pipe = Pipe()
    with (
        zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as file,
        file.open("a.txt", "w", force_zip64=zip64) as member,
    ):
        member.write(b"streamed")
    return pipe.data


def contents(data: bytes) -> dict[str, bytes]:
    file = io.BytesIO(data)
    return {member.name: b"".join(member_bytes(file, member)) for member in read_members(file)}


def end_of(data: bytes) -> tuple[int, int]:
    """(size, offset) of the central directory."""
    return struct.unpack("<2L", data[-10:-2])


def change(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def moved(data: bytes, by: int) -> bytes:
    """The end record with the central directory's offset moved."""
    size, offset = end_of(data)
    return data[:-10] + struct.pack("<2L", size, offset + by) + data[-2:]


def central(data: bytes) -> int:
    return end_of(data)[1]


def extra(kind: int, body: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        entry = zipfile.ZipInfo("a.txt")
        entry.extra = struct.pack("<2H", kind, len(body)) + body
        file.writestr(entry, b"x")
    return buffer.getvalue()


def unicode_path() -> bytes:
    return extra(0x7075, b"\x01" + struct.pack("<L", 0) + b"other.txt")


def hidden_between() -> bytes:
    data = archive()
    offset = central(data)
    filled = data[:offset] + b"hidden" + data[offset:]
    return moved(filled, 6)


def prefixed_and_adjusted() -> bytes:
    """Data in front of the first member, with every offset corrected."""
    data = archive()
    size, offset = end_of(data)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        offsets = [info.header_offset for info in file.infolist()]
    directory = bytearray(data[offset : offset + size])
    position = 0
    for old in offsets:
        struct.pack_into("<L", directory, position + 42, old + 6)
        names = struct.unpack_from("<3H", directory, position + 28)
        position += 46 + sum(names)
    return b"prefix" + data[:offset] + bytes(directory) + moved(data[offset + size :], 6)


def renamed_locally() -> bytes:
    data = archive()
    return change(data, 30, b"z.txt")


def overlapping() -> bytes:
    """Two names for one member's data, as overlap bombs have."""
    data = archive(name="b/d.txt", data=b"second")
    offset = central(data)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        second = file.infolist()[1].header_offset
    position = data.index(b"PK\x01\x02", offset + 1)
    assert struct.unpack_from("<L", data, position + 42)[0] == second
    return change(data, position + 42, struct.pack("<L", 0))


HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty file": lambda: b"",
    "no zip": lambda: b"x" * 100,
    "data behind": lambda: archive() + b"tail",
    "data in front": lambda: b"MZ" + archive(),
    "data in front, offsets corrected": prefixed_and_adjusted,
    "data between": hidden_between,
    "comment": lambda: archive()[:-2] + b"\x04\x00tail",
    "directory elsewhere": lambda: moved(archive(), 1),
    "fewer members than said": lambda: change(archive(), len(archive()) - 14, struct.pack("<2H", 3, 3)),
    "more members than said": lambda: change(archive(), len(archive()) - 14, struct.pack("<2H", 1, 1)),
    "several volumes": lambda: change(archive(), len(archive()) - 18, struct.pack("<H", 1)),
    "zip64 end record": lambda: change(archive(), len(archive()) - 10, b"\xff\xff\xff\xff"),
    "another name in front of the data": renamed_locally,
    "another method in front of the data": lambda: change(archive(), 8, b"\x00\x00"),
    "another checksum in front of the data": lambda: change(archive(), 14, b"\x01"),
    "encrypted": lambda: change(change(archive(), 6, b"\x01"), central(archive()) + 8, b"\x01"),
    "unknown method": lambda: change(change(archive(), 8, b"\x0c"), central(archive()) + 10, b"\x0c"),
    "needs version 6": lambda: change(archive(), central(archive()) + 6, b"\x3f"),
    "member comment": lambda: change(archive(), central(archive()) + 32, b"\x01"),
    "second name in an extra field": unicode_path,
    "unknown extra field": lambda: extra(0xBEEF, b"abc"),
    "zip64 field without need": lambda: extra(0x0001, bytes(16)),
    "header offset into the directory": lambda: change(
        archive(), central(archive()) + 42, struct.pack("<L", central(archive()))
    ),
    "two names for one place": overlapping,
    "larger than said": lambda: archive(data=b"x" * 100).replace(
        struct.pack("<L", 100), struct.pack("<L", 50)
    ),
    "smaller than said": lambda: archive(data=b"x" * 100).replace(
        struct.pack("<L", 100), struct.pack("<L", 200)
    ),
    "name in another encoding": lambda: archive(name="aaaaa").replace(b"aaaaa", b"aa\x82aa"),
    "broken UTF-8": lambda: archive(name="aaéaa").replace("é".encode(), b"\xff\xff"),
    "descriptor that disagrees": lambda: streamed().replace(b"PK\x07\x08", b"PK\x07\x08\x00", 1)[:-1],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_ambiguous_archives_are_refused(kind: str) -> None:
    with pytest.raises(WheelRefused):
        contents(HOSTILE[kind]())


def test_sound_archives_are_read() -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert contents(archive(method=method)) == {"a.txt": b"hello, hello, hello", "b/c.txt": b"second"}
    assert contents(archive(name="aé.txt"))["aé.txt"] == b"hello, hello, hello"
    assert contents(streamed()) == {"a.txt": b"streamed"}
    assert contents(streamed(zip64=True)) == {"a.txt": b"streamed"}
    assert contents(extra(0x5455, b"\x01" + bytes(4))) == {"a.txt": b"x"}
    empty = io.BytesIO()
    with zipfile.ZipFile(empty, "w") as file:
        file.writestr("folder/", b"")
        file.writestr("folder/empty.txt", b"")
    assert contents(empty.getvalue()) == {"folder/": b"", "folder/empty.txt": b""}


def test_a_local_zip64_field_that_repeats_the_sizes_is_no_second_meaning() -> None:
    """Some wheels of PyPI are written so (bazel's)."""
    data = archive()
    packed, size = struct.unpack_from("<2L", data, 18)
    field = struct.pack("<2H2Q", 1, 16, size, packed)
    name_end = 30 + len("a.txt")
    wide = change(data, 28, struct.pack("<H", len(field)))
    wide = wide[:name_end] + field + wide[name_end:]
    offset = central(data) + len(field)
    second = wide.index(b"PK\x01\x02", offset + 1)
    old = struct.unpack_from("<L", wide, second + 42)[0]
    wide = moved(change(wide, second + 42, struct.pack("<L", old + len(field))), len(field))
    assert contents(wide) == contents(data)
    with pytest.raises(WheelRefused):
        contents(wide.replace(struct.pack("<Q", size), struct.pack("<Q", size + 1), 1))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_change_of_an_archive_is_refused_or_leaves_what_zipfile_reads(data: st.DataObject) -> None:
    """Two readers never see two things: what this one accepts, Python's zipfile reads as the same members."""
    original = archive()
    at = data.draw(st.integers(0, len(original) - 1))
    changed = change(original, at, bytes([data.draw(st.integers(0, 255))]))
    try:
        found = contents(changed)
    except WheelRefused:
        return
    with zipfile.ZipFile(io.BytesIO(changed)) as file:
        assert found == {name: file.read(name) for name in file.namelist()}
