"""What is acknowledged is on disk, in the right order; a failed write leaves nothing to be seen and can be repeated."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from stored_world import commit, make_repo, read_all

from llmasos_registry.server.db.tables_hub import commits
from llmasos_registry.server.store import filesystem
from llmasos_registry.server.store.filesystem import FileStore

DATA = b"durable"
DIGEST = hashlib.sha256(DATA).hexdigest()


def test_bytes_are_synced_before_the_name_and_the_name_before_the_answer(tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    script = (
        "import sys; from pathlib import Path; from llmasos_registry.server.store.filesystem import FileStore; "
        f"FileStore(Path(sys.argv[1])).put({DATA!r}); print('acknowledged')"
    )
    calls = "trace=openat,fsync,rename,renameat,renameat2,mkdir,mkdirat,write"
    log = tmp_path / "calls"
    done = subprocess.run(
        [
            strace,
            "-f",
            "-y",
            "-e",
            calls,
            "-o",
            str(log),
            sys.executable,
            "-c",
            script,
            str(tmp_path / "data"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if "ptrace" in done.stderr.lower():
        pytest.skip(f"strace may not trace here: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    lines = log.read_text().splitlines()

    def position(pattern: str) -> int:
        found = [n for n, line in enumerate(lines) if re.search(pattern, line)]
        assert found, pattern
        return found[-1]

    folder = rf"blobs/sha256/{DIGEST[:2]}/{DIGEST[2:4]}"
    order = [
        position(r"fsync\(\d+<[^>]*/data/tmp/[^>]*>\)"),
        position(rf"rename\w*\(.*{folder}/{DIGEST}"),
        position(rf"fsync\(\d+<[^>]*{folder}>\)"),
        position(r'write\(1<.*"acknowledged'),
    ]
    assert order == sorted(order)
    # The names of the new folders too, in their parents.
    for parent in (r"blobs/sha256", rf"blobs/sha256/{DIGEST[:2]}"):
        assert position(rf"fsync\(\d+<[^>]*{parent}>\)") < order[-1]


def fail_once(real: Callable[..., Any], number: int) -> Callable[..., Any]:
    """The function, whose next call fails with this error number."""
    left = [1]

    def call(*arguments: Any, **options: Any) -> Any:
        if left and left.pop():
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    return call


def break_write(monkeypatch: pytest.MonkeyPatch, app: Any) -> None:
    from llmasos_registry.server.store.temporary import TemporaryBlob

    monkeypatch.setattr(TemporaryBlob, "write", fail_once(TemporaryBlob.write, errno.ENOSPC))


def break_sync(monkeypatch: pytest.MonkeyPatch, app: Any) -> None:
    monkeypatch.setattr(filesystem.os, "fsync", fail_once(os.fsync, errno.EIO))


def break_rename(monkeypatch: pytest.MonkeyPatch, app: Any) -> None:
    monkeypatch.setattr(filesystem.os, "replace", fail_once(os.replace, errno.EIO))


def break_commit(monkeypatch: pytest.MonkeyPatch, app: Any) -> None:
    failures = [1]

    def refuse(conn: sa.Connection) -> None:
        if failures and failures.pop():
            raise OSError(errno.EIO, "the disk went away")

    sa.event.listen(app.db.engine, "commit", refuse)


@pytest.mark.parametrize("breakage", [break_write, break_sync, break_rename, break_commit])
def test_a_commit_that_fails_shows_nothing_and_can_be_repeated(
    app: Any, monkeypatch: pytest.MonkeyPatch, breakage: Callable[..., None]
) -> None:
    token = app.user("ann")
    make_repo(app, token, "m")
    first = commit(app, token, "ann/m", {"a.txt": b"a"})
    before = read_all(app, token, "ann/m")
    with app.db.read() as conn:
        known = conn.execute(sa.select(sa.func.count()).select_from(commits)).scalar_one()
    breakage(monkeypatch, app)
    with pytest.raises(AssertionError, match="Internal error of the registry"):
        commit(app, token, "ann/m", {"b.txt": b"b", "c.txt": b"c"})
    assert read_all(app, token, "ann/m") == before
    with app.db.read() as conn:
        assert conn.execute(sa.select(sa.func.count()).select_from(commits)).scalar_one() == known
    assert list(app.registry.store.temporary.iterdir()) == []
    second = commit(app, token, "ann/m", {"b.txt": b"b", "c.txt": b"c"})
    assert second != first
    assert read_all(app, token, "ann/m") == before | {"b.txt": b"b", "c.txt": b"c"}


def test_a_blob_that_is_there_is_synced_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may have renamed the same bytes into place, and lost power before its sync."""
    FileStore(tmp_path).put(DATA)
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(
        filesystem.os,
        "fsync",
        lambda handle: (synced.append(os.readlink(f"/proc/self/fd/{handle}")), real(handle)),
    )
    store = FileStore(tmp_path)
    store.put(DATA)
    assert str(store.place(DIGEST).parent) in synced
