"""Files out of xorbs: the chunks that a shard names, one after the other into the store, hashed on the way."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import sqlalchemy as sa

from llmasos_registry.server.context import Registry
from llmasos_registry.server.db.tables_store import blobs
from llmasos_registry.server.failures import Failure, bad_request, too_large
from llmasos_registry.server.hub.blob_rights import grant
from llmasos_registry.server.hub.repository import Repo
from llmasos_registry.server.hub.request_body import check_disk
from llmasos_registry.server.hub.xet_format import ShardFile, Term
from llmasos_registry.server.hub.xet_index import (
    Piece,
    Place,
    Xorb,
    add_places,
    find_xorb,
    forget,
    remove_staged,
    touch,
)
from llmasos_registry.server.store.blobs import (
    PIECE,
    BlobMissing,
    BlobStore,
    DigestMismatch,
    Stored,
    record_blob,
)

#: Xorbs whose chunk tables are kept, and files that are held open, while one shard is worked on.
_KEPT = 64
_OPEN = 16
#: Files of a shard that are noted in one transaction.
_TOGETHER = 200
#: Files up to this size are written several at a time: a disk syncs them in the time of one.
_SMALL = 1 << 20
_WRITERS = 4
_IN_FLIGHT = 32


@dataclass(slots=True)
class _Built:
    """A file that is in the store, and where in it the chunks of its terms lie."""

    stored: Stored
    #: The store at work on it, for small files.
    writing: Future[Stored] | None
    #: By xorb.
    places: dict[str, list[Place]]
    #: Whether the store had these bytes, so that they were only hashed.
    compared: bool = False


class Flattener:
    """Builds the files of one shard for one account and repository. ``close`` it in any case."""

    def __init__(self, registry: Registry, account: int, repo: Repo) -> None:
        self._registry = registry
        self._store = registry.store
        self._account = account
        self._repo = repo
        self._xorbs: OrderedDict[str, Xorb] = OrderedDict()
        self._reader = _PieceReader(registry.store)
        self._built: list[tuple[ShardFile, _Built]] = []
        self._pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="xet")

    def close(self) -> None:
        """Close the files that are read, and end the writers."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._reader.close()

    def add(self, file: ShardFile) -> None:
        """Build one file. Raises Failure 400 for chunks that this account did not send, and for other bytes than claimed."""
        if file.size > self._registry.settings.max_blob:
            raise too_large("a file of this shard", self._registry.settings.max_blob)
        # A shard of some kilobytes can name the same chunks a million times.
        check_disk(self._store, file.size)
        self._built.append((file, self._build(file, compare=self._store.exists(file.sha256))))
        if len(self._built) >= _IN_FLIGHT and (writing := self._built[-_IN_FLIGHT][1].writing) is not None:
            writing.result()
        if len(self._built) >= _TOGETHER:
            self.flush()

    def _build(self, file: ShardFile, *, compare: bool) -> _Built:
        places: dict[str, list[Place]] = {}
        offset = 0
        for term in file.terms():
            xorb = self._xorb(term.xorb)
            if term.stop > xorb.chunks or xorb.length(term.first, term.stop) != term.length:
                raise bad_request(
                    f"chunks {term.first} to {term.stop} of xorb {term.xorb} are not {term.length} bytes"
                )
            if xorb.placed.find(0, term.first, term.stop) >= 0:
                xorb.placed[term.first : term.stop] = b"\1" * (term.stop - term.first)
                place = Place(term.first, term.stop, file.sha256, offset)
                places.setdefault(term.xorb, []).append(place)
            offset += term.length
        claimed = Stored(file.sha256, file.size)
        if compare or file.size <= _SMALL:
            # Where the bytes are in the store, hashing proves that the sender has them too.
            digest = hashlib.sha256()
            kept: list[bytes] = []
            for piece in self._content(file):
                digest.update(piece)
                if not compare:
                    kept.append(piece)
            self._check(file, digest.hexdigest())
            writing = None if compare else self._pool.submit(self._store.put, b"".join(kept))
            return _Built(claimed, writing, places, compare)
        with self._store.writer() as writer:
            for piece in self._content(file):
                writer.write(piece)
            try:
                writer.commit(file.sha256)
            except DigestMismatch as mismatch:
                self._check(file, mismatch.found)
                raise
        return _Built(claimed, None, places, False)

    def _check(self, file: ShardFile, found: str) -> None:
        if found != file.sha256:
            raise bad_request(f"a file has the sha256 {found}; the shard claims {file.sha256}")

    def _content(self, file: ShardFile) -> Iterator[bytes]:
        for term in file.terms():
            yield from self._term(term)

    def _term(self, term: Term) -> Iterator[bytes]:
        for attempt in (1, 2):
            try:
                pieces = list(self._xorb(term.xorb).pieces(term.first, term.stop))
                for piece in pieces:
                    self._reader.open(piece)
                break
            except (LookupError, BlobMissing, FileNotFoundError):
                # Another shard may have made the staged file part of a blob meanwhile: look again, once.
                self._xorbs.pop(term.xorb, None)
                if attempt == 2:
                    raise self._lost(term.xorb, "is not whole any more") from None
        for piece in pieces:
            yield from self._reader.read(piece)

    def _lost(self, name: str, why: str) -> Failure:
        with self._registry.db.write() as conn:
            forget(conn, self._account, name)
        return bad_request(f"xorb {name} {why}", hint="upload again; everything needed is sent this time")

    def _xorb(self, name: str) -> Xorb:
        known = self._xorbs.get(name)
        if known is None:
            with self._registry.db.read() as conn:
                known = find_xorb(conn, self._store, self._account, name)
            if known is None:
                raise self._lost(name, "was not sent by this account")
            self._xorbs[name] = known
            if len(self._xorbs) > _KEPT:
                self._xorbs.popitem(last=False)
        self._xorbs.move_to_end(name)
        return known

    def flush(self) -> None:
        """Note what was built: blobs, the repository's right to them, the places of the chunks."""
        built, self._built = self._built, []
        if not built:
            return
        with self._registry.db.write() as conn:
            lost = self._missing(conn, [b.stored.sha256 for _, b in built if b.compared])
        for file, result in built:
            if result.stored.sha256 in lost:
                result.writing = self._build(file, compare=False).writing
        for _, result in built:
            if result.writing is not None:
                result.writing.result()
        try:
            done = self._note(built)
        except LookupError as error:
            raise self._lost(str(error.args[0]), "was dropped meanwhile") from None
        remove_staged(self._store, [f"{self._account}-{name}" for name in done])
        self._xorbs.clear()

    def _note(self, built: Sequence[tuple[ShardFile, _Built]]) -> list[str]:
        places: dict[str, list[Place]] = {}
        for _, result in built:
            for name, new in result.places.items():
                places.setdefault(name, []).extend(new)
        named = sorted({term.xorb for file, _ in built for term in file.terms()})
        with self._registry.db.write() as conn:
            for _, result in built:
                record_blob(conn, result.stored)
            grant(conn, self._repo.id, {result.stored.sha256 for _, result in built})
            touch(conn, self._account, named)
            return add_places(conn, self._account, places)

    def _missing(self, conn: sa.Connection, digests: Sequence[str]) -> set[str]:
        """Those that a sweep took since they were seen. The others are touched, so that none takes them now."""
        known = {
            digest
            for digest in set(digests)
            if conn.execute(sa.select(blobs.c.sha256).where(blobs.c.sha256 == digest)).first() is not None
            and self._store.exists(digest)
        }
        for digest in known:
            size = conn.execute(sa.select(blobs.c.size).where(blobs.c.sha256 == digest)).scalar_one()
            record_blob(conn, Stored(digest, size))
        return set(digests) - known


class _PieceReader:
    """Reads pieces, a few files held open: terms alternate between few xorbs."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._open: OrderedDict[str, BinaryIO] = OrderedDict()

    def read(self, piece: Piece) -> Iterator[bytes]:
        file = self.open(piece)
        file.seek(piece.offset)
        left = piece.length
        while left > 0:
            data = file.read(min(PIECE, left))
            if not data:
                raise BlobMissing(piece.sha256)
            left -= len(data)
            yield data

    def open(self, piece: Piece) -> BinaryIO:
        key = piece.sha256 or str(piece.path)
        file = self._open.get(key)
        if file is None:
            file = open(piece.path, "rb") if piece.path is not None else self._store.open(piece.sha256)  # noqa: SIM115 - closed in close()
            self._open[key] = file
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(key)
        return file

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()
