"""Tasks and groups brought to life: from names, or from the path of a file, with what groups say about their members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmasos.api import HubAPI, InputError, Progress, UnknownName
from llmasos_evals.digests import digest
from llmasos_evals.tasks.config import TASK_FIELDS
from llmasos_evals.tasks.functions import TaskCode
from llmasos_evals.tasks.groups import Group, MeanRule
from llmasos_evals.tasks.index import Entry
from llmasos_evals.tasks.names import Names
from llmasos_evals.tasks.parsing import near_miss, parse_task
from llmasos_evals.tasks.program import open_program
from llmasos_evals.tasks.sources import HUB_SCHEME, hub_member, read_fields, task_suffixes
from llmasos_evals.tasks.sources.members import Data, Member
from llmasos_evals.tasks.task import Score, Task
from llmasos_evals.tasks.taskfile import FunctionRef, anchor_data_files

_GROUP_FIELDS = {"group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag"}
_GROUP_SETTINGS = {"group_alias", "aggregate_metric_list"}


@dataclass
class Selection:
    """What was asked for: every task once, and the groups that were named or lie within one."""

    tasks: tuple[Task, ...]
    groups: tuple[Group, ...] = ()

    def aggregate(self, scores: Mapping[str, Sequence[Score]]) -> dict[str, list[Score]]:
        """Group name -> mean scores, inner groups first; groups without rules give an empty list."""
        return {inner.name: inner.aggregate(scores) for group in self.groups for inner in group.groups()}


def select(
    names: Sequence[str],
    *,
    include: Sequence[Path],
    hub: HubAPI,
    allow_task_code: bool,
    allow_code_execution: bool = False,
    progress: Progress | None = None,
) -> Selection:
    """The tasks and groups that ``names`` stand for.

    Raises UnknownName with near misses, AmbiguousName naming the places, InputError for a broken file or for one name
    with two different meanings, and what Task raises.
    """
    library = Library(
        Names(include, hub, progress),
        hub,
        allow_task_code=allow_task_code,
        allow_code_execution=allow_code_execution,
    )
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


class Library:
    """Builds what names stand for; remembers the tasks it has made."""

    def __init__(
        self,
        names: Names,
        hub: HubAPI,
        *,
        allow_task_code: bool = False,
        allow_code_execution: bool = False,
    ) -> None:
        self.names = names
        self.hub = hub
        self.allow_task_code = allow_task_code
        self.allow_code_execution = allow_code_execution
        self._tasks: dict[tuple[Path, str], Task] = {}

    def build(self, name: str) -> list[Task | Group]:
        """What a name on the command line stands for."""
        if name.startswith(HUB_SCHEME):
            member = hub_member(name, self.hub)
            return [self._from_file(member.path, {}, (), member.name, member.data)]
        path = Path(name).expanduser()
        if path.suffix in (*task_suffixes(), ".yml") or (len(path.parts) > 1 and path.exists()):
            return [self._from_file(path, {}, ())]
        if path.is_dir() and self.names.known(name, None) is None:
            return [self._from_file(path, {}, ())]
        return self._from_entry(self.names.find(name, None), {}, (), None)

    def _from_entry(
        self, entry: Entry, overrides: Mapping[str, Any], parents: tuple[str, ...], beside: Path | None
    ) -> list[Task | Group]:
        if entry.kind == "tag":
            found = []
            for member in entry.members:
                found += self._from_entry(self.names.find(member, beside), overrides, parents, beside)
            return found
        name = entry.name if entry.path is not None else None
        return [self._from_file(self.names.file(entry), overrides, parents, name)]

    def _from_file(
        self,
        path: Path,
        overrides: Mapping[str, Any],
        parents: tuple[str, ...],
        name: str | None = None,
        data: Data | None = None,
    ) -> Task | Group:
        raw = read_fields(path, name, data)
        if "group" in raw and "class" not in raw:
            # What belongs to a group, somebody who lists it may set; the rest is meant for its tasks.
            of_group = {key: value for key, value in overrides.items() if key in _GROUP_SETTINGS}
            rest = {key: value for key, value in overrides.items() if key not in _GROUP_SETTINGS}
            return self._group(str(raw["group"]), {**raw, **of_group}, path, rest, parents)
        return self._task(raw, path, overrides)

    def task(self, raw: Mapping[str, Any], path: Path) -> Task:
        """The task of fields that were read from a file. Raises what Task raises."""
        return self._task(raw, path, {})

    def _task(self, raw: Mapping[str, Any], path: Path, overrides: Mapping[str, Any]) -> Task:
        key = (path.resolve(), digest({"name": raw.get("task"), "overrides": overrides}))
        if key not in self._tasks and "class" in raw:
            self._tasks[key] = open_program(self.hub, path, raw, overrides, allowed=self.allow_task_code)
        elif key not in self._tasks:
            config = parse_task({**raw, **overrides}, path)
            self._tasks[key] = Task(
                config,
                self.hub,
                allow_task_code=self.allow_task_code,
                allow_code_execution=self.allow_code_execution,
            )
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
            members=_once(members),
            rules=_rules(name, raw.get("aggregate_metric_list"), path, allowed=self.allow_task_code),
            metadata=metadata,
        )

    def _member(
        self, item: Any, group: str, path: Path, overrides: Mapping[str, Any], parents: tuple[str, ...]
    ) -> list[Task | Group]:
        if isinstance(item, str):
            return self._from_entry(self.names.find(item, path.parent), overrides, parents, path.parent)
        if isinstance(item, Member):
            return [self._from_file(item.path, overrides, parents, item.name, item.data)]
        if not isinstance(item, Mapping) or not isinstance(item.get("group", item.get("task")), str):
            raise InputError(
                f"{path}: a member of group {group} is a name or has a `task` or `group` name: {item!r}"
            )
        anchored = dict(item)
        anchor_data_files(anchored, path.parent)
        if "group" in item:
            entry = self.names.known(item["group"], path.parent)
            if entry is None:
                return [self._group(f"{group}::{item['group']}", anchored, path, overrides, parents)]
            own = {key: value for key, value in anchored.items() if key != "group"}
            return self._from_entry(entry, {**overrides, **own}, parents, path.parent)
        own = {key: value for key, value in anchored.items() if key != "task"}
        entry = self.names.known(item["task"], path.parent)
        if entry is None:
            inline = {"task": f"{group}::{item['task']}", **overrides, **own}
            return [self._task(inline, path, {})]
        return self._from_entry(entry, {**overrides, **own}, parents, path.parent)


def _once(members: Sequence[Task | Group]) -> tuple[Task | Group, ...]:
    """Members without those that come again as they were: a group may list a task and a tag that has it."""
    kept: list[Task | Group] = []
    for member in members:
        if not any(member is other for other in kept):
            kept.append(member)
    return tuple(kept)


def _rules(name: str, value: Any, path: Path, *, allowed: bool) -> tuple[MeanRule, ...]:
    rules = []
    for entry in [value] if isinstance(value, Mapping) else value or []:
        metric = entry.get("metric") if isinstance(entry, Mapping) else None
        if not isinstance(metric, str | FunctionRef):
            raise InputError(f"{path}: an entry of `aggregate_metric_list` has no `metric` name: {entry!r}")
        unknown = set(entry) - {"metric", "filter_list", "aggregation", "weight_by_size"}
        if unknown:
            raise InputError(f"{path}: unknown field `aggregate_metric_list.{sorted(unknown)[0]}`")
        aggregation = entry.get("aggregation", "mean")
        if aggregation != "mean" and not isinstance(aggregation, FunctionRef):
            raise InputError(f"{path}: groups can only be averaged: `aggregation: mean`")
        filters = entry.get("filter_list")
        filters = [filters] if isinstance(filters, str) else filters
        rule = MeanRule(
            metric.name if isinstance(metric, FunctionRef) else metric,
            None if filters is None else tuple(map(str, filters)),
            bool(entry.get("weight_by_size", True)),
        )
        if isinstance(aggregation, FunctionRef):
            code = TaskCode(name, allowed=allowed, base=path.parent)
            function = code.resolve(aggregation)
            rule = replace(rule, function=function, function_digest=digest(code.digests))
        rules.append(rule)
    return tuple(rules)
