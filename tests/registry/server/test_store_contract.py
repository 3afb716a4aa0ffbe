"""What every store of blobs promises: one suite for the folder and for the bucket of a real S3 server."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llmasos.errors import ConfigError, EnvironmentProblem
from llmasos_registry.server.store import objects
from llmasos_registry.server.store.blobs import BlobMissing, BlobStore, DigestMismatch
from llmasos_registry.server.store.filesystem import FileStore
from llmasos_registry.server.store.objects import ObjectStore

DATA = random.Random(1).randbytes(3_000_000)
DIGEST = hashlib.sha256(DATA).hexdigest()
ABSENT = "0" * 64
PAST = datetime(2020, 1, 1, tzinfo=UTC)
FUTURE = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture(params=["files", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "files":
        return FileStore(tmp_path)
    make: Callable[..., ObjectStore] = request.getfixturevalue("make_bucket")
    return make()


def left_over(store: Any) -> list[Path]:
    return [path for path in store.temporary.rglob("*") if path.is_file()]


def put_in_pieces(store: BlobStore, data: bytes, expected: str | None = None) -> Any:
    with store.writer() as writer:
        for start in range(0, len(data), 700_001):
            writer.write(data[start : start + 700_001])
        assert writer.file().read_bytes() == data
        assert writer.size == len(data)
        return writer.commit(expected)


def test_what_was_put_is_there_under_its_digest(store: BlobStore) -> None:
    assert not store.exists(DIGEST)
    stored = put_in_pieces(store, DATA, DIGEST)
    assert (stored.sha256, stored.size) == (DIGEST, len(DATA))
    assert store.exists(DIGEST)
    assert b"".join(store.pieces(DIGEST)) == DATA
    assert left_over(store) == []
    assert put_in_pieces(store, DATA) == stored
    assert [(sha, size) for sha, size, _ in store.walk()] == [(DIGEST, len(DATA))]
    assert left_over(store) == []


def test_nothing_is_there_before_the_commit_or_without_it(store: BlobStore) -> None:
    with contextlib.suppress(RuntimeError), store.writer() as writer:
        writer.write(DATA)
        assert not store.exists(DIGEST)
        raise RuntimeError
    assert not store.exists(DIGEST)
    assert left_over(store) == []


def test_other_bytes_than_announced_are_refused(store: BlobStore) -> None:
    with pytest.raises(DigestMismatch, match=f"expected sha256 {ABSENT}, found {DIGEST}"):
        put_in_pieces(store, DATA, ABSENT)
    assert list(store.walk()) == []
    assert left_over(store) == []


@pytest.mark.parametrize(
    ("start", "stop"), [(0, None), (0, 1), (5, 5), (1_048_570, 1_048_590), (2_999_999, None), (10, 2_999_999)]
)
def test_any_part_can_be_read(store: BlobStore, start: int, stop: int | None) -> None:
    store.put(DATA)
    assert b"".join(store.pieces(DIGEST, start, stop)) == DATA[start:stop]


def test_a_reader_can_seek(store: BlobStore) -> None:
    store.put(DATA)
    with store.open(DIGEST) as file:
        assert file.seek(-10, os.SEEK_END) == len(DATA) - 10
        assert file.read() == DATA[-10:]
        file.seek(1000)
        assert file.read(5) == DATA[1000:1005]
        file.seek(len(DATA) + 5)
        assert file.read(5) == b""


def test_an_empty_blob_is_a_blob(store: BlobStore) -> None:
    stored = store.put(b"")
    assert stored.sha256 == hashlib.sha256(b"").hexdigest()
    assert b"".join(store.pieces(stored.sha256)) == b""
    with store.open(stored.sha256) as file:
        assert file.read() == b""


def test_what_is_not_there_is_missing(store: BlobStore) -> None:
    for read in (
        lambda: store.open(ABSENT),
        lambda: store.pieces(ABSENT),
        lambda: store.pieces(ABSENT, 1, 2),
    ):
        with pytest.raises(BlobMissing):
            read()
    assert not store.exists(ABSENT)
    assert store.path(ABSENT) is None
    assert store.discard(ABSENT, FUTURE)


def test_discarding_leaves_what_is_young(store: BlobStore) -> None:
    store.put(DATA)
    assert not store.discard(DIGEST, PAST)
    assert b"".join(store.pieces(DIGEST)) == DATA
    assert store.discard(DIGEST, FUTURE)
    assert not store.exists(DIGEST)
    assert left_over(store) == []


def test_quarantine_takes_a_blob_out_of_service(store: BlobStore) -> None:
    store.put(DATA)
    store.quarantine(DIGEST)
    assert not store.exists(DIGEST)
    assert list(store.walk()) == []
    store.quarantine(ABSENT)
    # And the same bytes can come again.
    store.put(DATA)
    assert b"".join(store.pieces(DIGEST)) == DATA


def test_the_walk_is_in_order_and_knows_the_age(store: BlobStore) -> None:
    digests = sorted(store.put(bytes([n]) * n).sha256 for n in range(1, 20))
    seen = list(store.walk())
    assert [sha for sha, _, _ in seen] == digests
    assert all(abs((datetime.now(UTC) - when).total_seconds()) < 60 for _, _, when in seen)


def test_recovery_drops_half_written_files_and_keeps_parts(store: Any) -> None:
    part = store.staging("upload-1") / "1"
    part.write_bytes(b"part")
    (store.temporary / "1.left").write_bytes(b"half")
    assert store.recover() == 1
    assert part.read_bytes() == b"part"
    assert store.sweep_temporary(PAST) == 0
    assert store.sweep_temporary(FUTURE, keep=lambda name: name == "upload-1") == 0
    assert store.sweep_temporary(FUTURE) == 1
    assert not part.exists()


def test_an_address_of_the_bucket_serves_the_bytes(make_bucket: Callable[..., ObjectStore]) -> None:
    store = make_bucket()
    store.put(DATA)
    address = store.url(DIGEST, "weights.bin", 60)
    with urllib.request.urlopen(str(address)) as answer:
        assert answer.read() == DATA
    with pytest.raises(BlobMissing):
        store.url(ABSENT, "x", 60)


def test_a_large_object_goes_in_parts(
    make_bucket: Callable[..., ObjectStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    # S3 takes no part below 5 MiB but the last.
    monkeypatch.setattr(objects, "PART", 5 << 20)
    store = make_bucket("some/prefix")
    data = random.Random(2).randbytes((12 << 20) + 1)
    stored = put_in_pieces(store, data)
    assert b"".join(store.pieces(stored.sha256)) == data
    found = objects.obstore.head(store.bucket, f"some/prefix/sha256/{stored.sha256[:2]}/{stored.sha256}")
    # The ETag of an object that was sent in parts ends with how many there were.
    assert re.fullmatch(r'"[0-9a-f]{32}-3"', found["e_tag"])


def test_a_bucket_that_does_not_answer_is_an_error(
    make_bucket: Callable[..., ObjectStore], tmp_path: Path
) -> None:
    make_bucket().check()
    with pytest.raises(ConfigError, match="is no object store"):
        ObjectStore(tmp_path, "gs://x", {})
    options = {
        "endpoint": "http://127.0.0.1:9",
        "access_key_id": "x",
        "secret_access_key": "y",
        "region": "x",
    }
    with pytest.raises(EnvironmentProblem, match="does not answer"):
        ObjectStore(tmp_path, "s3://nowhere", options, retries=0).check()


def test_a_registry_on_a_bucket_redirects_to_it(
    make_app: Any, make_bucket: Callable[..., ObjectStore]
) -> None:
    from llmasos_registry.server.responses import blob_response
    from llmasos_registry.server.routing import Route

    bucket = make_bucket()
    app = make_app(storage=bucket.address, storage_options=bucket.options)
    app.registry.store.put(DATA)

    def download(request: Any) -> Any:
        return blob_response(request, DIGEST, len(DATA), etag=DIGEST)

    app.serve([Route("GET", "/file", download, "public")])
    answer = app.get("/file")
    assert answer.status_code == 302
    with urllib.request.urlopen(answer.headers["location"]) as found:
        assert found.read() == DATA
    assert app.get("/file", headers={"If-None-Match": f'"{DIGEST}"'}).status_code == 304
    head = app.call("HEAD", "/file")
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(DATA)))
    bucket_only_here = make_app(
        storage=bucket.address, storage_options=bucket.options, storage_redirect=False
    )
    bucket_only_here.serve([Route("GET", "/file", download, "public")])
    assert bucket_only_here.get("/file").content == DATA
    part = bucket_only_here.get("/file", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, DATA[10:20])
