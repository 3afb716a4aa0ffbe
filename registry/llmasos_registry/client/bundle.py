"""One file for a machine without a network: lock, wheels, model files, publishers' keys and signatures.

A tar archive, plain and deterministic: ``bundle.json`` first (what is in it, and who signed), then ``pylock.toml``, then
``blobs/<sha256>`` in order. Equal content gives equal bytes. It is hostile until checked: nothing but these members, in
this order, each with the digest that is its name; sizes are known before anything is read; no path in it is ever used as one.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from llmasos.errors import InputError
from llmasos_registry.client.locked import Lock, LockedModel, LockedWheel
from llmasos_registry.client.lockfile import LOCK_FILE, lock_bytes, parse_lock
from llmasos_registry.client.model_store import is_code
from llmasos_registry.client.sources import NO_SIGNATURES, Signatures

FORMAT = 1
INDEX_FILE = "bundle.json"
#: Bytes of the index and of the lock.
MAX_INDEX = 64 << 20
_BLOB = "blobs/"
_CHUNK = 1 << 20


class BundleRefused(InputError):
    """A bundle breaks a rule; nothing of it was used."""


@dataclass(slots=True)
class Contents:
    """What a bundle is made of. ``blobs`` leads from a digest to (size, where the bytes are)."""

    lock: Lock
    #: file name of a wheel -> publisher and envelopes.
    signatures: dict[str, Signatures] = field(default_factory=dict)
    #: account -> rows of its keys, as the registry states them.
    keys: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    blobs: dict[str, tuple[int, Path]] = field(default_factory=dict)


def write_bundle(path: Path, contents: Contents, written: Callable[[int], None] | None = None) -> None:
    """Write a bundle; the file appears when it is complete. Raises InputError when it cannot be written."""
    lock = lock_bytes(contents.lock)
    index = {
        "format": FORMAT,
        "registry": contents.lock.registry,
        "lock": {"sha256": hashlib.sha256(lock).hexdigest(), "size": len(lock)},
        "blobs": {digest: size for digest, (size, _) in sorted(contents.blobs.items())},
        "signatures": {
            name: {"publisher": one.publisher, "envelopes": [dict(item) for item in one.envelopes]}
            for name, one in sorted(contents.signatures.items())
        },
        "keys": {account: contents.keys[account] for account in sorted(contents.keys)},
    }
    text = json.dumps(index, indent=1, sort_keys=True).encode() + b"\n"
    scratch = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(scratch, "xb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
                _add(archive, INDEX_FILE, len(text), io.BytesIO(text))
                _add(archive, LOCK_FILE, len(lock), io.BytesIO(lock))
                for digest, (size, place) in sorted(contents.blobs.items()):
                    with open(place, "rb") as blob:
                        _add(archive, _BLOB + digest, size, blob)
                    if written is not None:
                        written(size)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            scratch.unlink()


def _add(archive: tarfile.TarFile, name: str, size: int, data: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o644, 0
    archive.addfile(member, data)


class Bundle:
    """A bundle that was opened: its index, lock and the place of every blob. It is a ``Source`` of wheels and model files.

    Nothing is unpacked; bytes are read from the file where they lie, and checked by whoever takes them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.title = str(path)
        try:
            self._file = open(path, "rb")  # noqa: SIM115 closed with the bundle
        except OSError as error:
            raise InputError(f"cannot read the bundle {path}: {error.strerror or error}") from error
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    # ---- reading ----

    def _read(self) -> None:
        index = self._index()
        self.keys: Mapping[str, list[dict[str, Any]]] = _key_rows(index.get("keys"))
        self._signatures = _signature_rows(index.get("signatures"))
        lock = self._lock_bytes(index)
        self._places = self._blob_places(index)
        self.lock = parse_lock(lock, f"{self.path}: {LOCK_FILE}")
        if self.lock.registry != index.get("registry"):
            raise self._refused("the lock names another registry than the bundle")
        for digest in _wanted(self.lock):
            if digest not in self._places:
                raise self._refused(f"the lock names a file that is not in it: sha256 {digest}")

    def _index(self) -> dict[str, Any]:
        name, size, start = self._header(0)
        if name != INDEX_FILE or size > MAX_INDEX:
            raise self._refused(f"it does not begin with {INDEX_FILE}")
        self._file.seek(start)
        try:
            index = json.loads(self._file.read(size))
        except (ValueError, RecursionError) as error:
            raise self._refused(f"{INDEX_FILE} is not JSON: {error}") from error
        if not isinstance(index, dict) or index.get("format") != FORMAT:
            raise self._refused("it has another format than this llmasos reads")
        self._next = _after(start, size)
        return index

    def _lock_bytes(self, index: Mapping[str, Any]) -> bytes:
        entry = index.get("lock")
        name, size, start = self._header(self._next)
        if name != LOCK_FILE or size > MAX_INDEX or not isinstance(entry, dict) or entry.get("size") != size:
            raise self._refused(f"{LOCK_FILE} is not where it belongs")
        self._file.seek(start)
        data = self._file.read(size)
        found = hashlib.sha256(data).hexdigest()
        if found != entry.get("sha256"):
            raise self._refused(f"{LOCK_FILE}: expected sha256 {entry.get('sha256')}, found {found}")
        self._next = _after(start, size)
        return data

    def _blob_places(self, index: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
        """digest -> (offset, size); every member is what the index says, and there is nothing else."""
        expected = index.get("blobs")
        if not isinstance(expected, dict) or not all(type(size) is int for size in expected.values()):
            raise self._refused("its list of files makes no sense")
        total = os.fstat(self._file.fileno()).st_size
        places: dict[str, tuple[int, int]] = {}
        position = self._next
        for digest in sorted(expected):
            name, size, start = self._header(position)
            if name != _BLOB + digest or size != expected[digest] or start + size > total:
                raise self._refused(
                    f"expected {_BLOB}{digest[:64]} of {expected[digest]} bytes, found {name[:80]!r} of {size}"
                )
            places[digest] = (start, size)
            position = _after(start, size)
        self._file.seek(position)
        rest = self._file.read(_CHUNK)
        if len(rest) < 1024 or rest.strip(b"\0") or self._file.read(1):
            raise self._refused("there is something behind its last file, or it was cut off")
        return places

    def _header(self, position: int) -> tuple[str, int, int]:
        """(name, size, offset of the bytes) of the member at a position: a plain file, named without extensions."""
        self._file.seek(position)
        block = self._file.read(512)
        try:
            member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise self._refused(f"it is damaged at byte {position}: {error}") from error
        if member.type == tarfile.XHDTYPE and member.size <= 1024:
            # Larger than 8 GiB: the size stands in a record before the header.
            return self._large(position, member.size)
        if member.type != tarfile.REGTYPE or member.size < 0 or member.linkname:
            raise self._refused(f"{member.name[:80]!r} is not a plain file")
        return member.name, member.size, position + 512

    def _large(self, position: int, length: int) -> tuple[str, int, int]:
        records = self._file.read(length).decode("utf-8", "replace")
        lines = records.splitlines()
        if len(lines) != 1 or " size=" not in lines[0]:
            raise self._refused("it has records that a bundle does not have")
        size = lines[0].partition(" size=")[2]
        after = _after(position + 512, length)
        self._file.seek(after)
        try:
            member = tarfile.TarInfo.frombuf(self._file.read(512), "utf-8", "strict")
            number = int(size)
        except (tarfile.HeaderError, UnicodeDecodeError, ValueError) as error:
            raise self._refused(f"it is damaged at byte {after}: {error}") from error
        if member.type != tarfile.REGTYPE or number < 8 << 30:
            raise self._refused(f"{member.name[:80]!r} is not a plain file")
        return member.name, number, after + 512

    def _refused(self, why: str) -> BundleRefused:
        return BundleRefused(
            f"{self.path} is not a bundle: {why}", hint="make it again: llmasos bundle create"
        )

    # ---- as a source ----

    def signatures(self, project: str, filename: str) -> Signatures:
        """As ``Source``."""
        return self._signatures.get(filename, NO_SIGNATURES)

    @contextmanager
    def wheel(self, wheel: LockedWheel) -> Iterator[Iterator[bytes]]:
        """As ``Source``."""
        yield self._pieces(wheel.sha256, 0)

    @contextmanager
    def model_file(
        self, model: LockedModel, path: str, sha256: str, start: int = 0
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """As ``Source``."""
        yield start, self._pieces(sha256, start)

    def _pieces(self, digest: str, start: int) -> Iterator[bytes]:
        try:
            offset, size = self._places[digest]
        except KeyError:
            raise BundleRefused(f"{self.path} has no file with the sha256 {digest}") from None
        position, end = offset + start, offset + size
        while position < end:
            self._file.seek(position)
            piece = self._file.read(min(_CHUNK, end - position))
            if not piece:
                raise BundleRefused(f"{self.path} ends before its files do")
            position += len(piece)
            yield piece


def _after(start: int, size: int) -> int:
    """Where the next header is: members are padded to blocks of 512 bytes."""
    return start + (size + 511) // 512 * 512


def _wanted(lock: Lock) -> Iterator[str]:
    """Digests of what an installation from this lock reads: a wheel of each package, the files of models."""
    for package in lock.packages:
        best = package.best()
        if best is not None:
            yield best.sha256
    for model in lock.models:
        for file in model.files:
            if not is_code(file.path):
                yield file.sha256


def _key_rows(value: Any) -> dict[str, list[dict[str, Any]]]:
    if not isinstance(value, dict):
        raise BundleRefused("its keys make no sense")
    return {
        str(account): [row for row in rows if isinstance(row, dict)]
        for account, rows in value.items()
        if isinstance(rows, list)
    }


def _signature_rows(value: Any) -> dict[str, Signatures]:
    if not isinstance(value, dict):
        raise BundleRefused("its signatures make no sense")
    found: dict[str, Signatures] = {}
    for name, row in value.items():
        publisher = row.get("publisher") if isinstance(row, dict) else None
        envelopes = row.get("envelopes") if isinstance(row, dict) else None
        if not (publisher is None or isinstance(publisher, str)) or not isinstance(envelopes, list):
            raise BundleRefused("its signatures make no sense")
        found[str(name)] = Signatures(publisher, tuple(one for one in envelopes if isinstance(one, dict)))
    return found
