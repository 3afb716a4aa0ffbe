"""What a task file is about, read without building the task: enough to list it, to find it and to draw groups as trees.

Only the top-level keys that an index needs are turned into Python values; templates, choices and ``!function`` are passed
over, which is what makes 13,000 files a matter of a second.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llmasos.api import InputError

Kind = Literal["task", "group", "tag"]

#: Top-level keys an index keeps, and ``include``, whose files have keys of their own.
WANTED = frozenset(
    {
        "class",
        "dataset_name",
        "dataset_path",
        "description",
        "group",
        "group_alias",
        "include",
        "num_fewshot",
        "output_type",
        "tag",
        "task",
        "task_alias",
        "tasks",
        "evaluation_framework",
    }
)
#: Longest description an index keeps, in characters.
DESCRIPTION = 200


@dataclass(frozen=True, slots=True)
class Summary:
    """One name that a file gives: a task or a group."""

    name: str
    kind: Kind
    output_type: str | None = None
    dataset_path: str | None = None
    dataset_name: str | None = None
    num_fewshot: int | None = None
    tags: tuple[str, ...] = ()
    description: str = ""

    @classmethod
    def of(cls, row: list[Any]) -> Summary:
        """From what ``row`` gave."""
        name, kind, output_type, path, config, shots, tags, description = row
        return cls(name, kind, output_type, path, config, shots, tuple(tags), description)

    def row(self) -> list[Any]:
        """As JSON holds it."""
        return [
            self.name,
            self.kind,
            self.output_type,
            self.dataset_path,
            self.dataset_name,
            self.num_fewshot,
            list(self.tags),
            self.description,
        ]


class Reader:
    """Summaries of many files: a template that a thousand tasks include is read once."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {}
        #: What the last file includes, as far as it was looked at: also of a file that could not be read.
        self.tried: list[str] = []

    def fields(self, path: str) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """The wanted keys of a YAML file, includes merged in, and every file that was included.

        Raises InputError for what is no mapping, not YAML, or includes itself.
        """
        self.tried = []
        return self._merged(path, ())

    def _merged(self, path: str, parents: tuple[str, ...]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        if path in parents:
            raise InputError(f"{path}: task files include each other in a circle")
        if path in self._parts:
            return self._parts[path]
        own = top_level(path)
        includes = own.pop("include", None)
        if includes is None:
            found: tuple[Mapping[str, Any], tuple[str, ...]] = own, ()
        else:
            merged: dict[str, Any] = {}
            files: dict[str, None] = {}
            for item in [includes] if isinstance(includes, str) else includes:
                if not isinstance(item, str):
                    raise InputError(f"{path}: `include` must be a path or a list of paths")
                part = os.path.normpath(os.path.join(os.path.dirname(path), os.path.expanduser(item)))
                self.tried.append(part)
                inherited, below = self._merged(part, (*parents, path))
                merged.update(inherited)
                files.update(dict.fromkeys((part, *below)))
            merged.update(own)
            found = merged, tuple(files)
        if parents:  # a file of its own is asked for once; only what is included is asked for again
            self._parts[path] = found
        return found


def top_level(path: str) -> dict[str, Any]:
    """The wanted top-level keys of a YAML file. Values that are neither scalars nor lists of scalars count as their kind
    only: ``[]`` or ``{}``. Raises InputError for a file that cannot be read or is no mapping."""
    # Here, because a look-up in an index that was kept reads no YAML.
    import yaml

    from llmasos_evals.tasks.nesting import check_nesting
    from llmasos_evals.tasks.taskfile import MAX_BYTES

    try:
        with open(path, "rb") as handle:
            raw = handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read task file {path}: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise InputError(f"{path}: larger than {MAX_BYTES // 2**20} MiB, which no task file is")
    check_nesting(raw, path)
    loader: Any = None
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(raw)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode) or node.tag != "tag:yaml.org,2002:map":
            raise InputError(f"{path}: a task file is a mapping of fields")
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            loader.flatten_mapping(node)
        return {
            key.value: _value(yaml, loader, value)
            for key, value in node.value
            if isinstance(key, yaml.ScalarNode) and key.value in WANTED
        }
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    finally:
        if loader is not None:
            loader.dispose()


def _value(yaml: Any, loader: Any, node: Any) -> Any:
    if node.tag.startswith("tag:yaml.org,2002:python/"):
        raise ValueError(f"it asks for a Python object: {node.tag.rpartition(':')[2]}")
    if isinstance(node, yaml.ScalarNode):
        if not node.tag.startswith("tag:yaml.org,2002:"):
            return f"{node.tag} {node.value}"
        return loader.construct_object(node)
    if isinstance(node, yaml.SequenceNode):
        return [_value(yaml, loader, item) for item in node.value if isinstance(item, yaml.ScalarNode)]
    return {}


def summarise(fields: Mapping[str, Any]) -> Summary | None:
    """The name a task file gives, with lm-evaluation-harness's rule for what it is; None for a file that names nothing."""
    name, kind = fields.get("task"), "task"
    if "class" not in fields and isinstance(fields.get("group"), str):
        name, kind = fields["group"], "group"
    if not isinstance(name, str) or not name:
        return None
    given = fields.get("tag")
    tags = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    shots = fields.get("num_fewshot")
    what = fields.get("group_alias") if kind == "group" else fields.get("description")
    return Summary(
        name=name,
        kind="group" if kind == "group" else "task",
        output_type=None if kind == "group" else _text(fields.get("output_type")) or "generate_until",
        dataset_path=_text(fields.get("dataset_path")),
        dataset_name=_text(fields.get("dataset_name")),
        num_fewshot=shots if isinstance(shots, int) and not isinstance(shots, bool) else None,
        tags=tuple(tag for tag in tags if isinstance(tag, str)) if kind == "task" else (),
        description=one_line(what) if isinstance(what, str) else "",
    )


def one_line(text: str) -> str:
    """Text as a description: white space squeezed, cut with an ellipsis."""
    squeezed = " ".join(text.split())
    return squeezed if len(squeezed) <= DESCRIPTION else squeezed[: DESCRIPTION - 1] + "…"


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
