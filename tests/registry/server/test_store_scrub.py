"""Scrubbing: other bytes, missing bytes and untrue ids are found; a blob that is sent again is whole again."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import sqlalchemy as sa
from stored_world import commit, make_repo, read_all

from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.db.tables_api import audit_log
from llmasos_registry.server.db.tables_store import git_blobs, git_trees
from llmasos_registry.server.store.scrub import Scrubbed, scrub

CONTENT = b"the weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def run(app: Any) -> Scrubbed:
    return scrub(app.registry, Caller(name="operator:test"), lambda count: None)


@pytest.fixture
def world(app: Any) -> Any:
    app.token = app.user("ann")
    make_repo(app, app.token, "m")
    commit(app, app.token, "ann/m", {"w.txt": CONTENT})
    return app


def test_a_whole_store_is_clean(world: Any) -> None:
    found = run(world)
    assert found.clean
    assert found.blobs == len(list(world.registry.store.walk()))
    assert found.git_objects > 0


def test_a_changed_blob_is_taken_out_of_service_and_can_come_again(world: Any) -> None:
    place = world.registry.store.place(DIGEST)
    place.write_bytes(b"the weighty")
    found = run(world)
    assert found.corrupt == [DIGEST]
    assert not found.clean
    answer = world.get("/ann/m/resolve/main/w.txt", world.token)
    assert answer.status_code == 500
    assert "missing from the store" in answer.headers["X-Error-Message"]
    assert (world.registry.store.quarantined / DIGEST).read_bytes() == b"the weighty"
    with world.db.read() as conn:
        actions = conn.execute(sa.select(audit_log.c.action, audit_log.c.target)).all()
    assert ("registry.quarantine", DIGEST) in [tuple(row) for row in actions]
    commit(world, world.token, "ann/m", {"copy.txt": CONTENT})
    assert read_all(world, world.token, "ann/m")["w.txt"] == CONTENT
    assert run(world).clean


def test_missing_bytes_are_reported(world: Any) -> None:
    world.registry.store.place(DIGEST).unlink()
    found = run(world)
    assert (found.missing, found.corrupt) == ([DIGEST], [])


def test_git_ids_are_checked(world: Any) -> None:
    with world.db.write() as conn:
        tree = conn.execute(sa.select(git_trees.c.oid)).scalars().first()
        conn.execute(
            git_trees.update().where(git_trees.c.oid == tree).values(data=b"100644 x\0" + b"\1" * 20)
        )
        conn.execute(git_blobs.insert().values(oid="0" * 40, sha256=DIGEST, size=len(CONTENT), lfs=False))
        conn.execute(git_blobs.insert().values(oid="1" * 40, sha256=DIGEST, size=len(CONTENT), lfs=True))
    assert sorted(run(world).untrue) == sorted([f"tree {tree}", "blob " + "0" * 40, "blob " + "1" * 40])
