"""The programs that know Python packaging: uv, and pip where there is no uv. We never unpack a wheel into an environment.

They are given facts, an index and local files, and nothing of the user's own configuration: an extra index there could
replace a name that belongs to the registry.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from packaging.pylock import Pylock, PylockValidationError
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from llmasos.errors import MissingDependency, RunError
from llmasos.kernel.atomic import write_atomic
from llmasos_registry.client.environment import Environment, applies, fits
from llmasos_registry.client.locked import LockedPackage, LockedWheel, package_from
from llmasos_registry.client.resolver import RequirementsConflict

#: The longest a tool may take. Seconds.
TIMEOUT = 1800.0
#: What uv writes beside packages that it installed from files.
_UV_NOTE = "uv_cache.json"
#: Characters of a tool's output that an error shows.
_SHOWN = 3000
_SENTENCES = re.compile(r"No solution found|ResolutionImpossible|No matching distribution|not find a version")


class Index(NamedTuple):
    """Where libraries come from: one merged index, and the token for it."""

    url: str
    token: str | None = None


class Pin(NamedTuple):
    """One wheel to install: the file lies in the folder that the tool is given."""

    name: str
    version: str
    sha256: str


class Tool(Protocol):
    """What is asked of uv or pip."""

    name: str
    #: Whether the answer of ``compile`` is complete, so that a lock can be made of it.
    locks: bool

    def compile(
        self, requirements: Sequence[str], environment: Environment, index: Index
    ) -> list[LockedPackage]:
        """Versions and files of everything that the requirement lines need, with the environment's facts left alone.

        Downloads metadata only. Raises RequirementsConflict with the tool's explanation, RunError.
        """

    def install(self, folder: Path, pins: Sequence[Pin], environment: Environment) -> None:
        """Install wheels out of a folder, nothing else, each with its digest checked. Raises RunError."""

    def uninstall(self, names: Sequence[str], environment: Environment) -> None:
        """Remove distributions. Raises RunError."""


def find_tool() -> Tool:
    """uv from its wheel or from PATH, else this interpreter's pip. Raises MissingDependency."""
    path = _uv()
    if path is not None:
        return Uv(path)
    import importlib.util

    if importlib.util.find_spec("pip") is not None:
        return Pip()
    raise MissingDependency("neither uv nor pip is here to install with", hint="pip install uv")


def _uv() -> str | None:
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError):
        return shutil.which("uv")


class Uv:
    """uv as a subprocess."""

    name = "uv"
    locks = True

    def __init__(self, path: str) -> None:
        self._path = path

    def compile(
        self, requirements: Sequence[str], environment: Environment, index: Index
    ) -> list[LockedPackage]:
        """As ``Tool``. What is installed is shown to uv as wheels without content, so that editable and local builds
        count, and preferred where something else would do as well."""
        with tempfile.TemporaryDirectory(prefix="llmasos-") as scratch:
            folder = Path(scratch)
            write_facts(folder / "facts", environment)
            (folder / "fixed.txt").write_text(constraints(environment))
            (folder / "requirements.in").write_text("".join(f"{line}\n" for line in requirements))
            (folder / "pylock.toml").write_text(_preferences(environment))
            command = [
                "pip",
                "compile",
                "--no-cache",
                "--no-header",
                "--no-build",
                "--no-annotate",
                "--quiet",
            ]
            command += ["--python", environment.executable, "--default-index", f"llmasos={index.url}"]
            command += ["--find-links", "facts", "--constraints", "fixed.txt"]
            command += ["--format", "pylock.toml", "--output-file", "pylock.toml", "requirements.in"]
            variables = {}
            if index.token:
                # Not on the command line, which everyone on the machine can read.
                variables = {
                    "UV_INDEX_LLMASOS_USERNAME": "__token__",
                    "UV_INDEX_LLMASOS_PASSWORD": index.token,
                }
            self._run(command, folder, variables, "resolving libraries", environment)
            return _read_pylock((folder / "pylock.toml").read_bytes())

    def install(self, folder: Path, pins: Sequence[Pin], environment: Environment) -> None:
        """As ``Tool``."""
        with tempfile.TemporaryDirectory(prefix="llmasos-") as scratch:
            (Path(scratch) / "pins.txt").write_text(_pin_lines(pins))
            command = ["pip", "install", "--quiet", "--offline", "--no-index", "--no-deps", "--no-build"]
            command += ["--require-hashes", "--find-links", str(folder), "--python", environment.executable]
            # A version that is here already may be other bytes; what is asked for is what must be there afterwards.
            command += ["--reinstall", "--requirements", "pins.txt"]
            self._run(command, Path(scratch), {}, "installing", environment)
        for info in environment.site.glob("*.dist-info"):
            _forget_moment(info)

    def uninstall(self, names: Sequence[str], environment: Environment) -> None:
        """As ``Tool``."""
        command = ["pip", "uninstall", "--quiet", "--python", environment.executable, *names]
        self._run(command, Path(tempfile.gettempdir()), {}, "removing", environment)

    def _run(
        self,
        command: Sequence[str],
        folder: Path,
        variables: Mapping[str, str],
        what: str,
        environment: Environment,
    ) -> None:
        full = [self._path, command[0], command[1], "--no-config", "--no-progress", *command[2:]]
        kept = (
            "UV_CACHE_DIR",
            "UV_LINK_MODE",
            "UV_NATIVE_TLS",
            "UV_SYSTEM_CERTS",
            "UV_BREAK_SYSTEM_PACKAGES",
        )
        run_tool(full, folder, {**clean_environment(kept), **variables}, f"uv: {what}", environment)


def _forget_moment(info: Path) -> None:
    """Remove uv's note of when a wheel's file was written, so that equal wheels give equal environments. uv does without."""
    note = info / _UV_NOTE
    record = info / "RECORD"
    if not note.is_file() or not record.is_file():
        return
    lines = record.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(f"{info.name}/{_UV_NOTE},".encode())]
    write_atomic(record, b"".join(kept))
    note.unlink()


class Pip:
    """This interpreter's pip."""

    name = "pip"
    locks = False

    def compile(
        self, requirements: Sequence[str], environment: Environment, index: Index
    ) -> list[LockedPackage]:
        """As ``Tool``. pip sees what is installed by itself; what it would keep is not in the answer, so it makes no locks."""
        with tempfile.TemporaryDirectory(prefix="llmasos-") as scratch:
            folder = Path(scratch)
            (folder / "fixed.txt").write_text(constraints(environment))
            (folder / "requirements.in").write_text("".join(f"{line}\n" for line in requirements))
            command = ["install", "--dry-run", "--report", "report.json", "--only-binary=:all:"]
            command += [
                "--index-url",
                index.url,
                "--constraint",
                "fixed.txt",
                "--requirement",
                "requirements.in",
            ]
            if index.token:
                _write_private(folder / "netrc", _netrc(index))
            self._run(command, folder, {"NETRC": str(folder / "netrc")}, "resolving libraries", environment)
            report = json.loads((folder / "report.json").read_bytes())
        return [_from_report(entry) for entry in report["install"]]

    def install(self, folder: Path, pins: Sequence[Pin], environment: Environment) -> None:
        """As ``Tool``."""
        with tempfile.TemporaryDirectory(prefix="llmasos-") as scratch:
            (Path(scratch) / "pins.txt").write_text(_pin_lines(pins))
            command = ["install", "--no-index", "--no-deps", "--only-binary=:all:", "--require-hashes"]
            command += [
                "--no-compile",
                "--force-reinstall",
                "--find-links",
                str(folder),
                "--requirement",
                "pins.txt",
            ]
            self._run(command, Path(scratch), {}, "installing", environment)

    def uninstall(self, names: Sequence[str], environment: Environment) -> None:
        """As ``Tool``."""
        self._run(["uninstall", "--yes", *names], Path(tempfile.gettempdir()), {}, "removing", environment)

    def _run(
        self,
        command: Sequence[str],
        folder: Path,
        variables: Mapping[str, str],
        what: str,
        environment: Environment,
    ) -> None:
        full = [environment.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", *command]
        kept = ("PIP_CERT", "PIP_BREAK_SYSTEM_PACKAGES")
        settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_QUIET": "1"}
        run_tool(
            full, folder, {**clean_environment(kept), **settings, **variables}, f"pip: {what}", environment
        )


# ---- facts ----


def constraints(environment: Environment) -> str:
    """What no answer may change: the facts at their versions, and what the facts require of libraries that are here."""
    lines: dict[str, None] = {f"{name}=={version}": None for name, version in environment.facts().items()}
    for name in environment.facts():
        for requirement in environment.installed[name].requires:
            other = canonicalize_name(requirement.name)
            version = environment.version(other)
            # Only what holds now: an environment that is broken already must not keep everything else away.
            if (
                version is not None
                and requirement.specifier
                and applies(requirement)
                and fits(requirement, version)
            ):
                lines.setdefault(f"{other}{requirement.specifier}")
    return "".join(f"{line}\n" for line in lines)


def write_facts(folder: Path, environment: Environment) -> None:
    """One wheel for each installed distribution: its metadata, and nothing else. They are never installed.

    What the fixed ones require stays out: it is there, and whoever installed them answers for it.
    """
    folder.mkdir(parents=True)
    for one in environment.installed.values():
        version = one.parsed
        if version is None:
            continue
        name = one.name.replace("-", "_")
        lines = ["Metadata-Version: 2.1", f"Name: {one.name}", f"Version: {version}"]
        if one.requires_python:
            lines.append(f"Requires-Python: {one.requires_python}")
        extras = sorted({extra for line in one.requires for extra in _named_extras(str(line.marker or ""))})
        lines += [f"Provides-Extra: {extra}" for extra in extras]
        if not environment.is_fact(one.name):
            lines += [f"Requires-Dist: {line}" for line in one.requires]
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
            archive.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{info}/RECORD", "")


def _named_extras(marker: str) -> list[str]:
    return re.findall(r"""extra\s*==\s*["']([A-Za-z0-9._-]+)["']""", marker)


def _preferences(environment: Environment) -> str:
    """A lock of what is here: uv takes versions from the file it is about to write, where they fit."""
    lines = ['lock-version = "1.0"', 'created-by = "llmasos"']
    for one in environment.installed.values():
        if one.parsed is not None:
            lines += ["[[packages]]", f'name = "{one.name}"', f'version = "{one.parsed}"']
    return "\n".join(lines) + "\n"


def _read_pylock(data: bytes) -> list[LockedPackage]:
    try:
        lock = Pylock.from_dict(tomllib.loads(data.decode("utf-8")))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, PylockValidationError) as error:
        raise RunError(f"uv wrote a lock that cannot be read: {error}") from error
    # Only wheels with an address come from the index; the others are the facts it was shown.
    return [package_from(package) for package in lock.packages]


def _from_report(entry: Mapping[str, Any]) -> LockedPackage:
    try:
        name = canonicalize_name(entry["metadata"]["name"])
        info = entry["download_info"]
        digest = info["archive_info"]["hashes"]["sha256"]
        filename = urlsplit(info["url"]).path.rsplit("/", 1)[-1]
        version = str(Version(entry["metadata"]["version"]))
    except (KeyError, TypeError, InvalidVersion) as error:
        raise RunError(f"pip's report cannot be read: {type(error).__name__}: {error}") from error
    return LockedPackage(name, version, (LockedWheel(filename, info["url"], digest, None),))


def _pin_lines(pins: Iterable[Pin]) -> str:
    return "".join(f"{pin.name}=={pin.version} --hash=sha256:{pin.sha256}\n" for pin in pins)


# ---- processes ----


def clean_environment(kept: Iterable[str] = ()) -> dict[str, str]:
    """Variables for a tool: the user's without the tools' own settings, except ``kept``."""
    allowed = set(kept)
    return {
        name: value
        for name, value in os.environ.items()
        if name in allowed or not name.startswith(("UV_", "PIP_", "LLMASOS_", "PYTHONHOME", "PYTHONPATH"))
    }


def run_tool(
    command: Sequence[str],
    folder: Path,
    variables: Mapping[str, str],
    what: str,
    environment: Environment,
) -> None:
    """Run to the end. Ctrl-C reaches the tool through us, so that we can put things right afterwards.

    Raises RequirementsConflict for an unsolvable set of requirements, RunError for anything else, with the tool's words.
    """
    try:
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise RunError(f"{what}: cannot start {command[0]}: {error.strerror or error}") from error
    try:
        _, said = process.communicate(timeout=TIMEOUT)
    except BaseException as error:
        _stop(process)
        if isinstance(error, subprocess.TimeoutExpired):
            raise RunError(f"{what}: nothing came of it in {TIMEOUT:.0f} s") from error
        raise
    if process.returncode != 0:
        text = said.decode("utf-8", "replace").strip()[-_SHOWN:]
        if _SENTENCES.search(text):
            facts = ", ".join(f"{name} {version}" for name, version in environment.facts().items())
            raise RequirementsConflict(
                f"the libraries that are needed cannot be had together:\n{_indented(text)}\n  never changed: {facts}",
                hint="use an environment of its own for one of them",
            )
        raise RunError(f"{what} failed ({process.returncode}):\n{_indented(text)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number, patience in ((signal.SIGINT, 5.0), (signal.SIGKILL, 30.0)):
        try:
            os.killpg(process.pid, number) if hasattr(os, "killpg") else process.kill()
            process.wait(patience)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _netrc(index: Index) -> str:
    return f"machine {urlsplit(index.url).hostname} login __token__ password {index.token}\n"


def _write_private(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
