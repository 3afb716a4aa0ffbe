"""Where the chunks are that an account's Xet clients have sent: in a staged xorb, or in blobs of the store.

A client remembers what it sent for three weeks and does not send it again, also after the xorb became part of a blob and
is gone. It files that memory under the address of the Xet service. The address names the account, because only the
account that sent chunks may build files from them, and an epoch: when rows are dropped while a client may remember, the
epoch grows and the next session starts without memory.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_store import xet_accounts, xet_places, xet_xorbs
from llmasos_registry.server.hub.history import insert_ignoring
from llmasos_registry.server.store.blobs import BlobStore

#: Three weeks is what clients remember (xet-core: MDB_SHARD_LOCAL_CACHE_EXPIRATION); and a day for clocks.
REMEMBERED = timedelta(days=22)
#: The folder of staged xorbs in the store's staging area.
STAGING = "xet"


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a staged file (``path``) or a blob (``sha256``)."""

    path: Path | None
    sha256: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Place:
    """Chunks ``first`` to ``stop`` (exclusive) lie in a blob, from ``offset`` on."""

    first: int
    stop: int
    sha256: str
    offset: int


@dataclass(slots=True)
class Xorb:
    """One xorb of an account: where each chunk begins, the staged file if there is one, the places in blobs."""

    hash: str
    starts: list[int]
    staged: Path | None
    #: In order, none overlapping another.
    places: list[Place]
    #: One byte a chunk: 1 when a blob holds it.
    placed: bytearray

    @property
    def chunks(self) -> int:
        """How many chunks it has."""
        return len(self.starts) - 1

    def length(self, first: int, stop: int) -> int:
        """Bytes of chunks ``first`` to ``stop``."""
        return self.starts[stop] - self.starts[first]

    def pieces(self, first: int, stop: int) -> Iterator[Piece]:
        """The bytes of a range of chunks. Raises LookupError when a chunk is nowhere any more."""
        if self.staged is not None:
            yield Piece(self.staged, "", self.starts[first], self.length(first, stop))
            return
        at = first
        index = bisect_right(self.places, at, key=lambda place: place.first) - 1
        while at < stop:
            place = self.places[index] if 0 <= index < len(self.places) else None
            if place is None or not place.first <= at < place.stop:
                raise LookupError(f"chunk {at} of xorb {self.hash}")
            until = min(place.stop, stop)
            offset = place.offset + self.length(place.first, at)
            yield Piece(None, place.sha256, offset, self.length(at, until))
            at = until
            index += 1


def _disjoint(starts: Sequence[int], places: Iterable[Place]) -> list[Place]:
    """Places in order without overlaps: what an earlier one has is cut off a later one."""
    found: list[Place] = []
    end = 0
    for place in sorted(places, key=lambda place: (place.first, -place.stop)):
        first = max(place.first, end)
        if first < place.stop:
            offset = place.offset + starts[first] - starts[place.first]
            found.append(Place(first, place.stop, place.sha256, offset))
            end = place.stop
    return found


def staged_path(store: BlobStore, account: int, xorb: str) -> Path:
    """Where the content of a xorb lies until blobs hold it."""
    return store.staging(STAGING) / f"{account}-{xorb}"


def space(conn: sa.Connection, store: BlobStore, account: int) -> str:
    """The name of the account's Xet space, ``ACCOUNT-EPOCH``, and a note that its clients are at work.

    A staged xorb that was lost (swept, or with the disk) is forgotten here, before a client names it.
    """
    now = utcnow()
    lost = [
        name
        for name in conn.execute(
            sa.select(xet_xorbs.c.hash).where(xet_xorbs.c.account_id == account, xet_xorbs.c.staged)
        ).scalars()
        if not staged_path(store, account, name).is_file()
    ]
    insert_ignoring(conn, xet_accounts, [{"account_id": account, "epoch": 1, "active_at": now}])
    for name in lost:
        _forget(conn, account, name)
    if lost:
        new_epochs(conn, [account])
    conn.execute(xet_accounts.update().where(xet_accounts.c.account_id == account).values(active_at=now))
    epoch = conn.execute(
        sa.select(xet_accounts.c.epoch).where(xet_accounts.c.account_id == account)
    ).scalar_one()
    return f"{account}-{epoch}"


def _forget(conn: sa.Connection, account: int, xorb: str) -> None:
    conn.execute(xet_xorbs.delete().where(xet_xorbs.c.account_id == account, xet_xorbs.c.hash == xorb))


def forget(conn: sa.Connection, account: int, xorb: str) -> None:
    """A client named a xorb that is not here (any more): its next session starts without memory and sends it again."""
    _forget(conn, account, xorb)
    new_epochs(conn, [account])


def new_epochs(conn: sa.Connection, accounts: list[int] | None = None) -> None:
    """Let the clients of these accounts (None: of all) forget what they sent, as after a backup was restored."""
    query = xet_accounts.update().values(epoch=xet_accounts.c.epoch + 1)
    conn.execute(query if accounts is None else query.where(xet_accounts.c.account_id.in_(accounts)))


def staged_bytes(conn: sa.Connection, account: int) -> int:
    """Bytes of xorbs that no shard has named yet."""
    return int(
        conn.execute(
            sa.select(sa.func.coalesce(sa.func.sum(xet_xorbs.c.size), 0)).where(
                xet_xorbs.c.account_id == account, xet_xorbs.c.staged
            )
        ).scalar_one()
    )


def find_xorb(conn: sa.Connection, store: BlobStore, account: int, name: str) -> Xorb | None:
    """A xorb that this account sent; None when it did not, or its content is lost."""
    row = conn.execute(
        sa.select(xet_xorbs.c.lengths, xet_xorbs.c.staged).where(
            xet_xorbs.c.account_id == account, xet_xorbs.c.hash == name
        )
    ).one_or_none()
    if row is None:
        return None
    lengths = array("I")
    lengths.frombytes(row.lengths)
    starts = [0, *accumulate(lengths)]
    path = staged_path(store, account, name)
    rows = _place_rows(conn, account, name)
    places = _disjoint(starts, (Place(r.first, r.stop, r.sha256, r.offset) for r in rows))
    return Xorb(
        name,
        starts,
        path if row.staged and path.is_file() else None,
        places,
        _flags(len(lengths), ((place.first, place.stop) for place in places)),
    )


def _place_rows(conn: sa.Connection, account: int, name: str) -> Sequence[Any]:
    return conn.execute(
        sa.select(xet_places.c.first, xet_places.c.stop, xet_places.c.sha256, xet_places.c.offset).where(
            xet_places.c.account_id == account, xet_places.c.hash == name
        )
    ).all()


def _flags(chunks: int, ranges: Iterable[tuple[int, int]]) -> bytearray:
    flags = bytearray(chunks)
    for first, stop in ranges:
        flags[first:stop] = b"\1" * (stop - first)
    return flags


def has_xorb(conn: sa.Connection, store: BlobStore, account: int, name: str) -> bool:
    """Whether every chunk of the xorb is here, so that it need not be kept again. It counts as sent now."""
    found = find_xorb(conn, store, account, name)
    if found is None or (found.staged is None and 0 in found.placed):
        return False
    touch(conn, account, [name])
    return True


def add_xorb(conn: sa.Connection, account: int, name: str, lengths: list[int]) -> None:
    """Note a xorb whose content is staged, durable."""
    now = utcnow()
    where = (xet_xorbs.c.account_id == account, xet_xorbs.c.hash == name)
    known = conn.execute(xet_xorbs.update().where(*where).values(staged=True, touched_at=now))
    if known.rowcount == 0:
        insert_ignoring(
            conn,
            xet_xorbs,
            [
                {
                    "account_id": account,
                    "hash": name,
                    "lengths": array("I", lengths).tobytes(),
                    "size": sum(lengths),
                    "staged": True,
                    "created_at": now,
                    "touched_at": now,
                }
            ],
        )


def touch(conn: sa.Connection, account: int, names: list[str]) -> None:
    """A client named these xorbs now."""
    for name in names:
        conn.execute(
            xet_xorbs.update()
            .where(xet_xorbs.c.account_id == account, xet_xorbs.c.hash == name)
            .values(touched_at=utcnow())
        )


def add_places(conn: sa.Connection, account: int, places: Mapping[str, Iterable[Place]]) -> list[str]:
    """Note where chunks of xorbs (by hash) lie in blobs now. Only what says something new is kept, so a xorb has no more
    rows than chunks. Returns the xorbs that are wholly in blobs now: their staged files may go.

    Raises LookupError for a xorb that was dropped meanwhile.
    """
    done: list[str] = []
    for name, new in places.items():
        where = (xet_xorbs.c.account_id == account, xet_xorbs.c.hash == name)
        row = conn.execute(
            sa.select(sa.func.length(xet_xorbs.c.lengths).label("bytes"), xet_xorbs.c.staged)
            .where(*where)
            .with_for_update()
        ).one_or_none()
        if row is None:
            raise LookupError(name)
        flags = _flags(row.bytes // 4, ((r.first, r.stop) for r in _place_rows(conn, account, name)))
        rows: list[dict[str, object]] = []
        for place in new:
            if flags.find(0, place.first, place.stop) >= 0:
                flags[place.first : place.stop] = b"\1" * (place.stop - place.first)
                rows.append({"account_id": account, "hash": name, **asdict(place)})
        insert_ignoring(conn, xet_places, rows)
        if row.staged and 0 not in flags:
            conn.execute(xet_xorbs.update().where(*where).values(staged=False))
            done.append(name)
    return done


def drop_idle(conn: sa.Connection, idle_since: datetime) -> list[str]:
    """Drop what no client can name any more: xorbs that were not named in three weeks, and everything of accounts whose
    clients did nothing since ``idle_since``, which start without memory the next time. Blobs that only these rows kept
    are the sweep's afterwards. Returns the names of staged files to remove (``remove_staged``) after the commit.
    """
    files: list[str] = []
    idle = (
        conn.execute(
            sa.select(xet_accounts.c.account_id).where(
                xet_accounts.c.active_at < idle_since,
                sa.exists().where(xet_xorbs.c.account_id == xet_accounts.c.account_id),
            )
        )
        .scalars()
        .all()
    )
    for which in (
        xet_xorbs.c.touched_at < utcnow() - REMEMBERED,
        *(xet_xorbs.c.account_id == account for account in idle),
    ):
        rows = conn.execute(
            sa.select(xet_xorbs.c.account_id, xet_xorbs.c.hash).where(which, xet_xorbs.c.staged)
        )
        files += [f"{row.account_id}-{row.hash}" for row in rows]
        conn.execute(xet_xorbs.delete().where(which))
    new_epochs(conn, list(idle))
    return files


def remove_staged(store: BlobStore, names: list[str]) -> None:
    """Remove staged files by name."""
    folder = store.staging(STAGING)
    for name in names:
        (folder / os.path.basename(name)).unlink(missing_ok=True)


def sweep_staging(conn: sa.Connection, store: BlobStore, before: datetime) -> int:
    """Remove staged files older than that which no row names: their sender was cut off, or a crash came between. How many."""
    named = {
        f"{row.account_id}-{row.hash}"
        for row in conn.execute(sa.select(xet_xorbs.c.account_id, xet_xorbs.c.hash).where(xet_xorbs.c.staged))
    }
    removed = 0
    for entry in list(os.scandir(store.staging(STAGING))):
        with suppress(FileNotFoundError):
            if entry.name not in named and entry.stat().st_mtime < before.timestamp():
                os.unlink(entry.path)
                removed += 1
    return removed
