"""Changing an environment whole or not at all: what is there is copied aside first, and put back when anything fails.

The copy and the list of files that would be new are written to a journal before the first change. A failure or Ctrl-C is
undone at once; what a killed process or a power cut left half done is undone by the next command, from the journal.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from llmasos.errors import PluginError, RunError
from llmasos.kernel.atomic import write_atomic
from llmasos_registry.client.environment import Environment
from llmasos_registry.client.plan import Step
from llmasos_registry.client.tools import Pin, Tool
from llmasos_registry.client.wheelhouse import CheckedWheel

_JOURNAL = "journal.json"


class Overwrites(PluginError):
    """A wheel holds a file that belongs to another distribution."""


class Transaction:
    """Changes to one environment. ``state`` is a folder of the cache; each environment has its own below it."""

    def __init__(self, state: Path, environment: Environment, tool: Tool) -> None:
        key = hashlib.sha256(os.path.realpath(sys.prefix).encode()).hexdigest()[:16]
        self._folder = state / key
        self._environment = environment
        self._tool = tool

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one process changes an environment at a time. Raises RunError when another is at it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / "lock", "a+b") as file:
            try:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except ImportError:  # Windows: two at once are not told apart there
                pass
            except OSError:
                raise RunError(
                    "another llmasos is changing this environment", hint="try again when it is done"
                ) from None
            yield

    def interrupted(self) -> bool:
        """Whether a process that died left something half done."""
        return (self._folder / _JOURNAL).is_file()

    def recover(self) -> bool:
        """Undo what a process that died left half done. Whether there was something. Call it under the lock."""
        journal = self._folder / _JOURNAL
        try:
            table = json.loads(journal.read_bytes())
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            raise RunError(
                f"an interrupted change cannot be undone: {journal}: {error}",
                hint=f"reinstall what does not work, then remove {self._folder}",
            ) from error
        self._undo(table)
        return True

    def apply(self, steps: Sequence[Step], wheels: Sequence[CheckedWheel]) -> None:
        """Carry out steps with checked wheels. Raises what the tool raised, after putting everything back."""
        self._check_overwrites(steps, wheels)
        self._write_journal(steps, wheels)
        try:
            self._change(steps, wheels)
            self._confirm(steps)
        except BaseException:
            table = json.loads((self._folder / _JOURNAL).read_bytes())
            self._undo(table)
            raise
        self._forget()

    def _change(self, steps: Sequence[Step], wheels: Sequence[CheckedWheel]) -> None:
        leaving = [step.name for step in steps if step.action == "remove"]
        if leaving:
            self._tool.uninstall(leaving, self._environment)
        if wheels:
            folder = self._folder / "wheels"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for one in wheels:
                _link(one.path, folder / one.wheel.filename)
            pins = [Pin(one.facts.name, one.facts.version, one.wheel.sha256) for one in wheels]
            self._tool.install(folder, pins, self._environment)

    def _confirm(self, steps: Sequence[Step]) -> None:
        """The environment is what the plan says, as a new process would see it."""
        here = Environment.current(path=[str(folder) for folder in site_folders()])
        for step in steps:
            found = here.version(step.name)
            if found != step.after:
                raise RunError(
                    f"{self._tool.name} said that all went well, but {step.name} is "
                    f"{found or 'not there'} instead of {step.after or 'gone'}"
                )

    # ---- before ----

    def _check_overwrites(self, steps: Sequence[Step], wheels: Sequence[CheckedWheel]) -> None:
        """A wheel must not write over files of distributions that stay, nor two wheels over each other."""
        changing = {step.name for step in steps}
        ours = {str(path) for name in changing for path in self._files(name)}
        seen: dict[str, str] = {}
        for one in wheels:
            for path in _targets(one):
                text = str(path)
                if text in seen:
                    raise Overwrites(f"{one.wheel.filename} and {seen[text]} both hold {path.name} ({path})")
                seen[text] = one.wheel.filename
                if text not in ours and path.exists():
                    raise Overwrites(
                        f"{one.wheel.filename} would write over {path}, which belongs to something else",
                        hint="uninstall what it belongs to, if that is what you want",
                    )

    def _files(self, name: str) -> list[Path]:
        """The files of an installed distribution, from its RECORD. Raises RunError where there is none."""
        one = self._environment.installed.get(name)
        if one is None:
            return []
        listed = one.distribution.files
        if listed is None:
            raise RunError(
                f"{name} {one.version} has no record of its files, so it could not be put back",
                hint="uninstall it with the tool that installed it",
            )
        return [Path(os.path.abspath(str(one.distribution.locate_file(path)))) for path in listed]

    def _write_journal(self, steps: Sequence[Step], wheels: Sequence[CheckedWheel]) -> None:
        copies = self._folder / "files"
        shutil.rmtree(copies, ignore_errors=True)
        copies.mkdir(parents=True)
        saved: list[list[Any]] = []
        for step in steps:
            for path in self._files(step.name):
                if path.is_file():
                    copy = copies / str(len(saved))
                    saved.append([str(path), len(saved)])
                    shutil.copy2(path, copy)
                    _sync(copy)
        _sync(copies)
        kept = {path for path, _ in saved}
        new = [str(path) for one in wheels for path in _targets(one) if str(path) not in kept]
        folders = [str(folder) for one in wheels if not (folder := _dist_info(one)).exists()]
        table = {"saved": saved, "new": new, "folders": folders}
        write_atomic(self._folder / _JOURNAL, json.dumps(table).encode())

    # ---- afterwards ----

    def _undo(self, table: dict[str, Any]) -> None:
        """Remove what is new, put back what was there. May be repeated; ends with the journal gone."""
        for name in table["folders"]:
            shutil.rmtree(name, ignore_errors=True)
        parents: set[Path] = set()
        for name in table["new"]:
            path = Path(name)
            with suppress(OSError):
                path.unlink()
            parents.add(path.parent)
        for name, number in table["saved"]:
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.parent / f".{path.name}.{os.getpid()}.tmp"
            shutil.copy2(self._folder / "files" / str(number), scratch)
            os.replace(scratch, path)
        for folder in sorted(parents, key=lambda one: len(one.parts), reverse=True):
            _remove_empty(folder)
        self._forget()

    def _forget(self) -> None:
        with suppress(FileNotFoundError):
            (self._folder / _JOURNAL).unlink()
        for name in ("files", "wheels"):
            shutil.rmtree(self._folder / name, ignore_errors=True)


def site_folders() -> list[Path]:
    """Where this interpreter's tools put packages."""
    paths = sysconfig.get_paths()
    return list(dict.fromkeys(Path(paths[key]) for key in ("purelib", "platlib")))


def _targets(one: CheckedWheel) -> list[Path]:
    """Every file that installing a wheel writes, programs included."""
    paths = sysconfig.get_paths()
    site, programs, data = Path(paths["purelib"]), Path(paths["scripts"]), Path(paths["data"])
    found = [site / path for path in one.facts.site_paths]
    for path in one.facts.other_paths:
        key, _, inside = path.partition("/")
        if key == "scripts":
            found.append(programs / inside)
        elif key == "headers":
            found.append(Path(paths["include"]) / one.facts.name / inside)
        else:
            found.append(data / inside)
    for group in ("console_scripts", "gui_scripts"):
        suffix = ".exe" if sys.platform == "win32" else ""
        found += [programs / f"{name}{suffix}" for name in one.facts.entry_points.get(group, {})]
    return found


def _dist_info(one: CheckedWheel) -> Path:
    record = next(path for path in one.facts.site_paths if path.endswith(".dist-info/RECORD"))
    return Path(sysconfig.get_paths()["purelib"]) / record.partition("/")[0]


def _remove_empty(folder: Path) -> None:
    """A folder that holds nothing but compiled bytecode, and its parents, up to ``site-packages``."""
    stop = {*site_folders(), Path(sys.prefix)}
    while folder not in stop and folder.is_relative_to(Path(sys.prefix)) and folder.is_dir():
        left = [name for name in os.listdir(folder) if name != "__pycache__"]
        if left:
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder = folder.parent


def _sync(path: Path) -> None:
    """Bytes on disk before the journal speaks of them."""
    with suppress(PermissionError):  # Windows opens no folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
