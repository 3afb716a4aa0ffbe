"""Backups: consistent while commits go on, restored on either database, refused when anything was changed."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from stored_world import commit, make_repo, read_all

from llmasos.errors import InputError
from llmasos_registry.server.accounts.audit_chain import verify_chain
from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.db.tables import metadata
from llmasos_registry.server.db.tables_api import audit_log
from llmasos_registry.server.serve import open_registry
from llmasos_registry.server.settings import Settings
from llmasos_registry.server.store.backup import back_up, read_manifest, restore
from llmasos_registry.server.store.scrub import scrub

OPERATOR = Caller(name="operator:test")
FILES = {"README.md": b"one", "sub/a.txt": b"a", "b.txt": b"bb"}


def quiet(count: int) -> None:
    """No progress."""


@pytest.fixture
def world(app: Any) -> Any:
    app.token = app.user("ann")
    make_repo(app, app.token, "m")
    commit(app, app.token, "ann/m", dict(FILES))
    return app


@pytest.fixture
def empty_database(request: pytest.FixtureRequest, database: str | None) -> str | None:
    """Another database of the kind that the test runs on."""
    if database is None:
        return None
    server = request.getfixturevalue("postgres")
    return str(server.empty(f"restored_{database.partition('?')[0].rpartition('/')[2]}"))


def rows(db: Any) -> dict[str, list[Any]]:
    with db.read() as conn:
        return {
            # PostgreSQL keeps JSON objects in an order of its own.
            table.name: sorted(
                tuple(json.dumps(value, sort_keys=True, default=repr) for value in row)
                for row in conn.execute(sa.select(table))
            )
            for table in metadata.sorted_tables
            if table.name not in ("audit_log", "uploads", "xet_accounts")
        }


def test_a_restored_registry_is_the_same(
    world: Any, make_app: Any, tmp_path: Path, empty_database: str | None
) -> None:
    backup = tmp_path / "backup"
    known = back_up(world.registry, backup, quiet)
    assert known["damaged"] == []
    assert read_manifest(backup) == known
    before = rows(world.db)
    data = tmp_path / "restored"
    restore(backup, Settings(data=data, database=empty_database), open_registry, OPERATOR, quiet)
    again = make_app(data=data, database=empty_database)
    assert rows(again.db) == before
    assert read_all(again, world.token, "ann/m") == FILES
    assert scrub(again.registry, OPERATOR, quiet).clean
    with again.db.read() as conn:
        lines, _, faults = verify_chain(conn, quiet)
    assert (lines > 0, faults) == (True, [])
    # Counters go on behind the highest number.
    again.user("bob")
    make_repo(again, world.token, "second")
    commit(again, world.token, "ann/m", {"c.txt": b"c"})


def test_a_registry_moves_from_one_database_to_the_other(
    world: Any, database: str | None, make_app: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    back_up(world.registry, tmp_path / "backup", quiet)
    other = None if database else request.getfixturevalue("postgres").empty("moved")
    data = tmp_path / "moved"
    restore(tmp_path / "backup", Settings(data=data, database=other), open_registry, OPERATOR, quiet)
    moved = make_app(data=data, database=other)
    assert rows(moved.db) == rows(world.db)
    commit(moved, world.token, "ann/m", {"c.txt": b"c"})
    assert read_all(moved, world.token, "ann/m") == FILES | {"c.txt": b"c"}


def test_a_backup_is_consistent_while_commits_go_on(world: Any, make_app: Any, tmp_path: Path) -> None:
    stop, done = threading.Event(), []

    def write() -> None:
        while not stop.is_set():
            n = len(done)
            done.append(commit(world, world.token, "ann/m", {"n.txt": b"%d" % n, f"f{n}.txt": b"x%d" % n}))

    writer = threading.Thread(target=write)
    writer.start()
    while len(done) < 2:
        pass
    known = back_up(world.registry, tmp_path / "backup", quiet)
    stop.set()
    writer.join()
    assert known["damaged"] == []
    restore(tmp_path / "backup", Settings(data=tmp_path / "new"), open_registry, OPERATOR, quiet)
    again = make_app(data=tmp_path / "new", database=None)
    assert scrub(again.registry, OPERATOR, quiet).clean
    files = read_all(again, world.token, "ann/m")
    last = int(files["n.txt"])
    assert last >= 1
    assert {name for name in files if name.startswith("f")} == {f"f{n}.txt" for n in range(last + 1)}


def test_blobs_are_links_where_they_can_be(world: Any, tmp_path: Path) -> None:
    back_up(world.registry, tmp_path / "backup", quiet)
    digest, _, _ = next(world.registry.store.walk())
    copy = tmp_path / "backup" / "blobs" / "sha256" / digest[:2] / digest
    assert copy.samefile(world.registry.store.place(digest))


def test_a_corrupt_blob_is_named_and_left_out(world: Any, make_app: Any, tmp_path: Path) -> None:
    digest, _, _ = next(world.registry.store.walk())
    world.registry.store.place(digest).write_bytes(b"rot")
    known = back_up(world.registry, tmp_path / "backup", quiet)
    assert known["damaged"] == [digest]
    restore(tmp_path / "backup", Settings(data=tmp_path / "new"), open_registry, OPERATOR, quiet)
    again = make_app(data=tmp_path / "new", database=None)
    assert scrub(again.registry, OPERATOR, quiet).missing == [digest]


def spoil_blob(backup: Path) -> None:
    blob = next(path for path in (backup / "blobs").rglob("*") if path.is_file())
    blob.unlink()
    blob.write_bytes(b"other")


def lose_blob(backup: Path) -> None:
    next(path for path in (backup / "blobs").rglob("*") if path.is_file()).unlink()


def spoil_database(backup: Path) -> None:
    with open(backup / "registry.sqlite", "r+b") as file:
        file.seek(5000)
        file.write(b"\xff")


def spoil_format(backup: Path) -> None:
    manifest = json.loads((backup / "backup.json").read_text())
    (backup / "backup.json").write_text(json.dumps({**manifest, "format": 99}))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_blob, "a blob of the backup was changed: expected sha256"),
        (lose_blob, "lacks the blob"),
        (spoil_database, "the database of the backup was changed"),
        (spoil_format, "has format 99"),
        (lambda backup: (backup / "backup.json").unlink(), "no finished backup"),
        (lambda backup: (backup / "registry.sqlite").unlink(), "cannot read"),
    ],
)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_changed_backup_is_refused(world: Any, tmp_path: Path, spoil: Any, words: str) -> None:
    back_up(world.registry, tmp_path / "backup", quiet)
    spoil(tmp_path / "backup")
    with pytest.raises(InputError, match=words):
        restore(tmp_path / "backup", Settings(data=tmp_path / "new"), open_registry, OPERATOR, quiet)
    assert not (tmp_path / "new" / "registry.sqlite").exists()


def test_nothing_is_written_over(world: Any, tmp_path: Path, database: str | None) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(InputError, match="is not empty"):
        back_up(world.registry, tmp_path / "full", quiet)
    back_up(world.registry, tmp_path / "backup", quiet)
    with pytest.raises(InputError, match="is not empty"):
        restore(tmp_path / "backup", Settings(data=tmp_path / "full"), open_registry, OPERATOR, quiet)
    if database is not None:
        with pytest.raises(InputError, match="there is a registry in this database"):
            restore(
                tmp_path / "backup",
                Settings(data=tmp_path / "new", database=database),
                open_registry,
                OPERATOR,
                quiet,
            )


def test_a_line_that_was_changed_or_taken_out_of_the_audit_log_shows(world: Any) -> None:
    def faults() -> list[str]:
        with world.db.read() as conn:
            return verify_chain(conn, quiet)[2]

    assert faults() == []
    with world.db.read() as conn:
        first, second = list(conn.execute(sa.select(audit_log).order_by(audit_log.c.id).limit(2)))
    with world.db.write() as conn:
        conn.execute(audit_log.update().where(audit_log.c.id == first.id).values(actor="mallory"))
    assert len(faults()) == 1
    assert f"line {first.id} " in faults()[0]
    with world.db.write() as conn:
        conn.execute(audit_log.update().where(audit_log.c.id == first.id).values(actor=first.actor))
        conn.execute(audit_log.delete().where(audit_log.c.id == second.id))
    assert len(faults()) == 1


def test_a_bucket_is_backed_up_and_restored(make_app: Any, make_bucket: Any, tmp_path: Path) -> None:
    source, target = make_bucket("a"), make_bucket("b")
    app = make_app(storage=source.address, storage_options=source.options, database=None)
    token = app.user("ann")
    make_repo(app, token, "m")
    commit(app, token, "ann/m", dict(FILES))
    back_up(app.registry, tmp_path / "backup", quiet)
    settings = Settings(data=tmp_path / "new", storage=target.address, storage_options=target.options)
    restore(tmp_path / "backup", settings, open_registry, OPERATOR, quiet)
    assert [row[:2] for row in target.walk()] == [row[:2] for row in source.walk()]
    shutil.rmtree(tmp_path / "new")
