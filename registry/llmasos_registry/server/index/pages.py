"""Pages: built in the transaction that changes a project, read from memory as long as the database has not changed."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from packaging.version import Version

from llmasos_registry.server.db.engine import Database
from llmasos_registry.server.db.tables_accounts import facts
from llmasos_registry.server.db.tables_index import package_files, package_releases, pages, projects
from llmasos_registry.server.index.formats import PageFile, project_html, project_json
from llmasos_registry.server.index.quick_reads import QuickReads

QUARANTINED = "quarantined"
#: The fact that changes with the list of projects.
ROOT_FACT = "simple_root"
#: Bytes of pages kept in memory.
CACHE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Page:
    """A project's page as it is sent; ``etag`` without quotes."""

    etag: str
    json: bytes
    json_gzip: bytes
    html: bytes
    serial: int
    owner: str
    private: bool
    gone: bool

    @property
    def weight(self) -> int:
        """Bytes in memory, about."""
        return len(self.json) + len(self.json_gzip) + len(self.html) + 500


_FIELDS = tuple(Page.__dataclass_fields__)


def write_page(conn: sa.Connection, project: int) -> None:
    """Build a project's page anew. Call it after any change of the project, its releases or files, and after its serial
    was counted up, in the same transaction."""
    row = conn.execute(sa.select(projects).where(projects.c.id == project)).one()
    files = () if row.status == QUARANTINED else _files(conn, project)
    body = project_json(
        row.key, row.serial, row.status, row.status_reason, _versions(files), [f for _, f in files]
    )
    html = project_html(row.key, row.status, row.status_reason, [f for _, f in files])
    was = conn.execute(sa.select(pages.c.private).where(pages.c.key == row.key)).scalar_one_or_none()
    _put(conn, row.key, body, html, row.serial, row.owner, bool(row.private), gone=False)
    if was is None or bool(was) != bool(row.private):
        touch_root(conn, row.serial)


def write_tombstone(conn: sa.Connection, key: str, owner: str, serial: int) -> None:
    """The page of a deleted project: there is none, and nobody is asked for another."""
    _put(conn, key, b"", b"", serial, owner, False, gone=True)
    touch_root(conn, serial)


def touch_root(conn: sa.Connection, serial: int) -> None:
    """Note that the list of projects changed."""
    values = {"value": str(serial)}
    if conn.execute(facts.update().where(facts.c.name == ROOT_FACT).values(values)).rowcount == 0:
        conn.execute(facts.insert().values(name=ROOT_FACT, **values))


def _put(
    conn: sa.Connection,
    key: str,
    body: bytes,
    html: bytes,
    serial: int,
    owner: str,
    private: bool,
    *,
    gone: bool,
) -> None:
    values: dict[str, Any] = {
        "etag": hashlib.sha256(body + html + f"{owner}\0{private}\0{gone}".encode()).hexdigest()[:40],
        "json": body,
        # A fixed time, so that equal pages are equal bytes.
        "json_gzip": gzip.compress(body, 6, mtime=0),
        "html": html,
        "serial": serial,
        "owner": owner,
        "private": private,
        "gone": gone,
    }
    if conn.execute(pages.update().where(pages.c.key == key).values(values)).rowcount == 0:
        conn.execute(pages.insert().values(key=key, **values))


def _files(conn: sa.Connection, project: int) -> list[tuple[str, PageFile]]:
    """(version, file) in the order of versions."""
    rows = conn.execute(
        sa.select(
            package_releases.c.version,
            package_releases.c.yanked_at,
            package_releases.c.yanked_reason,
            package_files.c.filename,
            package_files.c.sha256,
            package_files.c.size,
            package_files.c.requires_python,
            package_files.c.uploaded_at,
            package_files.c.metadata_sha256,
        )
        .join(package_releases, package_releases.c.id == package_files.c.release_id)
        .where(package_files.c.project_id == project, package_files.c.deleted_at.is_(None))
    ).all()
    found = [
        (
            row.version,
            PageFile(
                row.filename,
                row.sha256,
                row.size,
                row.requires_python,
                # PEP 700: to the second or with six digits.
                row.uploaded_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                row.metadata_sha256,
                None if row.yanked_at is None else (row.yanked_reason or ""),
            ),
        )
        for row in rows
    ]
    return sorted(found, key=lambda item: (Version(item[0]), item[1].filename))


def _versions(files: list[tuple[str, PageFile]] | tuple[()]) -> list[str]:
    return list(dict.fromkeys(version for version, _ in files))


class PageReader:
    """Pages by normalised name. Nothing is written, and what is in memory is used only while it is true.

    SQLite counts commits: while the number stands, no page changed. When it moved, and with PostgreSQL always, one
    SELECT of the page's ETag decides.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[int, Page]] = OrderedDict()
        self._weight = 0
        self._reads = QuickReads(db) if db.sqlite else None
        #: Whether ``get`` takes microseconds, so that it may be called on the event loop.
        self.quick = db.sqlite

    def get(self, key: str) -> Page | None:
        """The page, None when the name is not known here."""
        if self._reads is not None:
            return self._get_quick(self._reads, key)
        with self._db.read() as conn:
            return self._get(conn, key)

    def _get_quick(self, reads: QuickReads, key: str) -> Page | None:
        # Before the page: what is committed between the two makes the next request look again.
        now = reads.version()
        kept = self._kept.get(key)
        if kept is not None:
            if kept[0] == now:
                return kept[1]
            row = reads.row("SELECT etag, serial FROM pages WHERE key = ?", (key,))
            if row == (kept[1].etag, kept[1].serial):
                return self._keep(key, now, kept[1])
        row = reads.row(f"SELECT {', '.join(_FIELDS)} FROM pages WHERE key = ?", (key,))
        if row is None:
            return self._keep(key, now, None)
        etag, body, packed, html, serial, owner, private, gone = row
        return self._keep(key, now, Page(etag, body, packed, html, serial, owner, bool(private), bool(gone)))

    def _get(self, conn: sa.Connection, key: str) -> Page | None:
        kept = self._kept.get(key)
        if kept is not None:
            row = conn.execute(
                sa.select(pages.c.etag, pages.c.serial).where(pages.c.key == key)
            ).one_or_none()
            if row is not None and tuple(row) == (kept[1].etag, kept[1].serial):
                return kept[1]
        full = conn.execute(
            sa.select(*(pages.c[name] for name in _FIELDS)).where(pages.c.key == key)
        ).one_or_none()
        return self._keep(key, 0, None if full is None else Page(**full._mapping))

    def _keep(self, key: str, version: int, page: Page | None) -> Page | None:
        with self._lock:
            old = self._kept.pop(key, None)
            if old is not None:
                self._weight -= old[1].weight
            if page is not None:
                self._kept[key] = (version, page)
                self._weight += page.weight
            while self._weight > CACHE_BYTES and len(self._kept) > 1:
                _, (_, dropped) = self._kept.popitem(last=False)
                self._weight -= dropped.weight
        return page
