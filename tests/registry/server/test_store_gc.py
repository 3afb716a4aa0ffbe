"""Collections: what is referred to stays whatever happens meanwhile; what is not goes when it is old."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import hub_uploads
import pytest
import sqlalchemy as sa
from stored_world import commit, make_repo, read_all

from llmasos.errors import EnvironmentProblem
from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables import metadata
from llmasos_registry.server.db.tables_hub import commits
from llmasos_registry.server.db.tables_store import blobs, git_blobs, git_trees, repo_blobs
from llmasos_registry.server.store import gc
from llmasos_registry.server.store.backup import maintenance
from llmasos_registry.server.store.blobs import record_blob
from llmasos_registry.server.store.filesystem import FileStore
from llmasos_registry.server.store.gc import Collected, collect
from llmasos_registry.server.store.roots import REFERENCES

OPERATOR = Caller(name="operator:test")


def age(app: Any, days: float = 3) -> None:
    """Make everything that is there older."""
    past = utcnow() - timedelta(days=days)
    with app.db.write() as conn:
        conn.execute(blobs.update().values(touched_at=past))
        conn.execute(commits.update().values(created_at=past))
    for path in app.registry.settings.data.rglob("*"):
        if path.is_file() and "blobs" in path.parts:
            os.utime(path, (past.timestamp(), past.timestamp()))


def count(app: Any, table: sa.Table) -> int:
    with app.db.read() as conn:
        return int(conn.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def run(app: Any, **options: Any) -> Collected:
    return collect(app.registry, OPERATOR, now=utcnow(), **options)


@pytest.fixture
def world(app: Any) -> Any:
    """A model with two commits on main, a tag, and a branch of its own."""
    token = app.user("ann")
    make_repo(app, token, "m")
    commit(
        app, token, "ann/m", {"README.md": b"one", "sub/deep/a.txt": b"a", "gone.txt": b"only in the first"}
    )
    assert app.post("/api/models/ann/m/tag/main", token, json={"tag": "v1"}).status_code in (200, 201)
    commit(app, token, "ann/m", {"README.md": b"two", "gone.txt": None})
    assert app.post("/api/models/ann/m/branch/side", token, json={}).status_code in (200, 201)
    commit(app, token, "ann/m", {"side.txt": b"only on the side"}, "side")
    app.token = token
    return app


def test_everything_that_a_ref_reaches_stays(world: Any) -> None:
    before = {rev: read_all(world, world.token, "ann/m", rev) for rev in ("main", "v1", "side")}
    age(world)
    found = run(world)
    assert (found.commits, found.git_trees, found.git_blobs, found.blobs) == (0, 0, 0, 0)
    assert found.kept == len(list(world.registry.store.walk()))
    assert {rev: read_all(world, world.token, "ann/m", rev) for rev in before} == before


def test_a_deleted_branch_goes_when_it_is_old(world: Any) -> None:
    digest = hashlib.sha256(b"only on the side").hexdigest()
    assert world.delete("/api/models/ann/m/branch/side", world.token).status_code in (200, 204)
    assert run(world).blobs == 0  # young
    assert world.registry.store.exists(digest)
    age(world)
    dry = run(world, dry_run=True)
    assert (dry.commits, dry.git_blobs, dry.blobs, dry.bytes) == (1, 1, 1, 16)
    assert world.registry.store.exists(digest)
    wet = run(world)
    assert (wet.commits, wet.git_trees, wet.git_blobs, wet.blobs) == (1, dry.git_trees, 1, 1)
    assert not world.registry.store.exists(digest)
    assert read_all(world, world.token, "ann/m") == {
        "README.md": b"two",
        "sub/deep/a.txt": b"a",
    }
    # And it can come again.
    commit(world, world.token, "ann/m", {"again.txt": b"only on the side"})
    assert read_all(world, world.token, "ann/m")["again.txt"] == b"only on the side"


def test_a_deleted_repository_goes(world: Any) -> None:
    answer = world.call("DELETE", "/api/repos/delete", world.token, json={"name": "m", "organization": "ann"})
    assert answer.status_code == 200
    age(world)
    found = run(world)
    assert found.kept == 0
    assert found.blobs > 0
    for table in (blobs, git_blobs, git_trees, commits, repo_blobs):
        assert count(world, table) == 0, table.name
    assert list(world.registry.store.walk()) == []


def test_bytes_without_a_row_go_when_they_are_old(app: Any) -> None:
    stray = app.registry.store.put(b"sent, and then the line was cut")
    assert run(app).blobs == 0
    age(app)
    assert run(app).blobs == 1
    assert not app.registry.store.exists(stray.sha256)


def test_an_uploaded_blob_without_a_commit_stays_for_the_grace_period(app: Any) -> None:
    stored = app.registry.store.put(b"uploaded")
    with app.db.write() as conn:
        record_blob(conn, stored)
    assert run(app).blobs == 0
    age(app)
    found = run(app)
    assert (found.blobs, found.bytes) == (1, 8)
    assert count(app, blobs) == 0


def test_bytes_written_again_during_the_sweep_stay(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = app.registry.store
    stored = store.put(b"twice")
    with app.db.write() as conn:
        record_blob(conn, stored)
    age(app)
    discard = store.discard

    def meanwhile(digest: str, before: Any) -> bool:
        # Somebody sends the same bytes between the row's end and the bytes'.
        again = store.put(b"twice")
        with app.db.write() as conn:
            record_blob(conn, again)
        return bool(discard(digest, before))

    monkeypatch.setattr(type(store), "discard", lambda self, digest, before: meanwhile(digest, before))
    run(app)
    assert b"".join(store.pieces(stored.sha256)) == b"twice"
    assert count(app, blobs) == 1


def test_discarding_never_loses_what_is_being_written(tmp_path: Path) -> None:
    store, data = FileStore(tmp_path), b"contended"
    digest = store.put(data).sha256
    lost: list[int] = []
    stop = threading.Event()

    def sweep() -> None:
        while not stop.is_set():
            store.discard(digest, utcnow() - timedelta(days=1))

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    past = (utcnow() - timedelta(days=3)).timestamp()
    for n in range(60):
        with contextlib.suppress(FileNotFoundError):
            os.utime(store.place(digest), (past, past))
        store.put(data)
        # Written just now, so it is there. A sweep that moved it aside puts it back in a moment.
        deadline = time.monotonic() + 5
        while not store.exists(digest) and time.monotonic() < deadline:
            pass
        if not store.exists(digest):
            lost.append(n)
    stop.set()
    sweeper.join()
    assert lost == []
    assert store.exists(digest)


def test_commits_during_the_mark_keep_what_they_name(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that names an object, dead until then, between the mark and the sweep."""
    assert world.delete("/api/models/ann/m/branch/side", world.token).status_code in (200, 204)
    age(world)
    unmarked = gc._unmarked
    happened = []

    def and_then(conn: Any, marked: Any) -> Any:
        dead = unmarked(conn, marked)
        conn.rollback()
        happened.append(commit(world, world.token, "ann/m", {"side.txt": b"only on the side"}))
        return dead

    monkeypatch.setattr(gc, "_unmarked", and_then)
    run(world)
    assert happened
    assert read_all(world, world.token, "ann/m")["side.txt"] == b"only on the side"


def test_abandoned_parts_go_and_those_of_a_running_upload_stay(app: Any) -> None:
    old = (utcnow() - timedelta(days=3)).timestamp()
    for folder in (app.registry.store.staging("abandoned"), app.registry.store.staging("xet")):
        os.utime(folder, (old, old))
    young = app.registry.store.staging("young")
    assert run(app).temporary == 1
    assert young.is_dir()
    assert (app.registry.store.parts / "xet").is_dir()


def test_every_column_with_a_digest_of_a_blob_is_a_root() -> None:
    """A table that names blobs and is not listed would lose them."""
    known = {*REFERENCES, git_blobs.c.sha256, repo_blobs.c.sha256}
    named = {
        key.parent
        for table in metadata.tables.values()
        for key in table.foreign_keys
        if key.column.table is blobs
    }
    assert named == known


def test_a_collection_waits_for_backups(tmp_path: Path) -> None:
    def refused(alone: bool) -> None:
        with pytest.raises(EnvironmentProblem, match="under way"), maintenance(tmp_path, alone=alone):
            raise AssertionError

    with maintenance(tmp_path, alone=False), maintenance(tmp_path, alone=False):
        refused(alone=True)
    with maintenance(tmp_path, alone=True):
        refused(alone=False)
        refused(alone=True)


def test_a_file_that_need_not_be_sent_again_stays_until_its_commit(app: Any) -> None:
    """Between the answer of an LFS batch that leaves a file out and the commit that names it, a collection may run."""
    token = app.user("ann")
    hub_uploads.make_repo(app, token, "ann/m")
    data = os.urandom(2000)
    hub_uploads.send(app, token, "ann/m", data)
    age(app)
    answer = hub_uploads.batch(app, token, "ann/m", data).json()["objects"][0]
    assert "actions" not in answer
    assert "error" not in answer
    run(app)
    done = hub_uploads.commit(app, token, "ann/m", hub_uploads.header(), hub_uploads.large("w.bin", data))
    assert done.status_code == 200, done.text
    assert app.get("/ann/m/resolve/main/w.bin", token).content == data
