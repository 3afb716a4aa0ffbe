"""Backups while the registry serves: a snapshot of the database first, then every blob that it names.

Blobs never change and a collection waits, so what the snapshot names is there to be copied: as a hard link where the
backup lies in the same file system, else byte by byte. A backup is a folder: ``registry.sqlite``, ``blobs/``,
``registry.toml``, and ``backup.json``, which is written last. It is SQLite also where the registry uses PostgreSQL, so
a registry can move from one to the other.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from llmasos import __version__
from llmasos.errors import EnvironmentProblem, InputError
from llmasos_registry.server.accounts.audit import audit
from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.context import Registry
from llmasos_registry.server.db.engine import Database, utcnow
from llmasos_registry.server.db.migrate import bring_up_to_date
from llmasos_registry.server.db.tables import metadata
from llmasos_registry.server.db.tables_accounts import accounts, facts
from llmasos_registry.server.db.tables_store import blobs, uploads
from llmasos_registry.server.hub.xet_index import new_epochs
from llmasos_registry.server.settings import FILE, Settings
from llmasos_registry.server.store.blobs import PIECE, BlobMissing, DigestMismatch

#: Written last: a folder without it is no backup.
MANIFEST = "backup.json"
DATABASE = "registry.sqlite"
FORMAT = 1
#: Held by backups together, by a collection alone.
LOCK = "maintenance.lock"
ROWS = 1000
Advance = Callable[[int], None]


@contextmanager
def maintenance(folder: Path, *, alone: bool) -> Iterator[None]:
    """Keep collections and backups apart. Raises EnvironmentProblem when the other one is at work."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            other = "a backup or another collection" if alone else "a collection"
            raise EnvironmentProblem(
                f"{other} of {folder} is under way", hint="try again when it ended"
            ) from None
        yield
    finally:
        os.close(handle)


def back_up(registry: Registry, target: Path, advance: Advance) -> dict[str, Any]:
    """Write a backup into a new or empty folder; the facts of its manifest. ``advance`` is called with bytes read.

    Every blob is hashed on the way. One that is missing or has other bytes is named in the manifest under ``damaged``,
    and left out. Raises InputError when the folder is not empty.
    """
    _check_empty(target)
    (target / "blobs" / "sha256").mkdir(parents=True, mode=0o700, exist_ok=True)
    os.chmod(target, 0o700)
    snapshot = target / DATABASE
    if registry.db.sqlite:
        _snapshot_sqlite(Path(str(registry.db.url.database)), snapshot)
    else:
        _copy_database(registry.db, _new_sqlite(snapshot))
    os.chmod(snapshot, 0o600)
    count = size = 0
    damaged: list[str] = []
    copy = Database(f"sqlite:///{snapshot}")
    with copy.read() as conn:
        for row in conn.execute(sa.select(blobs.c.sha256, blobs.c.size).order_by(blobs.c.sha256)):
            place = target / "blobs" / "sha256" / row.sha256[:2] / row.sha256
            place.parent.mkdir(exist_ok=True)
            if _take(registry, row.sha256, place, advance):
                count, size = count + 1, size + row.size
            else:
                damaged.append(row.sha256)
        serial = conn.execute(sa.select(facts.c.value).where(facts.c.name == "serial")).scalar_one()
    copy.close()
    settings = registry.settings.data / FILE
    if settings.is_file():
        shutil.copy2(settings, target / FILE)
    # Back to one file: the copy was opened in WAL mode.
    with closing(sqlite3.connect(snapshot)) as conn_:
        conn_.execute("PRAGMA journal_mode=DELETE")
    known = {
        "format": FORMAT,
        "version": __version__,
        "created_at": utcnow().isoformat(),
        "serial": int(serial),
        "blobs": count,
        "bytes": size,
        "damaged": damaged,
        "database_sha256": _digest(snapshot),
    }
    os.sync()
    draft = target / f"{MANIFEST}.part"
    draft.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    os.replace(draft, target / MANIFEST)
    os.sync()
    return known


def _check_empty(folder: Path, beside: str = "") -> None:
    if folder.exists() and (not folder.is_dir() or any(entry.name != beside for entry in folder.iterdir())):
        raise InputError(f"{folder} is not empty", hint="name a new folder")


def _snapshot_sqlite(source: Path, target: Path) -> None:
    """SQLite's online backup: a consistent copy while others write. Source: sqlite.org/backup.html."""
    with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(target)) as copy:
        live.backup(copy)


def _new_sqlite(path: Path) -> Database:
    database = Database(f"sqlite:///{path}")
    bring_up_to_date(database)
    return database


def _copy_database(source: Database, target: Database) -> None:
    """All rows from one snapshot of a database into another that has the tables and no rows; closes the target."""
    with source.engine.connect() as reading:
        if not source.sqlite:
            reading = reading.execution_options(isolation_level="REPEATABLE READ")
        with target.write() as writing:
            for table in metadata.sorted_tables:
                rows = reading.execution_options(yield_per=ROWS).execute(sa.select(table))
                for batch in rows.mappings().partitions(ROWS):
                    writing.execute(table.insert(), [dict(row) for row in batch])
            if not target.sqlite:
                _set_sequences(writing)
        reading.rollback()
    target.close()


def _set_sequences(conn: sa.Connection) -> None:
    """PostgreSQL's counters go on after the highest number that was copied."""
    for table in metadata.sorted_tables:
        column = table.autoincrement_column
        if column is None:
            continue
        name = conn.execute(
            sa.select(sa.func.pg_get_serial_sequence(table.name, column.name))
        ).scalar_one_or_none()
        highest = conn.execute(sa.select(sa.func.max(column))).scalar_one_or_none()
        if name is not None and highest is not None:
            conn.execute(sa.select(sa.func.setval(name, highest)))


def _take(registry: Registry, digest: str, place: Path, advance: Advance) -> bool:
    """One blob into a backup, as a link or a copy; whether its bytes are what its name says."""
    source = registry.store.path(digest)
    if source is not None:
        with suppress(OSError):
            os.link(source, place)
    whole = hashlib.sha256()
    try:
        if place.exists():
            for piece in _pieces(place):
                whole.update(piece)
                advance(len(piece))
        else:
            with open(place, "xb") as file:
                for piece in registry.store.pieces(digest):
                    file.write(piece)
                    whole.update(piece)
                    advance(len(piece))
    except BlobMissing:
        place.unlink(missing_ok=True)
        return False
    if whole.hexdigest() != digest:
        place.unlink()
        return False
    return True


def read_manifest(backup: Path) -> dict[str, Any]:
    """The manifest of a backup. Raises InputError."""
    try:
        known = json.loads((backup / MANIFEST).read_text(encoding="utf-8"))
        form = known["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{backup} is no finished backup", hint=f"a backup has a {MANIFEST}, which is written last"
        ) from error
    if form != FORMAT:
        raise InputError(
            f"{backup} has format {form}; this version reads {FORMAT}", hint="use a newer llmasos"
        )
    return dict(known)


def restore(
    backup: Path,
    settings: Settings,
    open_registry: Callable[[Settings], Registry],
    caller: Caller,
    advance: Advance,
) -> dict[str, Any]:
    """Make the registry of ``settings`` from a backup; the facts of its manifest. ``advance`` is called with bytes read.

    Raises InputError when there is a registry already, or something of the backup is not what its manifest or its name
    says; the database comes last, so that nothing serves half of it.
    """
    known = read_manifest(backup)
    _check_empty(settings.data, beside=FILE)
    found = _digest(backup / DATABASE)
    if found != known["database_sha256"]:
        raise InputError(
            f"the database of the backup was changed: sha256 {found}, the manifest says {known['database_sha256']}",
            hint="take another backup",
        )
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (backup / FILE).is_file() and not (settings.data / FILE).exists():
        shutil.copy2(backup / FILE, settings.data / FILE)
    draft = settings.data / f"{DATABASE}.part"
    shutil.copyfile(backup / DATABASE, draft)
    os.chmod(draft, 0o600)
    copy = Database(f"sqlite:///{draft}")
    if settings.database is not None:
        _check_no_registry(settings.database)
    from llmasos_registry.server.serve import open_store

    store = open_store(settings)
    with copy.read() as conn:
        wanted = [row.sha256 for row in conn.execute(sa.select(blobs.c.sha256).order_by(blobs.c.sha256))]
    left_out = set(known["damaged"])
    for digest in wanted:
        if digest in left_out:
            continue
        place = backup / "blobs" / "sha256" / digest[:2] / digest
        try:
            with store.writer() as writer:
                for piece in _pieces(place):
                    writer.write(piece)
                    advance(len(piece))
                writer.commit(digest)
        except FileNotFoundError:
            raise InputError(f"the backup lacks the blob {digest}", hint="take another backup") from None
        except DigestMismatch as error:
            raise InputError(
                f"a blob of the backup was changed: {error}", hint="take another backup"
            ) from None
    copy.close()
    if settings.database is None:
        with closing(sqlite3.connect(draft)) as conn_:
            conn_.execute("PRAGMA journal_mode=DELETE")
        os.replace(draft, Database.file_of(settings.data))
        os.sync()
    else:
        fresh = Database(settings.database)
        bring_up_to_date(copy)  # an older backup
        bring_up_to_date(fresh)
        _copy_database(copy, fresh)
        copy.close()
        for path in settings.data.glob(f"{draft.name}*"):
            path.unlink()
    registry = open_registry(settings)
    with registry.db.write() as conn:
        # Parts of uploads are not in a backup, and Xet clients may remember what was sent after it.
        conn.execute(uploads.delete())
        new_epochs(conn)
        audit(
            conn,
            caller,
            "registry.restore",
            "",
            {"created_at": known["created_at"], "serial": known["serial"]},
        )
    registry.db.close()
    return known


def _check_no_registry(url: str) -> None:
    database = Database(url)
    try:
        with database.read() as conn:
            if (
                sa.inspect(conn).has_table(accounts.name)
                and conn.execute(sa.select(accounts.c.id).limit(1)).first()
            ):
                raise InputError("there is a registry in this database", hint="name an empty database")
    finally:
        database.close()


def _pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _digest(path: Path) -> str:
    whole = hashlib.sha256()
    try:
        for piece in _pieces(path):
            whole.update(piece)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return whole.hexdigest()
