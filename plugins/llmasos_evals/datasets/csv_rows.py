"""CSV and TSV, with the types that pandas finds in columns and the ``datasets`` library hands on.

A column is of whole numbers, of numbers, of truth values or of text; cells such as ``NA`` and empty ones are None, and
make whole numbers broken ones. What the first 10,000 rows are decides, as there.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmasos.api import InputError
from llmasos_evals.datasets.readers import check_options, text_of
from llmasos_evals.datasets.rows import Rows

_OPTIONS = (
    "sep", "delimiter", "header", "names", "column_names", "usecols", "skiprows", "nrows", "skipinitialspace",
    "quotechar", "quoting", "escapechar", "doublequote", "na_values", "keep_default_na", "na_filter", "encoding",
    "encoding_errors", "chunksize", "low_memory", "engine",
)  # fmt: skip

#: What pandas takes for a missing value.
_MISSING = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA")
) | {"NULL", "NaN", "None", "n/a", "nan", "null"}  # fmt: skip
_WHOLE = re.compile(r"\s*[+-]?\d+\s*", re.ASCII)
_NUMBER = re.compile(
    r"\s*[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|inf|infinity)\s*", re.ASCII | re.IGNORECASE
)
_TRUTH = {"True": True, "TRUE": True, "true": True, "False": False, "FALSE": False, "false": False}
#: Rows that decide the types.
_CHUNK = 10_000

Cell = Callable[[str], Any]


def read_csv(paths: Sequence[Path], options: Mapping[str, Any], what: str) -> Rows:
    """Rows of CSV files. Options are those of ``pandas.read_csv`` that change what is read.

    Raises InputError naming file and line for a row with too many cells, and for an option that is not supported.
    """
    check_options(options, _OPTIONS, what)
    rows: list[dict[str, Any]] = []
    for path in paths:
        names, cells = _table(path, options, what)
        missing = _missing(options)
        columns = [_column([row[place] for row in cells], missing) for place in range(len(names))]
        rows += [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
        if not rows and paths[-1] is path:
            return Rows([], dict.fromkeys(names))
    return Rows(rows, typed=True)


def _table(path: Path, options: Mapping[str, Any], what: str) -> tuple[list[str], list[list[str | None]]]:
    """Column names and rows of text, each as long as there are names; None for cells that a row lacks."""
    dialect = {
        "delimiter": _delimiter(options, what),
        "quotechar": options.get("quotechar") or '"',
        "quoting": int(options.get("quoting") or csv.QUOTE_MINIMAL),
        "escapechar": options.get("escapechar"),
        "doublequote": options.get("doublequote", True),
        "skipinitialspace": bool(options.get("skipinitialspace")),
    }
    text = text_of(path, what, options)
    if skipped := int(options.get("skiprows") or 0):
        text = "".join(text.splitlines(keepends=True)[skipped:])
    given = options.get("column_names") or options.get("names")
    header = options.get("header", "infer")
    if header == "infer":
        header = None if given else 0
    if header is not None and (isinstance(header, bool) or not isinstance(header, int)):
        raise InputError(
            f"{what}: option `header` of its data is a row number, null or infer, not {header!r}"
        )
    limit = options.get("nrows")
    names = None if given is None else _distinct([str(name) for name in given])
    rows: list[list[str | None]] = []
    with _long_cells():
        lines = csv.reader(io.StringIO(text, newline=""), **dialect)
        try:
            for number, cells in enumerate(cells for cells in lines if cells):
                if header is not None and number <= header:
                    if number == header and names is None:
                        names = _distinct([cell or f"Unnamed: {n}" for n, cell in enumerate(cells)])
                    continue
                if names is None:
                    names = [str(place) for place in range(len(cells))]
                if len(cells) > len(names):
                    raise InputError(
                        f"{what}: {path}, line {lines.line_num}: {len(cells)} cells where {len(names)} columns are named"
                    )
                if limit is not None and len(rows) >= int(limit):
                    break
                rows.append([*cells, *[None] * (len(names) - len(cells))])
        except csv.Error as error:
            raise InputError(f"{what}: {path}, line {lines.line_num}: {error}") from error
    if not names:
        raise InputError(f"{what}: {path} has no columns")
    wanted = options.get("usecols")
    if wanted is not None:
        places = [n for n, name in enumerate(names) if name in wanted or n in wanted]
        return [names[n] for n in places], [[row[n] for n in places] for row in rows]
    return names, rows


def _delimiter(options: Mapping[str, Any], what: str) -> str:
    given = options.get("delimiter") or options.get("sep") or ","
    if not isinstance(given, str) or len(given) != 1:
        raise InputError(f"{what}: the delimiter of its data is one character, not {given!r}")
    return given


@contextmanager
def _long_cells() -> Any:
    """Cells of any length; the module's limit is one for the whole process, and is put back."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _distinct(names: Sequence[str]) -> list[str]:
    """Names in which one that is there already gets a number, as pandas does it."""
    seen: dict[str, int] = {}
    out: list[str] = []
    for name in names:
        made = name
        while made in out:
            seen[name] = seen.get(name, 0) + 1
            made = f"{name}.{seen[name]}"
        out.append(made)
    return out


def _missing(options: Mapping[str, Any]) -> frozenset[str]:
    if options.get("na_filter") is False:
        return frozenset()
    given = options.get("na_values") or ()
    extra = frozenset([given] if isinstance(given, str) else map(str, given))
    return extra if options.get("keep_default_na") is False else _MISSING | extra


# ---- types ------------------------------------------------------------------------------------------------------------


def _column(cells: Sequence[str | None], missing: frozenset[str]) -> list[Any]:
    """The values of a column."""
    there = [None if cell is None or cell in missing else cell for cell in cells]
    for sample in (there[:_CHUNK], there):
        convert = _converter(sample)
        try:
            return [None if cell is None else convert(cell) for cell in there]
        except (ValueError, KeyError):
            continue  # later rows are of another type than the first ones: all of them decide
    raise AssertionError("the type of all cells converts all cells")


def _converter(cells: Sequence[str | None]) -> Cell:
    known = [cell for cell in cells if cell is not None]
    if not known:
        return float
    if all(_WHOLE.fullmatch(cell) for cell in known):
        numbers = [int(cell) for cell in known]
        if len(known) < len(cells):
            return float
        if min(numbers) >= -(2**63) and (max(numbers) < 2**63 or min(numbers) >= 0) and max(numbers) < 2**64:
            return int
        return str
    if all(_NUMBER.fullmatch(cell) for cell in known):
        return float
    if all(cell in _TRUTH for cell in known):
        return _TRUTH.__getitem__
    return str
