"""What a name stands for: a task that a plugin ships, or a task, group or tag in a folder. Builds nothing."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from llmasos.api import AmbiguousName, HubAPI, LlmasosError, Progress, Provided, TaskSource, UnknownName
from llmasos_evals.tasks.index import Entry, FolderIndex, open_index
from llmasos_evals.tasks.summary import Reader, Summary, one_line

#: Names at least this much alike (``difflib``'s ratio) are taken for one with a slip in it.
MISSPELT = 0.8


class Misspelt(UnknownName):
    """A name that is not there and looks like one that is."""


class Names:
    """Looks names up in what plugins ship and in folders; remembers the indexes it has opened.

    Folders: those of the command line, then those of the setting ``include`` of this plugin, then those of installed
    packages that plugins know (``task_sources``); names of the later ones give way.
    """

    def __init__(self, include: Sequence[Path], hub: HubAPI, progress: Progress | None = None) -> None:
        self.include = tuple(Path(path).expanduser() for path in include)
        self.permanent = tuple(path for path in permanent_folders(hub) if path not in self.include)
        self.hub = hub
        # Who watches long work of the hub watches this too, where nobody else was named.
        self._progress = progress or getattr(hub, "progress", None)
        self._indexes: dict[tuple[Path, bool], FolderIndex] = {}

    def entries(self, containing: str | None = None) -> Iterator[Entry]:
        """Every name there is: what plugins ship, then the folders in order. A name may come more than once.

        ``containing`` leaves out (not all, but most) names and tags that do not have this text in them.
        """
        for provided in self.hub.names("task"):
            yield _shipped(provided)
        for folder in (*self.include, *self.permanent, *self.installed):
            index = self._index(folder)
            if containing is not None:
                yield from index.containing(containing)
                continue
            for found in index.by_name.values():
                yield from found

    def broken(self) -> dict[str, str]:
        """Files of the folders that could not be read, and why."""
        found: dict[str, str] = {}
        for folder in (*self.include, *self.permanent, *self.installed):
            found.update(self._index(folder).broken)
        return found

    def find(self, name: str, beside: Path | None = None) -> Entry:
        """The entry of a name. Raises UnknownName with near misses, AmbiguousName naming the places."""
        entry = self.known(name, beside)
        if entry is not None:
            return entry
        known = {provided.name for provided in self.hub.names("task")}
        broken: dict[str, str] = {}
        folders = [self._index(folder) for folder in (*self.include, *self.permanent, *self.installed)]
        for index in [*folders, *([self._index(beside, deep=False)] if beside else [])]:
            known |= set(index.by_name)
            broken |= index.broken
        near = difflib.get_close_matches(name, sorted(known), n=3)
        if near:
            hint = "did you mean " + ", ".join(near) + "?"
        elif folders:
            hint = "give the path of a task file, or another --include folder"
        else:
            hint = "give the path of a task file, or --include FOLDER with task files"
            if known:
                hint += f"; known: {', '.join(sorted(known)[:8])}" + (" ..." if len(known) > 8 else "")
        if broken:
            path, message = next(iter(broken.items()))
            hint += f" ({len(broken)} files could not be read, the first: {path}: {message})"
        kind = Misspelt if difflib.get_close_matches(name, near, cutoff=MISSPELT) else UnknownName
        raise kind(f"no task, group or tag named {name!r}", hint=hint)

    def known(self, name: str, beside: Path | None) -> Entry | None:
        """The entry of a name: for a group's members its own folder first, then everything else.

        A tag is all tasks that have it, wherever they lie.
        """
        own: list[Entry] = []
        if beside is not None:
            own = self._beside(name, beside)
            if any(entry.kind != "tag" for entry in own):
                return _single(name, [entry for entry in own if entry.kind != "tag"])
        found = own + [entry for folder in self.include for entry in self._index(folder).find(name)]
        for provided in self.hub.names("task"):
            if name in (provided.name, provided.full_name):
                found.append(_shipped(provided))
        if not found or all(entry.kind == "tag" for entry in found):
            found += [entry for folder in self.permanent for entry in self._index(folder).find(name)]
        tags_only = all(entry.kind == "tag" for entry in found)
        if not found or (tags_only and beside is not None and self._in_package(beside)):
            found += [entry for folder in self.installed for entry in self._index(folder).find(name)]
        return _single(name, found) if found else None

    @cached_property
    def installed(self) -> tuple[Path, ...]:
        """Folders of installed packages; asking imports the plugins that know them."""
        found: list[Path] = []
        for provided in self.hub.names("task_source"):
            source: TaskSource = self.hub.get("task_source", provided.full_name)()
            found += [folder for folder in source.folders() if folder not in found]
        return tuple(found)

    def _in_package(self, folder: Path) -> bool:
        """Whether a folder is one of those that plugins know, as far as they were asked already."""
        asked: tuple[Path, ...] = self.__dict__.get("installed", ())
        return any(root == folder or root in folder.parents for root in asked)

    def _beside(self, name: str, folder: Path) -> list[Entry]:
        asked = self.installed if self._in_package(folder) else ()
        for root in (*self.include, *self.permanent, *asked):
            index = self._index(root)
            if folder == index.root or index.root in folder.parents:
                return index.find(name, within=str(folder))
        return self._index(folder, deep=False).find(name)

    def _index(self, folder: Path, deep: bool = True) -> FolderIndex:
        key = (folder, deep)
        if key not in self._indexes:
            # One folder is read in no time; a tree may have thousands of files.
            watched = self._progress if deep else None
            self._indexes[key] = open_index(folder, self.hub.cache_dir, watched, deep=deep)
        return self._indexes[key]

    def looked_at(self, entry: Entry) -> Entry:
        """The entry with what its file says, where only its name and what a plugin says about it were known."""
        from llmasos_evals.tasks.sources import summaries_of

        known = entry.summary
        if known is None or entry.file is not None:
            return entry
        try:
            found, _ = summaries_of(str(self.file(entry)), Reader())
        except LlmasosError:  # whoever runs it is told
            return entry
        told = next((one for one in found if one.name == known.name), None)
        if told is None:
            return entry
        summary = replace(told, description=known.description)
        return replace(entry, kind=told.kind, summary=summary)

    def file(self, entry: Entry) -> Path:
        """Where the file of a task or group lies."""
        if entry.path is not None:
            return entry.path
        path: Path = self.hub.get("task", entry.name)
        return path


def expanded(wanted: Sequence[str], names: Names) -> tuple[str, ...]:
    """What was asked for, with the names of tasks in the place of patterns such as ``mmlu_*``.

    Only tasks: a group may set its members otherwise. Raises UnknownName for a pattern that no task matches.
    """
    found: dict[str, None] = {}
    for name in wanted:
        if (
            not has_magic(name)
            or name.endswith((".yaml", ".yml", ".json", ".jsonl"))
            or names.known(name, None)
        ):
            found[name] = None
            continue
        matching = {
            entry.name.rpartition("/")[2]
            for entry in names.entries(None)
            if entry.kind == "task" and matches(entry.name, name)
        }
        if not matching:
            raise UnknownName(f"no task matches {name!r}", hint="`llmasos eval ls` lists the tasks")
        found.update(dict.fromkeys(sorted(matching)))
    return tuple(found)


def has_magic(pattern: str) -> bool:
    """Whether a text is a pattern, and no plain name."""
    return any(character in pattern for character in "*?[")


def matches(name: str, pattern: str) -> bool:
    """Whether a task's name fits a pattern; tasks of a plugin are called by the last part of their name, too."""
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition("/")[2], pattern)


def permanent_folders(hub: HubAPI) -> tuple[Path, ...]:
    """Folders named in the setting ``include`` of this plugin, separated as in PATH."""
    value = str(hub.plugin_settings("llmasos-evals").get("include", ""))
    return tuple(Path(part).expanduser() for part in value.split(os.pathsep) if part)


def _shipped(provided: Provided) -> Entry:
    origin = f"plugin {provided.plugin.id} {provided.plugin.version}"
    summary = Summary(provided.name, "task", description=one_line(provided.summary))
    return Entry(provided.full_name, "task", origin, summary=summary)


def _single(name: str, found: Sequence[Entry]) -> Entry:
    """The only entry. Tags of one name in several folders are one tag; anything else twice is ambiguous."""
    if all(entry.kind == "tag" for entry in found):
        members = tuple(sorted({member for entry in found for member in entry.members}))
        return Entry(name, "tag", found[0].origin, members=members)
    places = list(dict.fromkeys(entry.origin for entry in found))
    if len(places) > 1:
        raise AmbiguousName(
            f"{name!r} is found more than once: " + " and ".join(places),
            hint="give the path of the file you mean",
        )
    return found[0]
