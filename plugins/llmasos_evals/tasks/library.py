"""Finding tasks: by the name of one that a plugin ships, by name in ``--include`` folders, or by the path of a file."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmasos.api import AmbiguousName, HubAPI, InputError, UnknownName
from llmasos_evals.digests import digest
from llmasos_evals.tasks.config import TASK_FIELDS
from llmasos_evals.tasks.groups import Group, MeanRule
from llmasos_evals.tasks.parsing import near_miss, parse_task
from llmasos_evals.tasks.task import Score, Task
from llmasos_evals.tasks.taskfile import anchor_data_files, read_taskfile

_IGNORED_FOLDERS = {"__pycache__", ".ipynb_checkpoints"}
_GROUP_FIELDS = {"group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A name that can be asked for. A tag has members and no file."""

    name: str
    kind: Literal["task", "group", "tag"]
    origin: str
    path: Path | None = None
    members: tuple[str, ...] = ()


@dataclass
class Selection:
    """What was asked for: every task once, and the groups that were named or lie within one."""

    tasks: tuple[Task, ...]
    groups: tuple[Group, ...] = ()

    def aggregate(self, scores: Mapping[str, Sequence[Score]]) -> dict[str, list[Score]]:
        """Group name -> mean scores, inner groups first; groups without rules give an empty list."""
        return {inner.name: inner.aggregate(scores) for group in self.groups for inner in group.groups()}


@dataclass
class Index:
    """The names in one folder tree, and the files that could not be read."""

    entries: dict[str, list[Entry]] = field(default_factory=dict)
    broken: dict[Path, str] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        self.entries.setdefault(entry.name, []).append(entry)


def select(names: Sequence[str], *, include: Sequence[Path], hub: HubAPI, allow_task_code: bool) -> Selection:
    """The tasks and groups that ``names`` stand for.

    Raises UnknownName with near misses, AmbiguousName naming the places, InputError for a broken file or for one name
    with two different meanings, and what Task raises.
    """
    library = _Library(include, hub, allow_task_code)
    tasks: dict[str, Task] = {}
    groups: dict[str, Group] = {}
    for name in names:
        for found in library.build(name):
            if isinstance(found, Group):
                groups.setdefault(found.name, found)
            for task in found.tasks() if isinstance(found, Group) else (found,):
                known = tasks.setdefault(task.name, task)
                if known is not task and known.digest != task.digest:
                    raise InputError(
                        f"task {task.name} is asked for twice with different settings "
                        f"({known.config.source} and {task.config.source})",
                        hint="run them one after the other, or give one of them another name",
                    )
    if not tasks:
        raise UnknownName("no task was named", hint="try `llmasos eval MODEL quickstart`")
    return Selection(tuple(tasks.values()), tuple(groups.values()))


def scan(folder: Path, *, deep: bool = True) -> Index:
    """Names of the ``*.yaml`` files in a folder (``deep``: and below it), or of one file, sorted by path."""
    index = Index()
    tags: dict[str, list[str]] = {}
    if folder.is_file():
        paths: Iterator[Path] = iter([folder])
    elif folder.is_dir():
        paths = iter(sorted(folder.glob("**/*.yaml" if deep else "*.yaml"), key=lambda path: path.as_posix()))
    else:
        raise InputError(f"--include {folder}: no such folder")
    for path in paths:
        if _IGNORED_FOLDERS.isdisjoint(path.parts):
            _index_file(path, index, tags)
    for tag, members in tags.items():
        index.add(Entry(tag, "tag", str(folder), members=tuple(sorted(set(members)))))
    return index


def _index_file(path: Path, index: Index, tags: dict[str, list[str]]) -> None:
    try:
        raw = read_taskfile(path)
    except InputError as error:
        index.broken[path] = error.message
        return
    if isinstance(raw.get("group"), str):
        index.add(Entry(raw["group"], "group", str(path), path))
    elif isinstance(raw.get("task"), str):
        index.add(Entry(raw["task"], "task", str(path), path))
        given = raw.get("tag")
        for tag in [given] if isinstance(given, str) else given or []:
            tags.setdefault(str(tag), []).append(raw["task"])


class _Library:
    """One look-up: the indexes it has built so far and the tasks it has made."""

    def __init__(self, include: Sequence[Path], hub: HubAPI, allow_task_code: bool) -> None:
        self.include = tuple(Path(path).expanduser() for path in include)
        self.hub = hub
        self.allow_task_code = allow_task_code
        self._indexes: dict[tuple[Path, bool], Index] = {}
        self._tasks: dict[tuple[Path, str], Task] = {}

    def build(self, name: str) -> list[Task | Group]:
        """What a name on the command line stands for."""
        path = Path(name).expanduser()
        if path.suffix in (".yaml", ".yml") or (len(path.parts) > 1 and path.is_file()):
            return [self._from_file(path, {}, ())]
        return self._from_entry(self._find(name, None), {}, (), None)

    def _from_entry(
        self, entry: Entry, overrides: Mapping[str, Any], parents: tuple[str, ...], beside: Path | None
    ) -> list[Task | Group]:
        if entry.kind == "tag":
            found = []
            for member in entry.members:
                found += self._from_entry(self._find(member, beside), overrides, parents, beside)
            return found
        return [self._from_file(self._path(entry), overrides, parents)]

    def _from_file(self, path: Path, overrides: Mapping[str, Any], parents: tuple[str, ...]) -> Task | Group:
        raw = read_taskfile(path)
        if "group" in raw:
            return self._group(str(raw["group"]), raw, path, overrides, parents)
        return self._task(raw, path, overrides)

    def _task(self, raw: Mapping[str, Any], path: Path, overrides: Mapping[str, Any]) -> Task:
        key = (path.resolve(), digest({"name": raw.get("task"), "overrides": overrides}))
        if key not in self._tasks:
            config = parse_task({**raw, **overrides}, path)
            self._tasks[key] = Task(config, self.hub, allow_task_code=self.allow_task_code)
        return self._tasks[key]

    def _group(
        self,
        name: str,
        raw: Mapping[str, Any],
        path: Path,
        overrides: Mapping[str, Any],
        parents: tuple[str, ...],
    ) -> Group:
        if name in parents:
            raise InputError(
                f"{path}: groups contain each other in a circle: {' -> '.join((*parents, name))}"
            )
        for key in raw:
            if key not in _GROUP_FIELDS and key not in TASK_FIELDS:
                raise InputError(
                    f"{path}: unknown field `{key}`{near_miss(key, _GROUP_FIELDS | TASK_FIELDS)}"
                )
        # What is no field of a group is meant for its tasks; whoever asked for the group has the last word.
        for_members = {key: value for key, value in raw.items() if key not in _GROUP_FIELDS} | dict(overrides)
        members: list[Task | Group] = []
        listed = raw.get("task")
        for item in [listed] if isinstance(listed, str) else listed or []:
            members += self._member(item, name, path, for_members, (*parents, name))
        if not members:
            raise InputError(f"{path}: group {name} has no tasks", hint="list them: `task: [name, ...]`")
        metadata = raw.get("metadata")
        metadata = metadata if isinstance(metadata, Mapping) else {}
        return Group(
            name=name,
            alias=str(raw.get("group_alias") or name),
            version=str(metadata.get("version", "unversioned")),
            members=tuple(members),
            rules=_rules(raw.get("aggregate_metric_list"), path),
            metadata=metadata,
        )

    def _member(
        self, item: Any, group: str, path: Path, overrides: Mapping[str, Any], parents: tuple[str, ...]
    ) -> list[Task | Group]:
        if isinstance(item, str):
            return self._from_entry(self._find(item, path.parent), overrides, parents, path.parent)
        if not isinstance(item, Mapping) or not isinstance(item.get("group", item.get("task")), str):
            raise InputError(
                f"{path}: a member of group {group} is a name or has a `task` or `group` name: {item!r}"
            )
        anchored = dict(item)
        anchor_data_files(anchored, path.parent)
        if "group" in item:
            entry = self._known(item["group"], path.parent)
            if entry is None:
                return [self._group(f"{group}::{item['group']}", anchored, path, overrides, parents)]
            own = {key: value for key, value in anchored.items() if key != "group"}
            return self._from_entry(entry, {**overrides, **own}, parents, path.parent)
        own = {key: value for key, value in anchored.items() if key != "task"}
        entry = self._known(item["task"], path.parent)
        if entry is None:
            inline = {"task": f"{group}::{item['task']}", **overrides, **own}
            return [self._task(inline, path, {})]
        return self._from_entry(entry, {**overrides, **own}, parents, path.parent)

    # ---- names ----------------------------------------------------------------------------------------------------

    def _find(self, name: str, beside: Path | None) -> Entry:
        entry = self._known(name, beside)
        if entry is not None:
            return entry
        known = {provided.name for provided in self.hub.names("task")}
        broken: dict[Path, str] = {}
        for index in [
            *map(self._index, self.include),
            *([self._index(beside, deep=False)] if beside else []),
        ]:
            known |= set(index.entries)
            broken |= index.broken
        near = difflib.get_close_matches(name, sorted(known), n=3)
        if near:
            hint = "did you mean " + ", ".join(near) + "?"
        elif self.include:
            hint = "give the path of a task file, or another --include folder"
        else:
            hint = "give the path of a task file, or --include FOLDER with task files"
            if known:
                hint += f"; known: {', '.join(sorted(known)[:8])}" + (" ..." if len(known) > 8 else "")
        if broken:
            path, message = next(iter(broken.items()))
            hint += f" ({len(broken)} files could not be read, the first: {path}: {message})"
        raise UnknownName(f"no task, group or tag named {name!r}", hint=hint)

    def _known(self, name: str, beside: Path | None) -> Entry | None:
        """The entry of a name: for a group's members its own folder first, then everything else."""
        if beside is not None:
            own = self._index(beside, deep=False).entries.get(name, [])
            if own:
                return _single(name, own)
        found = [entry for folder in self.include for entry in self._index(folder).entries.get(name, [])]
        for provided in self.hub.names("task"):
            if name in (provided.name, provided.full_name):
                origin = f"plugin {provided.plugin.id} {provided.plugin.version}"
                found.append(Entry(provided.full_name, "task", origin))
        return _single(name, found) if found else None

    def _index(self, folder: Path, deep: bool = True) -> Index:
        key = (folder, deep)
        if key not in self._indexes:
            self._indexes[key] = scan(folder, deep=deep)
        return self._indexes[key]

    def _path(self, entry: Entry) -> Path:
        if entry.path is not None:
            return entry.path
        factory = self.hub.contribution("task", entry.name).factory
        package, _, inside = factory.partition(":")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise InputError(
                f"{entry.origin}: task {entry.name} lies in package {package}, which is not installed"
            )
        return Path(next(iter(spec.submodule_search_locations))) / inside


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


def _rules(value: Any, path: Path) -> tuple[MeanRule, ...]:
    rules = []
    for entry in [value] if isinstance(value, Mapping) else value or []:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("metric"), str):
            raise InputError(f"{path}: an entry of `aggregate_metric_list` has no `metric` name: {entry!r}")
        unknown = set(entry) - {"metric", "filter_list", "aggregation", "weight_by_size"}
        if unknown:
            raise InputError(f"{path}: unknown field `aggregate_metric_list.{sorted(unknown)[0]}`")
        if entry.get("aggregation", "mean") != "mean":
            raise InputError(f"{path}: groups can only be averaged: `aggregation: mean`")
        filters = entry.get("filter_list")
        filters = [filters] if isinstance(filters, str) else filters
        rules.append(
            MeanRule(
                entry["metric"],
                None if filters is None else tuple(map(str, filters)),
                bool(entry.get("weight_by_size", True)),
            )
        )
    return tuple(rules)
