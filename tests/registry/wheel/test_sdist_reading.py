"""Source distributions: sound ones are read, those with links, sparse files, two meanings or bombs are refused."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from wheelsmith import make_sdist, metadata_text

from llmasos_registry.wheel.refusal import Limits, WheelRefused
from llmasos_registry.wheel.sdist import read_sdist

NAME = "acme-1.0.tar.gz"


def tar(
    *entries: tuple[str, bytes, bytes], pax: dict[str, str] | None = None, form: int = tarfile.PAX_FORMAT
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, pax_headers=pax or {}) as archive:
        for name, kind, data in [
            ("acme-1.0/PKG-INFO", tarfile.REGTYPE, metadata_text("acme", "1.0").encode()),
            *entries,
        ]:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size = kind, len(data) if kind == tarfile.REGTYPE else 0
            entry.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def packed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def refused(data: bytes, filename: str = NAME, limits: Limits | None = None) -> str:
    with pytest.raises(WheelRefused) as caught:
        read_sdist(io.BytesIO(data), filename, limits or Limits())
    return caught.value.rule


def file(name: str, data: bytes = b"x") -> tuple[str, bytes, bytes]:
    return name, tarfile.REGTYPE, data


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "symlink": (lambda: packed(tar(("acme-1.0/l", tarfile.SYMTYPE, b""))), "member kind"),
    "hard link": (lambda: packed(tar(("acme-1.0/l", tarfile.LNKTYPE, b""))), "member kind"),
    "device": (lambda: packed(tar(("acme-1.0/d", tarfile.CHRTYPE, b""))), "member kind"),
    "sparse": (lambda: packed(tar(("acme-1.0/s", tarfile.GNUTYPE_SPARSE, b""))), "member kind"),
    "sparse by pax": (lambda: packed(tar(pax={"GNU.sparse.major": "1"})), "tar frame"),
    "path for all members": (lambda: packed(tar(pax={"path": "acme-1.0/other"})), "tar frame"),
    "absolute": (lambda: packed(tar(file("/etc/cron.d/x"))), "member path"),
    "climbs": (lambda: packed(tar(file("acme-1.0/../../x"))), "member path"),
    "beside the top folder": (lambda: packed(tar(file("other/x"))), "member path"),
    "twice": (lambda: packed(tar(file("acme-1.0/x"), file("acme-1.0/x"))), "member collision"),
    "case": (lambda: packed(tar(file("acme-1.0/x"), file("acme-1.0/X"))), "member collision"),
    "behind the archive": (lambda: packed(tar() + b"hidden"), "tar frame"),
    "behind the stream": (lambda: packed(tar()) + b"hidden", "gzip frame"),
    "second stream": (lambda: packed(tar()) + packed(tar()), "gzip frame"),
    "cut short": (lambda: packed(tar())[:-20], "gzip frame"),
    "ends early": (lambda: packed(tar()[:700]), "tar frame"),
    "no gzip": (tar, "gzip frame"),
    "wrong checksum": (lambda: packed(b"b" + tar()[1:]), "tar frame"),
    "bomb": (lambda: packed(tar(file("acme-1.0/zeros", bytes(100_000_000)))), "compression ratio"),
    "bomb in a header": (
        lambda: packed(tar(file("acme-1.0/" + "a/" * 100_000 + "b"), form=tarfile.GNU_FORMAT)),
        "tar frame",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archives_are_refused_by_the_rule_they_break(kind: str) -> None:
    build, rule = HOSTILE[kind]
    assert refused(build()) == rule


def test_a_sound_archive_is_read(tmp_path: Path) -> None:
    long = "src/" + "deep/" * 30 + "module.py"
    path = make_sdist(tmp_path, "acme", files={long: "x = 1\n", "setup.py": ""})
    with path.open("rb") as opened:
        facts = read_sdist(opened, path.name)
    assert (facts.name, facts.version, facts.size) == ("acme", "1.0", path.stat().st_size)
    assert facts.metadata_bytes.startswith(b"Metadata-Version")
    gnu = packed(
        tar(
            file("acme-1.0/" + "d/" * 60 + "x"), ("acme-1.0/d", tarfile.DIRTYPE, b""), form=tarfile.GNU_FORMAT
        )
    )
    assert read_sdist(io.BytesIO(gnu), NAME).name == "acme"


@pytest.mark.parametrize(
    "filename", ["acme-1.1.tar.gz", "other-1.0.tar.gz", "acme-1.0.zip", "acme.tar.gz", "../acme-1.0.tar.gz"]
)
def test_the_file_name_and_the_content_agree(filename: str) -> None:
    refused(packed(tar()), filename)


def test_limits_hold() -> None:
    assert refused(packed(tar()), limits=Limits(archive=10)) == "archive size"
    assert refused(packed(tar()), limits=Limits(expanded=10)) == "archive size"
    assert refused(packed(tar()), limits=Limits(text=10)) == "member size"
    assert refused(packed(tar(file("acme-1.0/x"))), limits=Limits(members=1)) == "archive size"
