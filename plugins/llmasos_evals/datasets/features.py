"""Types of columns as data sets state them: in a file's note, in a repository's card, or in a task file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmasos.api import InputError


@dataclass(frozen=True, slots=True)
class ClassLabel:
    """A column of class numbers and their names. Values stay numbers; task code may ask for names."""

    names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.names)

    def int2str(self, values: Any) -> Any:
        """Names of one or more numbers."""
        return self.names[values] if isinstance(values, int) else [self.names[value] for value in values]

    def str2int(self, values: Any) -> Any:
        """Numbers of one or more names."""
        if isinstance(values, str):
            return self.encode_example(values)
        return [self.encode_example(value) for value in values]

    def encode_example(self, value: Any) -> Any:
        """A value of the column: the number of a name, or of digits, or the number itself."""
        if not isinstance(value, str):
            return value
        if value in self.names:
            return self.names.index(value)
        if value.lstrip("-").isdigit():
            return int(value)
        raise InputError(f"{value!r} is none of the classes {', '.join(self.names)}")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of one scalar type, or of lists or structs of such."""

    cast: Callable[[Any], Any]

    def encode_example(self, value: Any) -> Any:
        """A value as this column has it."""
        return self.cast(value)


def features_of(stated: Any) -> dict[str, Any]:
    """Column types from what is stated: a mapping name -> type, or a list of ``{name, dtype | list | struct}``.

    Types nobody needs to know about are None. Raises TypeError or ValueError for what is neither.
    """
    if isinstance(stated, Mapping):
        return {str(name): _feature(value) for name, value in stated.items()}
    if isinstance(stated, list):
        return {str(item["name"]): _feature(item) for item in stated}
    raise TypeError("features are a mapping or a list")


def _feature(stated: Any) -> Any:
    if isinstance(stated, str):
        stated = {"dtype": stated}
    if isinstance(stated, list) and len(stated) == 1:
        return _listed(_feature(stated[0]))
    if not isinstance(stated, Mapping):
        return None
    names = stated.get("names")
    label = stated.get("dtype")
    if isinstance(label, Mapping) and "class_label" in label:
        names = label["class_label"].get("names")
    if stated.get("_type") == "ClassLabel" or (isinstance(label, Mapping) and names is not None):
        return ClassLabel(_class_names(names))
    for key in ("sequence", "list", "feature"):
        if key in stated and stated[key] is not True:
            return _listed(_feature(stated[key]))
    fields = stated.get("struct")
    if isinstance(fields, list):
        return _struct(features_of(fields))
    scalar = _scalar(label) if isinstance(label, str) else None
    return _listed(scalar) if stated.get("sequence") is True else scalar


def _class_names(names: Any) -> tuple[str, ...]:
    if isinstance(names, Mapping):  # {'0': ..., '1': ...} in cards
        return tuple(str(names[key]) for key in sorted(names, key=int))
    if isinstance(names, Sequence) and not isinstance(names, str):
        return tuple(map(str, names))
    raise ValueError("a class label has names")


def _scalar(dtype: str) -> Column | None:
    if dtype in ("string", "large_string"):
        return Column(_text)
    if dtype.startswith(("int", "uint")):
        return Column(lambda value: value if value is None else int(value))
    if dtype.startswith(("float", "double")):
        return Column(lambda value: value if value is None else float(value))
    if dtype == "bool":
        return Column(lambda value: value if value is None else bool(value))
    return None


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _listed(inner: Any) -> Column | None:
    if inner is None:
        return None

    def cast(value: Any) -> Any:
        return [inner.encode_example(item) for item in value] if isinstance(value, list) else value

    return Column(cast)


def _struct(fields: Mapping[str, Any]) -> Column:
    def cast(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            name: kind.encode_example(value.get(name)) if kind is not None else value.get(name)
            for name, kind in fields.items()
        }

    return Column(cast)
