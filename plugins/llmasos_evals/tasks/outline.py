"""What a task or group is, said without running or fetching anything: for ``llmasos eval show``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmasos.api import HubAPI, InputError, LlmasosError, NotFound
from llmasos_evals.datasets.opening import open_data
from llmasos_evals.tasks.index import Entry
from llmasos_evals.tasks.library import Library
from llmasos_evals.tasks.names import Names
from llmasos_evals.tasks.parsing import parse_task
from llmasos_evals.tasks.sources import HUB_SCHEME, hub_member, read_fields
from llmasos_evals.tasks.sources.members import Member
from llmasos_evals.tasks.summary import Reader
from llmasos_evals.tasks.task import Task
from llmasos_evals.tasks.taskfile import FunctionRef

#: Members of a group beyond this depth are not followed: a task file can be made to nest for ever.
_DEEPEST = 12


class HereOnly:
    """A hub that fetches nothing, whatever the other one may do: looking at a task must not cost a download."""

    offline = True

    def __init__(self, hub: HubAPI) -> None:
        self._hub = hub

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hub, name)


def outline(
    name: str,
    names: Names,
    hub: HubAPI,
    *,
    num_fewshot: int | None,
    allow_task_code: bool,
    allow_code_execution: bool,
) -> dict[str, Any]:
    """Everything about a task, group or tag that can be known here. JSON values.

    Raises UnknownName, AmbiguousName, and InputError for a file that is broken.
    """
    path = Path(name).expanduser()
    if name.startswith(HUB_SCHEME):
        member = hub_member(name, hub)
        entry, path = None, member.path
        raw = read_fields(path, member.name, member.data)
    elif path.exists() and (len(path.parts) > 1 or path.is_file() or names.known(name, None) is None):
        entry = None
        raw = read_fields(path)
    else:
        entry = names.find(name)
        if entry.kind == "tag":
            members = [_node(names.find(member), names, 1, ()) for member in entry.members]
            return {"name": name, "kind": "tag", "origin": entry.origin, "members": members}
        path = names.file(entry)
        raw = read_fields(path, None if entry.path is None else entry.name)
    origin = entry.origin if entry is not None else name
    if "group" in raw and "class" not in raw:
        return {
            "name": str(raw["group"]),
            "kind": "group",
            "origin": origin,
            "path": str(path),
            "fields": _shown({key: value for key, value in raw.items() if key != "task"}),
            "flags": [],
            "files": _files(path),
            "members": _members(raw, path, names, 1, (str(raw["group"]),)),
        }
    library = Library(
        names,
        HereOnly(hub),  # type: ignore[arg-type]
        allow_task_code=allow_task_code,
        allow_code_execution=allow_code_execution,
    )
    told: dict[str, Any] = {
        "name": str(raw.get("task")),
        "kind": "task",
        "origin": origin,
        "path": str(path),
        "fields": _shown(raw),
        "flags": _flags(raw),
        "files": _files(path) | _code(raw),
        "data": None,
        "metrics": [],
        "prompt": None,
        "notes": [],
    }
    if "class" in raw:
        told["notes"].append("a Python class: the plugin of its package runs it")
        return told
    config = parse_task(raw, path)
    told["data"] = _data(config, hub)
    try:
        task = library.task(raw, path)
    except LlmasosError as error:
        told["notes"].append(error.message + (f" ({error.hint})" if error.hint else ""))
        return told
    told["metrics"] = [
        {
            "name": measure.name,
            "signature": measure.signature,
            "unit": measure.unit,
            "range": list(measure.range),
            "higher_is_better": measure.higher_is_better,
        }
        for measure in task.measures.values()
    ]
    told["files"] |= {str(path.parent / file): digest for file, digest in task.code.items()}
    told["digest"] = task.digest
    told["notes"] += list(task.remarks)
    if told["data"]["here"]:
        told["prompt"] = _prompt(task, num_fewshot, told["notes"])
    return told


# ---- parts ------------------------------------------------------------------------------------------------------------


def _shown(value: Any) -> Any:
    """Fields as JSON holds them; functions as they are written in the file."""
    if isinstance(value, FunctionRef):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _flags(raw: Mapping[str, Any]) -> list[str]:
    """What the command line has to allow before the task runs."""
    flags = []
    if next(_functions(raw), None) is not None or "class" in raw:
        flags.append("--allow-task-code")
    if raw.get("unsafe_code"):
        flags.append("--allow-code-execution")
    return flags


def _functions(value: Any) -> Iterator[FunctionRef]:
    if isinstance(value, FunctionRef):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _functions(item)
    elif isinstance(value, list):
        for item in value:
            yield from _functions(item)


def _files(path: Path) -> dict[str, str]:
    """SHA-256 of the file and of what it includes."""
    files = [str(path)]
    if path.suffix in (".yaml", ".yml"):
        with suppress(InputError):  # a part that is missing is said where the task is read
            files += Reader().fields(str(path.resolve()))[1]
    return {file: digest for file in files if (digest := _digest(Path(file))) is not None}


def _code(raw: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the Python files that the file names; what these import is known when they are allowed to run."""
    found = {ref.file for ref in _functions(raw)}
    return {str(file): digest for file in sorted(found) if (digest := _digest(file)) is not None}


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _data(config: Any, hub: HubAPI) -> dict[str, Any]:
    told: dict[str, Any] = {"path": config.dataset_path, "name": config.dataset_name, "here": False}
    if config.custom_dataset is not None:
        return told | {"origin": {"kind": "function"}, "note": "made by the task's own code"}
    try:
        data = open_data(
            config.task,
            config.dataset_path,
            config.dataset_kwargs,
            config.source,
            dataset_name=config.dataset_name,
            hub=HereOnly(hub),  # type: ignore[arg-type]
            splits=[split for split in (config.test_split, config.validation_split) if split],
        )
        split = next(
            (s for s in (config.test_split, config.validation_split) if data.has(s)), config.eval_split
        )
        rows = data.split(split)
        return told | {
            "here": True,
            "origin": dict(data.origin),
            "splits": list(data.names),
            "scored": split,
            "documents": len(rows),
            "columns": list(rows.column_names),
        }
    except NotFound as error:
        note = error.message if hub.offline else "not here yet: `llmasos eval` fetches it"
        return told | {"origin": None, "note": note, "hint": error.hint}
    except LlmasosError as error:
        return told | {"origin": None, "note": error.message, "hint": error.hint}


def _prompt(task: Task, num_fewshot: int | None, notes: list[str]) -> dict[str, Any] | None:
    try:
        planned = next(task.plan(limit=1, num_fewshot=num_fewshot, seed=1234, compat="native"), None)
    except LlmasosError as error:
        notes.append(error.message)
        return None
    if planned is None:
        return None
    first = planned.requests[0] if planned.requests else None
    return {
        "document": _shown(planned.doc),
        "target": _shown(planned.target),
        "requests": [
            {"kind": request.kind, "context": request.context, "continuation": request.continuation}
            for request in planned.requests
        ],
        "options": _shown(dict(first.options)) if first is not None else {},
    }


# ---- groups -----------------------------------------------------------------------------------------------------------


def _node(entry: Entry, names: Names, depth: int, parents: tuple[str, ...]) -> dict[str, Any]:
    node: dict[str, Any] = {"name": entry.name, "kind": entry.kind}
    if entry.kind == "tag":
        node["members"] = [_node(names.find(member), names, depth + 1, parents) for member in entry.members]
        return node
    path = names.file(entry)
    node["path"] = str(path)
    if entry.kind == "group":
        raw = read_fields(path, None if entry.path is None else entry.name)
        node["members"] = _members(raw, path, names, depth, (*parents, entry.name))
    return node


def _members(
    raw: Mapping[str, Any], path: Path, names: Names, depth: int, parents: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The members of a group as nodes; a group within itself is named and not followed."""
    listed = raw.get("task")
    nodes: list[dict[str, Any]] = []
    for item in [listed] if isinstance(listed, str) else listed or []:
        if isinstance(item, Member):
            nodes.append({"name": item.name or item.path.stem, "kind": "task", "path": str(item.path)})
            continue
        own = item if isinstance(item, Mapping) else {}
        kind = "group" if "group" in own else "task"
        name = item if isinstance(item, str) else own.get("group", own.get("task"))
        if not isinstance(name, str):
            raise InputError(
                f"{path}: a member of a group is a name or has a `task` or `group` name: {item!r}"
            )
        entry = names.known(name, path.parent)
        changed = _shown({key: value for key, value in own.items() if key not in ("task", "group")})
        if entry is None:
            inner = _members(own, path, names, depth + 1, (*parents, name)) if kind == "group" else None
            if isinstance(item, str):
                names.find(name, path.parent)  # raises, with near misses
            nodes.append(
                {"name": name, "kind": kind, "path": str(path), **({"members": inner} if inner else {})}
            )
            continue
        if name in parents or depth >= _DEEPEST:
            nodes.append({"name": name, "kind": entry.kind, "note": "contains itself"})
            continue
        node = _node(entry, names, depth + 1, parents)
        nodes.append(node | ({"overrides": changed} if changed else {}))
    return nodes
