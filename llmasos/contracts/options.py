"""Options of a pipeline step, checked against a dataclass: the names, types and defaults a plugin declares."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from llmasos.errors import InputError
from llmasos.near_miss import did_you_mean

T = TypeVar("T")


def read_options(schema: type[T], options: Mapping[str, Any], *, what: str) -> T:
    """Build the frozen dataclass ``schema`` from the options a user wrote.

    Fields may be bool, int, float, str, Literal, ``tuple[X, ...]`` (one value or a list), ``Mapping[str, X]`` and unions
    of those. Raises InputError for an unknown option (with the near miss), a missing one, and a value of another type.
    ``what`` names the step in messages, for example ``processor gopher``.
    """
    if not is_dataclass(schema):
        raise TypeError(f"{schema!r} is not a dataclass")
    hints = get_type_hints(schema)
    known = [item.name for item in fields(schema)]
    listing = f"options: {', '.join(known)}" if known else "it takes no options"
    for name in options:
        if name not in known:
            raise InputError(f"{what}: unknown option `{name}`{did_you_mean(str(name), known)}", hint=listing)
    values: dict[str, Any] = {}
    for item in fields(schema):
        if item.name in options:
            values[item.name] = _convert(
                options[item.name], hints[item.name], f"{what}: option `{item.name}`"
            )
        elif item.default is MISSING and item.default_factory is MISSING:
            raise InputError(f"{what}: option `{item.name}` is missing", hint=listing)
    try:
        return schema(**values)
    except ValueError as error:  # from __post_init__: ranges and combinations
        raise InputError(f"{what}: {error}", hint=listing) from None


_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    type(None): "null",
}


def _convert(value: Any, hint: Any, place: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        for choice in get_args(hint):
            try:
                return _convert(value, choice, place)
            except InputError:
                continue
    elif origin is Literal:
        if value in get_args(hint) and not (isinstance(value, bool) and True not in get_args(hint)):
            return value
        if isinstance(value, str):
            choices = [str(choice) for choice in get_args(hint)]
            miss = did_you_mean(value, choices)
            raise InputError(f"{place} is {value!r}{miss}", hint=f"choose one of {', '.join(choices)}")
    elif origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(
            _convert(item, get_args(hint)[0], f"{place}, item {n}") for n, item in enumerate(items, 1)
        )
    elif origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        if isinstance(value, Mapping):
            return {
                str(key): _convert(item, get_args(hint)[1], f"{place}, `{key}`")
                for key, item in value.items()
            }
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif hint is Any or (isinstance(hint, type) and isinstance(value, hint)):
        return value
    raise InputError(
        f"{place} is {value!r}, which is not {_spell(hint)}", hint="see docs/reference/pipelines.md"
    )


def _spell(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_spell(choice) for choice in arguments)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in arguments)
    if origin is tuple:
        return f"a list of: {_spell(arguments[0])}"
    if origin is not None:
        return "a table"
    return _NAMES.get(hint, getattr(hint, "__name__", str(hint)))
