"""Parquet and Arrow files, through pyarrow, which is imported when there is such a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmasos.api import InputError
from llmasos_evals.datasets.features import features_of
from llmasos_evals.datasets.readers import check_options, pyarrow
from llmasos_evals.datasets.rows import Row, Rows

#: Where the ``datasets`` library keeps column types that Arrow does not have, such as names of classes.
_NOTE = b"huggingface"


def read_parquet(paths: Sequence[Path], options: Mapping[str, Any], what: str) -> Rows:
    """Rows of Parquet files; option ``columns`` chooses some. Raises InputError, MissingDependency without pyarrow."""
    check_options(
        options, ("columns", "batch_size", "filters", "fragment_scan_options", "on_bad_files"), what
    )
    if options.get("filters") is not None or options.get("fragment_scan_options") is not None:
        raise InputError(f"{what}: options `filters` and `fragment_scan_options` are not supported")
    wanted = options.get("columns")
    rows: list[Row] = []
    features: dict[str, Any] = {}
    for path in paths:
        arrow = pyarrow(path)
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(path) as file:
                features |= _features(file.schema_arrow, wanted)
                # In the order of the file, as the library has them.
                names = [name for name in file.schema_arrow.names if wanted is None or name in wanted]
                for batch in file.iter_batches(columns=names):
                    rows += batch.to_pylist()
        except (arrow.ArrowException, OSError) as error:
            raise InputError(f"{what}: {path} is not a Parquet file: {_one_line(error)}") from error
    return Rows(rows, features, typed=True)


def read_arrow(paths: Sequence[Path], options: Mapping[str, Any], what: str) -> Rows:
    """Rows of Arrow files, stream or file format. Raises InputError, MissingDependency without pyarrow."""
    check_options(options, (), what)
    rows: list[Row] = []
    features: dict[str, Any] = {}
    for path in paths:
        arrow = pyarrow(path)
        try:
            with arrow.memory_map(str(path)) as source:
                try:
                    table = arrow.ipc.open_stream(source).read_all()
                except arrow.ArrowInvalid:
                    table = arrow.ipc.open_file(source).read_all()
                table.validate(full=True)
                features |= _features(table.schema, None)
                rows += table.to_pylist()
        except (arrow.ArrowException, OSError) as error:
            raise InputError(f"{what}: {path} is not an Arrow file: {_one_line(error)}") from error
    return Rows(rows, features, typed=True)


def _features(schema: Any, wanted: Sequence[str] | None) -> dict[str, Any]:
    """What a file says about its columns; a note that cannot be read says nothing."""
    try:
        note = json.loads((schema.metadata or {})[_NOTE])["info"]["features"]
        known = features_of(note)
    except (KeyError, ValueError, TypeError, RecursionError):
        known = {}
    return {name: known.get(name) for name in schema.names if wanted is None or name in wanted}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
