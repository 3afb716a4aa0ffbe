"""The pieces of an upload: counted files, batches, progress, and the look at what arrived."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from llmasos.cli.output import Output
from llmasos_registry.client.connection import RegistryError
from llmasos_registry.client.hub_upload import ByteCount, CountedFile, _batches
from llmasos_registry.client.publish_model import _check_arrived


def test_a_counted_file_reads_as_any_file_and_is_open_only_then(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(range(200)))
    file = CountedFile(path)
    assert file.read() == bytes(range(200))
    assert file._file is None
    assert file.read() == b""
    assert file.seek(-10, os.SEEK_END) == 190
    assert file.read(4) == bytes([190, 191, 192, 193])
    assert file.tell() == 194
    assert file.seek(2, os.SEEK_CUR) == 196
    counted: list[int] = []
    file.count = counted.append
    assert file.read(100) == bytes([196, 197, 198, 199])
    assert counted == [4]
    assert file._file is None
    assert isinstance(file, io.BufferedIOBase)
    file.close()


def test_a_file_that_grows_is_read_to_the_size_it_had(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    file = CountedFile(path)
    path.write_bytes(b"abcdef")
    assert file.read() == b"abc"


def test_small_files_go_together_and_large_ones_by_themselves() -> None:
    mb = 1 << 20
    sizes = (
        {f"s{i}": 3 * mb for i in range(30)}
        | {"big": 5 * mb, "huge": 900 * mb}
        | {f"t{i}": 0 for i in range(600)}
    )
    batches = list(_batches(sizes))
    assert sorted(path for batch in batches for path in batch) == sorted(sizes)
    assert batches[-1] == ["big", "huge"]
    assert all(len(batch) <= 500 and sum(sizes[path] for path in batch) <= 64 * mb for batch in batches[:-1])
    assert list(_batches({})) == []


def test_progress_never_passes_its_total_and_always_reaches_it() -> None:
    stderr = io.StringIO()
    with Output(stderr=stderr).progress() as progress:
        count = ByteCount(progress, "uploading", 100 << 20)
        for _ in range(3):
            count(70 << 20)
        count.done()
        deduplicated = ByteCount(progress, "again", 1000)
        deduplicated.done()
    assert stderr.getvalue().splitlines() == [
        "uploading (MB): 0/100",
        "uploading (MB): 100/100",
        "again (bytes): 0/1000",
        "again (bytes): 1000/1000",
    ]


def test_a_commit_that_is_not_what_was_signed_is_refused() -> None:
    signed = {"a": "00" * 32, "b": "11" * 32}
    _check_arrived("o/n", "c" * 40, {**signed, "model.sig": "22" * 32, ".gitattributes": "33" * 32}, signed)
    with pytest.raises(RegistryError, match=f"a: expected sha256 {'00' * 32}, found {'44' * 32}"):
        _check_arrived("o/n", "c" * 40, {**signed, "a": "44" * 32}, signed)
    with pytest.raises(RegistryError, match="b is missing"):
        _check_arrived("o/n", "c" * 40, {"a": "00" * 32}, signed)
