"""Xet uploads: files out of xorbs, what a client remembers, and whose chunks are whose."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hub_uploads import Xet, chunk, commit, large, make_repo, paths, sha256, shard, xorb_name

from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_store import blobs, xet_accounts, xet_places, xet_xorbs
from llmasos_registry.server.hub import signed_claims
from llmasos_registry.server.hub.xet_index import drop_idle, remove_staged, sweep_staging

CHUNKS = [bytes([n]) * (1000 + n) for n in range(5)]


@pytest.fixture
def ann(app: Any) -> str:
    token: str = app.user("ann")
    make_repo(app, token, "ann/m")
    return token


def staged(app: Any) -> list[str]:
    return sorted(os.listdir(app.registry.settings.data / "staging" / "xet"))


def size(*chunks: bytes) -> int:
    return sum(len(c) for c in chunks)


@pytest.mark.parametrize("scheme", [0, 2])
def test_a_file_out_of_two_xorbs(app: Any, ann: str, scheme: int) -> None:
    xet = Xet(app, ann, "ann/m")
    one, two = xet.xorb(CHUNKS[:3], scheme), xet.xorb(CHUNKS[3:], scheme)
    assert len(staged(app)) == 2
    terms = [(two, 1, 2, len(CHUNKS[4])), (one, 0, 3, size(*CHUNKS[:3])), (two, 0, 1, len(CHUNKS[3]))]
    data = CHUNKS[4] + b"".join(CHUNKS[:3]) + CHUNKS[3]
    answer = xet.shard((sha256(data), terms))
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"result": 1}
    # Every chunk is in a blob now, so nothing stays twice.
    assert staged(app) == []
    assert commit(app, ann, "ann/m", large("w", data)).status_code == 200
    assert app.get("/ann/m/resolve/main/w", ann).content == data
    assert "X-Xet-Hash" not in app.call("HEAD", "/ann/m/resolve/main/w", ann).headers
    assert "xetHash" not in paths(app, ann, "ann/m")["w"]


def test_chunks_are_found_after_their_xorb_is_gone(app: Any, ann: str) -> None:
    xet = Xet(app, ann, "ann/m")
    name = xet.xorb(CHUNKS)
    first = CHUNKS[0] + CHUNKS[1]
    assert xet.shard((sha256(first), [(name, 0, 2, len(first))])).status_code == 200
    assert len(staged(app)) == 1
    rest = b"".join(CHUNKS[1:])
    assert xet.shard((sha256(rest), [(name, 1, 5, len(rest))])).status_code == 200
    assert staged(app) == []
    # Another repository, another order; the ranges run across both blobs.
    make_repo(app, ann, "ann/other")
    other = Xet(app, ann, "ann/other")
    assert other.path == xet.path
    whole = b"".join(CHUNKS)
    turned = CHUNKS[4] + CHUNKS[2] + whole
    terms = [(name, 4, 5, len(CHUNKS[4])), (name, 2, 3, len(CHUNKS[2])), (name, 0, 5, len(whole))]
    assert other.shard((sha256(whole), terms[2:]), (sha256(turned), terms)).status_code == 200
    assert commit(app, ann, "ann/other", large("w", whole), large("v", turned)).status_code == 200
    assert app.get("/ann/other/resolve/main/v", ann).content == turned
    with app.db.read() as conn:
        assert conn.execute(sa.select(sa.func.count()).select_from(xet_places)).scalar_one() <= len(CHUNKS)


def test_the_same_file_again_is_hashed_and_not_written(app: Any, ann: str) -> None:
    xet = Xet(app, ann, "ann/m")
    name = xet.xorb(CHUNKS)
    data = b"".join(CHUNKS)
    term = (name, 0, 5, len(data))
    assert xet.shard((sha256(data), [term])).status_code == 200
    place = app.registry.store.path(sha256(data))
    before = place.stat().st_ino
    assert xet.post(f"/v1/xorbs/default/{name}", chunk(b"other")).status_code == 400
    assert xet.shard((sha256(data), [term])).status_code == 200
    assert place.stat().st_ino == before
    answer = xet.post(f"/v1/xorbs/default/{name}", b"".join(chunk(c) for c in CHUNKS))
    assert answer.json() == {"was_inserted": False}
    # Claiming the digest of a file takes its bytes.
    fake = xet.shard((sha256(data), [(name, 0, 4, size(*CHUNKS[:4]))]))
    assert fake.status_code == 400
    assert "claims" in fake.json()["error"]


def test_nobody_builds_files_from_the_chunks_of_others(app: Any, ann: str) -> None:
    xet = Xet(app, ann, "ann/m")
    name = xet.xorb(CHUNKS)
    data = b"".join(CHUNKS)
    bob = app.user("bob")
    make_repo(app, bob, "bob/m")
    other = Xet(app, bob, "bob/m")
    answer = other.shard((sha256(data), [(name, 0, 5, len(data))]))
    assert answer.status_code == 400
    assert "was not sent by this account" in answer.json()["error"]
    # Nor with his token in her space.
    other.path, mine = xet.path, other.path
    assert other.shard((sha256(data), [(name, 0, 5, len(data))])).status_code == 401
    # After a refusal like that, his client starts without memory.
    assert Xet(app, bob, "bob/m").path != mine
    assert xet.shard((sha256(data), [(name, 0, 5, len(data))])).status_code == 200


def test_wrong_shards_leave_nothing(app: Any, ann: str) -> None:
    xet = Xet(app, ann, "ann/m")
    name = xet.xorb(CHUNKS)
    data = b"".join(CHUNKS)
    for body, says in (
        (b"", "empty"),
        (b"nonsense", "not a shard"),
        (shard(("0" * 64, [(name, 0, 5, len(data))])), sha256(data)),
        (shard((sha256(data), [(name, 0, 5, len(data) - 1)])), f"are not {len(data) - 1} bytes"),
        (shard((sha256(data), [(name, 0, 6, len(data))])), "are not"),
        (shard((sha256(data), [(name, 0, 5, len(data))]), end=b""), "no end"),
        (shard((sha256(data), [("0" * 64, 0, 5, len(data))])), "was not sent by this account"),
    ):
        answer = xet.post("/v1/shards", body)
        assert answer.status_code == 400, (body[:50], answer.text)
        assert says in answer.json()["error"]
    assert commit(app, ann, "ann/m", large("w", data)).status_code == 400
    assert os.listdir(app.registry.settings.data / "tmp") == []
    assert staged(app) == [f"{xet.path.split('/')[-1].split('-')[0]}-{name}"]


def test_wrong_xorbs_leave_nothing(app: Any, ann: str) -> None:
    xet = Xet(app, ann, "ann/m")
    name = xorb_name(CHUNKS)
    good = b"".join(chunk(c) for c in CHUNKS)
    for path, body, status in (
        (name, good[:-1], 400),
        (name, good + b"x", 400),
        (xorb_name(CHUNKS[:2]), good, 400),
        ("../../x", good, 404),
        ("A" * 64, good, 400),
        (name, b"", 400),
    ):
        assert xet.post(f"/v1/xorbs/default/{path}", body).status_code == status, path
    assert xet.post(f"/v1/xorbs/default/{name}", iter([bytes(66 << 20)])).status_code == 413
    assert staged(app) == []


def test_tokens(app: Any, ann: str) -> None:
    xet = Xet(app, ann, "ann/m")
    path = f"/v1/xorbs/default/{xorb_name(CHUNKS)}"
    body = b"".join(chunk(c) for c in CHUNKS)
    values = signed_claims.read(app.registry.secret, "xet-write", xet.token)
    old = signed_claims.sign(
        app.registry.secret, "xet-write", values["r"], values["t"], -1, account=values["account"]
    )
    for token in (old, ann, "nonsense", xet.token[:-1] + "~"):
        assert xet.post(path, body, token).status_code == 401, token
        assert xet.post("/v1/shards", shard(), token).status_code == 401
    assert app.post(xet.path + path, content=body).status_code == 401
    for name, token, status in (
        ("ann/m", None, 401),
        ("ann/m", app.user("bob"), 403),
        ("ann/m", app.user("ann", ("read",)), 403),
        ("ann/none", ann, 404),
    ):
        assert app.get(f"/api/models/{name}/xet-write-token/main", token).status_code == status
    answer = app.get("/api/models/ann/m/xet-write-token/main", ann)
    assert answer.headers["X-Xet-Access-Token"] == answer.json()["accessToken"]
    assert answer.headers["X-Xet-Cas-Url"] == answer.json()["casUrl"]
    assert answer.headers["X-Xet-Token-Expiration"] == str(answer.json()["exp"])
    app.call("DELETE", "/api/repos/delete", ann, json={"name": "m", "organization": "ann"})
    assert xet.post(path, body).status_code == 404


def test_what_is_not_there_is_not_found(app: Any, ann: str) -> None:
    xet = Xet(app, ann, "ann/m")
    for method, path in (
        ("GET", "/v1/chunks/default/" + "0" * 64),
        ("POST", "/v1/xorb-grants/default/" + "0" * 64),
        ("POST", "/v2/shards"),
        ("GET", "/v1/reconstructions/" + "0" * 64),
        ("POST", "/v1/telemetry"),
    ):
        assert app.call(method, xet.path + path, xet.token).status_code == 404


def test_quota(make_app: Any) -> None:
    app = make_app(quota=12_000)
    ann = app.user("ann")
    make_repo(app, ann, "ann/m")
    xet = Xet(app, ann, "ann/m")
    name = xet.xorb(CHUNKS)
    data = b"".join(CHUNKS)
    answer = xet.shard((sha256(data * 3), [(name, 0, 5, len(data))] * 3))
    assert answer.status_code in (403, 413)
    xet.xorb([b"a" * 9000])
    over = [b"b"]
    answer = xet.post(f"/v1/xorbs/default/{xorb_name(over)}", chunk(over[0]))
    assert answer.status_code in (403, 413)


def test_a_lost_xorb_makes_the_client_start_anew(app: Any, ann: str) -> None:
    xet = Xet(app, ann, "ann/m")
    name = xet.xorb(CHUNKS)
    folder = app.registry.settings.data / "staging" / "xet"
    for entry in folder.iterdir():
        entry.unlink()
    data = b"".join(CHUNKS)
    again = Xet(app, ann, "ann/m")
    assert again.path != xet.path
    assert again.shard((sha256(data), [(name, 0, 5, len(data))])).status_code == 400
    again.xorb(CHUNKS)
    # A session that began under the old address still ends well.
    assert xet.shard((sha256(data), [(name, 0, 5, len(data))])).status_code == 200


def test_rows_go_when_no_client_can_name_them(app: Any, ann: str) -> None:
    xet = Xet(app, ann, "ann/m")
    data = b"".join(CHUNKS)
    name = xet.xorb(CHUNKS)
    waiting = xet.xorb([b"waiting"])
    assert xet.shard((sha256(data), [(name, 0, 5, len(data))])).status_code == 200
    now = utcnow()

    def rows() -> set[str]:
        with app.db.read() as conn:
            return set(conn.execute(sa.select(xet_xorbs.c.hash)).scalars())

    with app.db.write() as conn:
        assert drop_idle(conn, now - timedelta(days=1)) == []
    assert rows() == {name, waiting}
    assert Xet(app, ann, "ann/m").path == xet.path
    # Named three weeks ago, by an account that is at work: the clients have forgotten it themselves.
    with app.db.write() as conn:
        conn.execute(
            xet_xorbs.update().where(xet_xorbs.c.hash == name).values(touched_at=now - timedelta(days=23))
        )
        assert drop_idle(conn, now - timedelta(days=1)) == []
        assert conn.execute(sa.select(xet_places)).all() == []
        # The file itself is a blob like any other.
        assert conn.execute(sa.select(blobs).where(blobs.c.sha256 == sha256(data))).one()
    assert rows() == {waiting}
    assert Xet(app, ann, "ann/m").path == xet.path
    # An account at rest: all goes, and its clients begin with a new address.
    with app.db.write() as conn:
        conn.execute(xet_accounts.update().values(active_at=now - timedelta(days=2)))
        files = drop_idle(conn, now - timedelta(days=1))
    remove_staged(app.registry.store, files)
    assert rows() == set()
    assert staged(app) == []
    assert Xet(app, ann, "ann/m").path != xet.path


def test_many_small_files_in_one_shard(app: Any, ann: str) -> None:
    xet = Xet(app, ann, "ann/m")
    chunks = [b"%d" % n for n in range(450)]
    name = xet.xorb(chunks)
    files = [(sha256(c), [(name, n, n + 1, len(c))]) for n, c in enumerate(chunks)]
    assert xet.shard(*files).status_code == 200
    assert staged(app) == []
    assert commit(app, ann, "ann/m", *(large(f"f{n}", c) for n, c in enumerate(chunks))).status_code == 200
    assert len(paths(app, ann, "ann/m")) == 450


def test_staged_files_without_a_row_are_swept(app: Any, ann: str) -> None:
    xet = Xet(app, ann, "ann/m")
    xet.xorb(CHUNKS)
    (kept,) = staged(app)
    folder = app.registry.settings.data / "staging" / "xet"
    for name in ("incoming.0123", "7-" + "0" * 64, "young"):
        (folder / name).write_bytes(b"x")
    for name in (kept, "incoming.0123", "7-" + "0" * 64):
        os.utime(folder / name, (0, 0))
    with app.db.read() as conn:
        assert sweep_staging(conn, app.registry.store, utcnow() - timedelta(days=1)) == 2
    assert staged(app) == sorted([kept, "young"])
