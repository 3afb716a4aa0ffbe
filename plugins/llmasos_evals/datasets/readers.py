"""File formats: which reader a file has, how it is opened, and what a reader is told.

A reader turns the files of one split into rows with the values that the ``datasets`` library gives for them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from llmasos.api import InputError, LlmasosError, MissingDependency
from llmasos_evals.datasets.rows import Rows

#: A data file is read whole; larger ones than this after unpacking are no evaluation data. Bytes.
MAX_BYTES = 2 * 2**30

#: (files of one split, options, what to call it in messages) -> rows. Raises InputError naming file and place.
Reader = Callable[[Sequence[Path], Mapping[str, Any], str], Rows]

#: Formats as ``dataset_path`` names them, and their modules in this package.
_MODULES = {
    "json": "json_rows",
    "csv": "csv_rows",
    "text": "text_rows",
    "parquet": "columnar",
    "arrow": "columnar",
    "bigbench": "bigbench_rows",
}
FORMATS = tuple(_MODULES)

#: Ending of a file, without compression -> format and the options that go with it.
ENDINGS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".ndjson": ("json", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".txt": ("text", {}),
    ".parquet": ("parquet", {}),
    ".arrow": ("arrow", {}),
}
_PACKED = (".gz", ".bz2", ".xz", ".zst")


def reader(name: str) -> Reader:
    """The reader of a format; its library is imported when it reads."""
    module = importlib.import_module(f"llmasos_evals.datasets.{_MODULES[name]}")
    return cast(Reader, getattr(module, f"read_{name}"))


def format_of(name: str) -> tuple[str, Mapping[str, Any]] | None:
    """Format and options that a file's name stands for, or None."""
    lower = name.lower()
    for ending in _PACKED:
        lower = lower.removesuffix(ending)
    return ENDINGS.get(Path(lower).suffix)


def read_bytes(path: Path, what: str) -> bytes:
    """The contents of a file, unpacked. Raises InputError for one that cannot be read or is too large."""
    try:
        with _opened(path) as handle:
            raw = handle.read(MAX_BYTES + 1)
    except LlmasosError:
        raise
    except Exception as error:  # each compression has errors of its own
        raise InputError(f"{what}: cannot read data file {path}: {error}") from error
    if len(raw) > MAX_BYTES:
        raise InputError(f"{what}: {path} is larger than {MAX_BYTES // 2**30} GiB")
    return raw


def text_of(path: Path, what: str, options: Mapping[str, Any]) -> str:
    """The contents of a file as text (option ``encoding``, UTF-8 unless told), without a byte order mark."""
    encoding = options.get("encoding") or "utf-8"
    try:
        text = read_bytes(path, what).decode(encoding, options.get("encoding_errors") or "strict")
        return text.removeprefix("\ufeff")
    except (UnicodeDecodeError, LookupError) as error:
        raise InputError(f"{what}: {path} is not {encoding}: {error}") from error


def _opened(path: Path) -> BinaryIO:
    match path.suffix.lower():
        case ".gz":
            import gzip

            return cast(BinaryIO, gzip.open(path, "rb"))
        case ".bz2":
            import bz2

            return cast(BinaryIO, bz2.open(path, "rb"))
        case ".xz":
            import lzma

            return cast(BinaryIO, lzma.open(path, "rb"))
        case ".zst":
            return cast(BinaryIO, pyarrow(path).input_stream(str(path), compression="zstd"))
        case _:
            return path.open("rb")


def pyarrow(path: Path) -> Any:
    """The pyarrow package. Raises MissingDependency naming the file that needs it."""
    try:
        import pyarrow as found
    except ImportError as error:
        raise MissingDependency(
            f"{path} needs the package `pyarrow`, which is not installed",
            hint="pip install 'llmasos[columnar]'",
        ) from error
    return found


def check_options(options: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    """Raises InputError for an option that a reader does not have: ignoring it could give other rows in silence."""
    for name in options:
        if name not in known:
            raise InputError(
                f"{what}: unknown option `{name}` for its data", hint=f"there are {', '.join(sorted(known))}"
            )
