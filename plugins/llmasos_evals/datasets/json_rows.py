"""JSON and JSON Lines, with the types that the ``datasets`` library (version 5) finds in them.

Within a column: whole and broken numbers together are broken ones; text that is a time everywhere is a time; where types
are mixed, values stay what they are, and text that is JSON is what it says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from llmasos.api import InputError
from llmasos_evals.datasets.readers import check_options, text_of
from llmasos_evals.datasets.rows import Row, Rows

_OPTIONS = (
    "field",
    "encoding",
    "encoding_errors",
    "chunksize",
    "block_size",
    "use_threads",
    "on_mixed_types",
)
#: What the library takes for a time: a day, or a day and a clock with or without a zone; no fractions of a second.
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[ T](\d\d)(?::?(\d\d)(?::?(\d\d))?)?(Z|[+-]\d\d(?::?\d\d)?)?)?", re.ASCII
)


def read_json(paths: Sequence[Path], options: Mapping[str, Any], what: str) -> Rows:
    """Rows of files that hold an object a line, or one list of objects (under the key ``field`` of one object).

    Lines that begin with ``#`` before the first row are a header and no data. Raises InputError naming file and line.
    """
    check_options(options, _OPTIONS, what)
    field = options.get("field")
    rows = [row for path in paths for row in _rows(path, what, field, options)]
    columns: dict[str, None] = {}
    for row in rows:
        columns.update(dict.fromkeys(row))
    for name in columns:
        values = [row.get(name) for row in rows]
        typed = _typed(values)
        if typed is not values:
            for row, value in zip(rows, typed, strict=True):
                if name in row:
                    row[name] = value
    return Rows(rows, typed=True)


def _rows(path: Path, what: str, field: Any, options: Mapping[str, Any]) -> Iterator[Row]:
    text = text_of(path, what, options)
    if field is not None or text.lstrip()[:1] == "[":
        yield from _rows_of_document(text, path, what, field)
        return
    header = True
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or (header and line.startswith("#")):
            continue
        header = False
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            hint = None
            if number == 1 and text.lstrip()[:1] == "{":
                hint = "one object a line, or one list of objects; name the list's key with `field`"
            raise InputError(f"{what}: {path}, line {number}: not valid JSON: {error}", hint=hint) from error
        yield _checked(row, path, what, f"line {number}")


def _rows_of_document(text: str, path: Path, what: str, field: Any) -> Iterator[Row]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what}: {path}: not valid JSON: {error}") from error
    if field is not None:
        if not isinstance(value, dict) or field not in value:
            raise InputError(f"{what}: {path}: no field {field!r}")
        value = value[field]
    if not isinstance(value, list):
        raise InputError(f"{what}: {path}: expected a list of objects")
    for number, row in enumerate(value, start=1):
        yield {"text": row} if isinstance(row, str) else _checked(row, path, what, f"item {number}")


def _checked(row: Any, path: Path, what: str, where: str) -> Row:
    if not isinstance(row, dict):
        raise InputError(f"{what}: {path}, {where}: a row is an object, this is {type(row).__name__}")
    return row


# ---- types ------------------------------------------------------------------------------------------------------------


def _typed(values: list[Any]) -> list[Any]:
    """The values of one place in the type tree as the library gives them; the same list where nothing changes."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {str}:
        return _times(values)
    if kinds == {int} and any(not -(2**63) <= value < 2**64 for value in values if value is not None):
        return [None if value is None else float(value) for value in values]
    if kinds == {dict}:
        there = [value for value in values if value is not None]
        fields = list(there[0])
        if not fields or any(set(value) != set(fields) for value in there):
            return values  # structs of different shapes stay what they are
        given = {field: [value[field] for value in there] for field in fields}
        columns = {field: _typed(column) for field, column in given.items()}
        if all(columns[field] is given[field] for field in fields):
            return values
        made = iter([{field: columns[field][n] for field in fields} for n in range(len(there))])
        return [None if value is None else next(made) for value in values]
    if kinds == {list}:
        inner = [item for value in values if value is not None for item in value]
        typed = _typed(inner)
        if typed is inner:
            return values
        items = iter(typed)
        return [None if value is None else [next(items) for _ in value] for value in values]
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    if len(kinds) > 1:
        return [_decoded(value) for value in values]
    return values


def _decoded(value: Any) -> Any:
    """A value of a column of mixed types: text that is JSON is read once more."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _times(values: list[Any]) -> list[Any]:
    first = next(value for value in values if value is not None)
    if _TIME.fullmatch(first) is None:  # by far the most columns
        return values
    times = []
    for value in values:
        time = None if value is None else _time(value)
        if value is not None and time is None:
            return values
        times.append(time)
    return times


def _time(text: str) -> datetime | None:
    """A time in UTC without a zone, or None for other text."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    numbers = [int(part or 0) for part in match.groups()[:6]]
    try:
        time = datetime(*numbers)  # type: ignore[arg-type,misc]
    except ValueError:
        return None
    zone = match[7]
    if zone and zone != "Z":
        digits = zone[1:].replace(":", "").ljust(4, "0")
        shift = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
        time += -shift if zone[0] == "+" else shift
    return time
