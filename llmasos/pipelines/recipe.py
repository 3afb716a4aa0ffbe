"""Pipeline files: what they may say, and where in the file it went wrong. Schema: docs/reference/pipelines.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmasos.contracts.options import read_options
from llmasos.errors import InputError
from llmasos.near_miss import did_you_mean

#: The schema version this module reads.
VERSION = 1

_KEYS = ("version", "source", "steps", "output")


@dataclass(frozen=True, slots=True)
class Part:
    """A source or a step: its kind, its options, and the place in the file for messages."""

    kind: str
    options: Mapping[str, Any]
    place: str


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """The ``output`` table. ``dropped``: samples kept of each step and reason, null for all."""

    path: str | None = None
    compression: Literal["none", "gzip"] = "none"
    dropped: int | None = 1000
    documents: bool = True

    def __post_init__(self) -> None:
        if self.dropped is not None and self.dropped < 0:
            raise ValueError("`dropped` must not be negative")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A checked pipeline file. ``root`` is the folder that relative names start from."""

    name: str
    root: Path
    sources: tuple[Part, ...]
    steps: tuple[Part, ...]
    output: OutputOptions = field(default_factory=OutputOptions)


def read_recipe(path: Path) -> Recipe:
    """Read a pipeline file. Raises InputError naming file and line."""
    import yaml

    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint="name a pipeline file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason})", hint="save it as UTF-8") from None
    try:
        lines = _Lines(yaml.compose(text, Loader=yaml.SafeLoader), str(path))
        table = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        problem = getattr(error, "problem", None) or str(error)
        raise InputError(f"{place}: not valid YAML: {problem}", hint="correct that line") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply", hint="see docs/reference/pipelines.md") from None
    return _recipe(table, lines, path)


def _recipe(table: Any, lines: _Lines, path: Path) -> Recipe:
    hint = "see docs/reference/pipelines.md"
    if not isinstance(table, dict):
        raise InputError(f"{path}: a pipeline file holds a table", hint=f"keys: {', '.join(_KEYS)}")
    for key in table:
        if key not in _KEYS:
            raise InputError(
                f"{lines.place(key)}: unknown key `{key}`{did_you_mean(str(key), _KEYS)}",
                hint=f"keys: {', '.join(_KEYS)}",
            )
    if table.get("version") != VERSION or isinstance(table.get("version"), bool):
        found = f"`version` is {table['version']!r}" if "version" in table else "`version` is missing"
        raise InputError(f"{lines.place('version')}: {found}", hint=f"this reads version: {VERSION}")
    given = table.get("source")
    if given is None:
        raise InputError(
            f"{path}: `source` is missing", hint="for example source: {kind: text, paths: [a.txt]}"
        )
    several = isinstance(given, list)
    sources = [
        _part(entry, lines, ("source", n) if several else ("source",))
        for n, entry in enumerate(given if several else [given])
    ]
    if not sources:
        raise InputError(f"{lines.place('source')}: `source` is empty", hint=hint)
    steps = table.get("steps") or []
    if not isinstance(steps, list):
        raise InputError(
            f"{lines.place('steps')}: `steps` is not a list", hint="write - kind: NAME for each step"
        )
    output = table.get("output") or {}
    place = lines.place("output")
    if not isinstance(output, dict):
        raise InputError(f"{place}: `output` is not a table", hint=hint)
    return Recipe(
        name=path.stem,
        root=path.parent,
        sources=tuple(sources),
        steps=tuple(_part(entry, lines, ("steps", n)) for n, entry in enumerate(steps)),
        output=read_options(OutputOptions, output, what=f"{place}: output"),
    )


def _part(entry: Any, lines: _Lines, keys: Sequence[str | int]) -> Part:
    place = lines.place(*keys)
    if isinstance(entry, str):  # a step without options
        return Part(entry, {}, place)
    if not isinstance(entry, dict):
        raise InputError(f"{place}: expected a table with `kind`", hint="write kind: NAME and its options")
    options = dict(entry)
    kind = options.pop("kind", None)
    if not isinstance(kind, str):
        found = "is missing" if kind is None else f"is {kind!r}"
        miss = next(
            (did_you_mean(str(key), ["kind"]) for key in options if did_you_mean(str(key), ["kind"])), ""
        )
        raise InputError(f"{place}: `kind` {found}{miss}", hint="write kind: NAME and its options")
    return Part(kind, options, place)


class _Lines:
    """Line numbers of a YAML tree by path of keys."""

    def __init__(self, root: Any, name: str) -> None:
        self._root = root
        self._name = name

    def place(self, *keys: str | int) -> str:
        """``file:line`` of the deepest key of the path that exists."""
        import yaml

        node, line = self._root, None
        for key in keys:
            if isinstance(node, yaml.MappingNode):
                for name, value in node.value:
                    if name.value == str(key):
                        node, line = value, name.start_mark.line + 1
                        break
                else:
                    break
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
                node = node.value[key]
                line = node.start_mark.line + 1
            else:
                break
        return f"{self._name}:{line}" if line is not None else self._name
