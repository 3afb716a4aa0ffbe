"""Rows: a split in memory, with the methods that task code uses on a ``datasets.Dataset``.

What the methods do is what that library does (version 5), as far as a task can see it: a row that is handed out is a
copy, every row of a split has the same columns, a column of whole and broken numbers holds broken ones, tuples and
arrays come back as lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

from llmasos.api import InputError

Row = dict[str, Any]

#: Settings of ``map`` and ``filter`` that change speed, caches or messages, never the rows.
_IDLE = frozenset(
    {
        "keep_in_memory",
        "load_from_cache_file",
        "cache_file_name",
        "cache_file_names",
        "indices_cache_file_name",
        "writer_batch_size",
        "num_proc",
        "suffix_template",
        "new_fingerprint",
        "desc",
        "try_original_type",
        "disable_nullable",
    }
)
_SCALARS = (str, bool, int, float, type(None))


class Rows(Sequence[Row]):
    """The rows of a split. Each method returns new Rows and leaves these as they are.

    ``features`` keeps what a file says about its columns (for example the names of classes); it is not checked.
    """

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        features: Mapping[str, Any] | None = None,
        *,
        typed: bool = False,
    ) -> None:
        """``typed``: whoever read the rows gave every column its type already."""
        self._rows = [{key: _plain(value) for key, value in row.items()} for row in rows]
        columns: dict[str, None] = {}
        for row in self._rows:
            columns.update(dict.fromkeys(row))
        if features and not self._rows:
            columns = dict.fromkeys(features)
        self.column_names = list(columns)
        for row in self._rows:
            if len(row) != len(columns):
                for name in columns:
                    row.setdefault(name, None)
        for name in () if typed else self.column_names:
            _unify(self._rows, name)
        known = features or {}
        self.features: dict[str, Any] = {name: known.get(name) for name in self.column_names}

    @classmethod
    def from_list(cls, mapping: Iterable[Mapping[str, Any]], features: Any = None, **_idle: Any) -> Rows:
        """Rows from dicts; every struct of a column gets the same fields."""
        made = cls(mapping, features)
        for name in made.column_names:
            _unify(made._rows, name, structs=True)
        return made

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Sequence[Any]], features: Any = None, **_idle: Any) -> Rows:
        """Rows from columns of equal length."""
        return cls.from_list(_unbatched(mapping), features)

    @classmethod
    def from_generator(cls, generator: Callable[..., Iterable[Any]], gen_kwargs: Any = None) -> Rows:
        """Rows from what a function yields."""
        return cls(generator(**(gen_kwargs or {})))

    @classmethod
    def from_pandas(cls, df: Any, **_idle: Any) -> Rows:
        """Rows from a pandas DataFrame."""
        return cls(df.to_dict(orient="records"))

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    @property
    def num_columns(self) -> int:
        return len(self.column_names)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self._rows), len(self.column_names)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Any: ...
    @overload
    def __getitem__(self, index: str) -> Any: ...
    def __getitem__(self, index: int | slice | str | Sequence[int]) -> Any:
        if isinstance(index, str):
            return [copied(row[index]) for row in self._rows]
        if isinstance(index, slice):
            return _batched(self._rows[index], self.column_names)
        if hasattr(index, "__index__"):
            return copied(self._rows[index])
        return _batched([self._rows[number] for number in index], self.column_names)

    def __iter__(self) -> Iterator[Row]:
        return (copied(row) for row in self._rows)

    def iter(self, batch_size: int, drop_last_batch: bool = False) -> Iterator[dict[str, list[Any]]]:
        """Batches as columns."""
        for start in range(0, len(self._rows), batch_size):
            rows = self._rows[start : start + batch_size]
            if len(rows) == batch_size or not drop_last_batch:
                yield _batched(rows, self.column_names)

    def to_list(self) -> list[Row]:
        return list(self)

    def to_dict(self, batch_size: int | None = None, batched: bool = False) -> dict[str, list[Any]]:
        return _batched(self._rows, self.column_names)

    def to_pandas(self, batch_size: int | None = None, batched: bool = False) -> Any:
        """A pandas DataFrame. Raises ImportError without pandas."""
        import pandas

        return pandas.DataFrame(self.to_list(), columns=self.column_names)

    # ---- functions over rows ----------------------------------------------------------------------------------------

    def map(
        self,
        function: Callable[..., Any] | None = None,
        with_indices: bool = False,
        with_rank: bool = False,
        input_columns: str | Sequence[str] | None = None,
        batched: bool = False,
        batch_size: int | None = 1000,
        drop_last_batch: bool = False,
        remove_columns: str | Sequence[str] | None = None,
        fn_kwargs: Mapping[str, Any] | None = None,
        features: Any = None,
        **idle: Any,
    ) -> Rows:
        """Each row updated with what ``function`` returns for it; unchanged for None.

        ``batched``: the function gets and gives columns of up to ``batch_size`` rows, and may give more or fewer rows than
        it got. Raises InputError for an unknown setting and for a batch whose columns differ in length.
        """
        _refuse_unknown("map", idle)
        if function is None:
            return self if remove_columns is None else self.remove_columns(remove_columns)
        dropped = _names(remove_columns)
        call = _caller(function, input_columns, with_indices, with_rank, fn_kwargs)
        made: list[Row] = []
        if not batched:
            for number, row in enumerate(self._rows):
                given = copied(row)
                new = call(given, number)
                made.append(_merged(given, new, dropped))
            return Rows(made, features or self.features)
        size = batch_size if batch_size and batch_size > 0 else max(len(self._rows), 1)
        for start in range(0, len(self._rows), size):
            part = self._rows[start : start + size]
            if drop_last_batch and len(part) < size:
                break
            columns = _batched(part, self.column_names)
            new = call(columns, list(range(start, start + len(part))))
            made += _unbatched(_merged(columns, new, dropped))
        return Rows(made, features or self.features)

    def filter(
        self,
        function: Callable[..., Any] | None = None,
        with_indices: bool = False,
        with_rank: bool = False,
        input_columns: str | Sequence[str] | None = None,
        batched: bool = False,
        batch_size: int | None = 1000,
        fn_kwargs: Mapping[str, Any] | None = None,
        **idle: Any,
    ) -> Rows:
        """The rows for which ``function`` is true. Raises InputError for an unknown setting."""
        _refuse_unknown("filter", idle)
        if function is None:
            return self
        call = _caller(function, input_columns, with_indices, with_rank, fn_kwargs)
        if not batched:
            kept = [number for number, row in enumerate(self._rows) if call(copied(row), number)]
            return self.select(kept)
        size = batch_size if batch_size and batch_size > 0 else max(len(self._rows), 1)
        kept = []
        for start in range(0, len(self._rows), size):
            numbers = list(range(start, min(start + size, len(self._rows))))
            wanted = call(_batched([self._rows[n] for n in numbers], self.column_names), numbers)
            kept += [number for number, keep in zip(numbers, wanted, strict=True) if keep]
        return self.select(kept)

    # ---- order and choice -------------------------------------------------------------------------------------------

    def select(self, indices: Iterable[int], **_idle: Any) -> Rows:
        """The rows with these numbers, in this order."""
        return Rows((self._rows[index] for index in indices), self.features)

    def take(self, n: int) -> Rows:
        return self.select(range(min(n, len(self._rows))))

    def skip(self, n: int) -> Rows:
        return self.select(range(min(n, len(self._rows)), len(self._rows)))

    def repeat(self, num_times: int) -> Rows:
        return Rows(self._rows * num_times, self.features)

    def shuffle(self, seed: Any = None, generator: Any = None, **_idle: Any) -> Rows:
        """Rows in the order that ``datasets`` gives for the same seed: a permutation by NumPy's default generator.

        Without a seed it takes one from NumPy's global state, as that library does.
        """
        return self.select(_generator(seed, generator).permutation(len(self._rows)).tolist())

    def sort(
        self,
        column_names: str | Sequence[str],
        reverse: bool | Sequence[bool] = False,
        null_placement: str = "at_end",
        **_idle: Any,
    ) -> Rows:
        """Rows by one or more columns, equal ones in their old order; rows without a value last (or ``at_start``)."""
        names = [column_names] if isinstance(column_names, str) else list(column_names)
        down = list(reverse) if isinstance(reverse, Sequence) else [reverse] * len(names)
        order = list(range(len(self._rows)))
        for name, descending in reversed(list(zip(names, down, strict=True))):
            there = [n for n in order if self._rows[n][name] is not None]
            missing = [n for n in order if self._rows[n][name] is None]
            there.sort(key=lambda n, name=name: self._rows[n][name], reverse=descending)
            order = missing + there if null_placement in ("at_start", "first") else there + missing
        return self.select(order)

    def shard(self, num_shards: int, index: int, contiguous: bool = True, **_idle: Any) -> Rows:
        """One of ``num_shards`` parts of nearly equal size."""
        if not contiguous:
            return self.select(range(index, len(self._rows), num_shards))
        size, longer = divmod(len(self._rows), num_shards)
        start = size * index + min(index, longer)
        return self.select(range(start, start + size + (1 if index < longer else 0)))

    def train_test_split(
        self,
        test_size: float | int | None = None,
        train_size: float | int | None = None,
        shuffle: bool = True,
        seed: Any = None,
        generator: Any = None,
        **_idle: Any,
    ) -> dict[str, Rows]:
        """The splits ``train`` and ``test``, a quarter for testing unless told; sizes are shares or counts of rows."""
        total = len(self._rows)
        if test_size is None and train_size is None:
            test_size = 0.25
        test = None if test_size is None else _share(test_size, total, up=True)
        train = None if train_size is None else _share(train_size, total, up=False)
        test = total - (train or 0) if test is None else test
        train = total - test if train is None else train
        if not shuffle:
            return {"train": self.take(train), "test": self.select(range(train, train + test))}
        order = _generator(seed, generator).permutation(total).tolist()
        return {"train": self.select(order[test : test + train]), "test": self.select(order[:test])}

    # ---- columns ----------------------------------------------------------------------------------------------------

    def unique(self, column: str) -> list[Any]:
        """The values of a column, each once, in order of appearance."""
        return list(dict.fromkeys(row[column] for row in self._rows))

    def rename_column(self, original_column_name: str, new_column_name: str, **_idle: Any) -> Rows:
        return self.rename_columns({original_column_name: new_column_name})

    def rename_columns(self, column_mapping: Mapping[str, str], **_idle: Any) -> Rows:
        new = column_mapping
        return Rows(
            ({new.get(key, key): value for key, value in row.items()} for row in self._rows),
            {new.get(key, key): value for key, value in self.features.items()},
        )

    def remove_columns(self, column_names: str | Sequence[str], **_idle: Any) -> Rows:
        dropped = _names(column_names)
        return self._columns([name for name in self.column_names if name not in dropped])

    def select_columns(self, column_names: str | Sequence[str], **_idle: Any) -> Rows:
        return self._columns([column_names] if isinstance(column_names, str) else list(column_names))

    def _columns(self, names: Sequence[str]) -> Rows:
        return Rows(({name: row[name] for name in names} for row in self._rows), self.features)

    def add_column(self, name: str, column: Sequence[Any], **_idle: Any) -> Rows:
        return Rows(
            ({**row, name: value} for row, value in zip(self._rows, column, strict=True)), self.features
        )

    def add_item(self, item: Mapping[str, Any], **_idle: Any) -> Rows:
        return Rows([*self._rows, item], self.features)

    def flatten(self, max_depth: int = 16, **_idle: Any) -> Rows:
        """Structs become columns named ``struct.field``."""
        rows: list[Row] = self._rows
        for _ in range(max_depth):
            structs = {key for row in rows for key, value in row.items() if isinstance(value, Mapping)}
            if not structs:
                break
            rows = [_flat(row, structs) for row in rows]
        return Rows(rows)

    def cast(self, features: Mapping[str, Any], **_idle: Any) -> Rows:
        """Values as the given column types make them: an object with ``encode_example`` or a type name."""
        return Rows(
            ({key: _cast(value, features.get(key)) for key, value in row.items()} for row in self._rows),
            features,
        )

    def cast_column(self, column: str, feature: Any, **_idle: Any) -> Rows:
        return self.cast({**self.features, column: feature})

    def flatten_indices(self, **_idle: Any) -> Rows:
        return self

    def with_format(self, *_args: Any, **_idle: Any) -> Rows:
        """Rows are always plain Python values."""
        return self

    def set_format(self, *_args: Any, **_idle: Any) -> None:
        """Rows are always plain Python values."""

    reset_format = set_format


def concatenate(parts: Iterable[Rows]) -> Rows:
    """All rows of all parts, in order."""
    parts = list(parts)
    features = {name: kind for part in parts for name, kind in part.features.items()}
    return Rows((row for part in parts for row in part._rows), features)


def copied(value: Any) -> Any:
    """A copy of rows made of dicts, lists and values that cannot change; far cheaper than ``copy.deepcopy``."""
    if isinstance(value, dict):
        return {key: item if isinstance(item, _SCALARS) else copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [item if isinstance(item, _SCALARS) else copied(item) for item in value]
    return value


def _plain(value: Any) -> Any:
    """Lists for tuples and arrays, numbers for NumPy numbers; containers are copied."""
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy
        return _plain(value.tolist())
    return value


def _unify(rows: Sequence[Row], name: Any, *, structs: bool = False) -> None:
    """One type for the numbers of a column, and with ``structs`` the same fields for its structs."""
    kinds = {type(row[name]) for row in rows}
    if dict in kinds or list in kinds or (int in kinds and float in kinds):
        for row, value in zip(rows, _unified([row[name] for row in rows], structs), strict=True):
            row[name] = value


def _unified(values: list[Any], structs: bool) -> list[Any]:
    """The values of one place in the type tree, brought to one type; mixtures that have none stay as they are."""
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    if kinds == {dict}:
        there = [value for value in values if value is not None]
        fields: dict[Any, None] = {}
        for value in there:
            fields.update(dict.fromkeys(value))
        if not structs and any(len(value) != len(fields) for value in there):
            return values
        columns = {field: _unified([value.get(field) for value in there], structs) for field in fields}
        made = iter([{field: columns[field][n] for field in fields} for n in range(len(there))])
        return [None if value is None else next(made) for value in values]
    if kinds == {list}:
        inner = [item for value in values if value is not None for item in value]
        types = set(map(type, inner))
        if dict not in types and list not in types and not {int, float} <= types:
            return values
        items = iter(_unified(inner, structs))
        return [None if value is None else [next(items) for _ in value] for value in values]
    return values


def _names(columns: str | Sequence[str] | None) -> frozenset[str]:
    return frozenset([columns] if isinstance(columns, str) else columns or ())


def _merged(given: dict[str, Any], new: Any, dropped: frozenset[str]) -> dict[str, Any]:
    """What a function was given (and may have changed) with what it returned."""
    if new is None:
        return {key: value for key, value in given.items() if key not in dropped}
    if not isinstance(new, Mapping):
        raise InputError(f"a function given to `map` returns {type(new).__name__}, not a dict or None")
    # Columns to remove are those that went in; the function may return new ones of the same name.
    kept = {key: value for key, value in given.items() if key not in dropped}
    returned = {key: value for key, value in new.items() if new is not given or key not in dropped}
    return {**kept, **returned}


def _caller(
    function: Callable[..., Any],
    input_columns: str | Sequence[str] | None,
    with_indices: bool,
    with_rank: bool,
    fn_kwargs: Mapping[str, Any] | None,
) -> Callable[[dict[str, Any], Any], Any]:
    names = [input_columns] if isinstance(input_columns, str) else input_columns
    options = dict(fn_kwargs or {})

    def call(given: dict[str, Any], numbers: Any) -> Any:
        arguments = [given] if names is None else [given[name] for name in names]
        if with_indices:
            arguments.append(numbers)
        if with_rank:
            arguments.append(0)
        return function(*arguments, **options)

    return call


def _refuse_unknown(method: str, idle: Mapping[str, Any]) -> None:
    unknown = sorted(set(idle) - _IDLE)
    if unknown:
        raise InputError(f"task code uses `{method}` with the unknown setting {unknown[0]!r}")


def _batched(rows: Sequence[Row], names: Sequence[str]) -> dict[str, list[Any]]:
    return {name: [copied(row[name]) for row in rows] for name in names}


def _unbatched(columns: Mapping[str, Any]) -> list[Row]:
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(
            "columns of different lengths: "
            + ", ".join(f"{name} {length}" for name, length in lengths.items())
        )
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _generator(seed: Any, generator: Any) -> Any:
    import numpy

    if generator is not None:
        return generator
    if seed is None:
        _, state, position, *_ = numpy.random.get_state(legacy=True)
        seed = state[position] if position < len(state) else state[0]
        numpy.random.random()  # one step, so that the next shuffle is another one
    return numpy.random.default_rng(seed)


def _share(size: float, total: int, *, up: bool) -> int:
    if isinstance(size, int):
        return size
    return -int(-size * total // 1) if up else int(size * total)


def _flat(row: Row, structs: set[str]) -> Row:
    out: Row = {}
    for key, value in row.items():
        if key not in structs:
            out[key] = value
        elif value is not None:
            out.update({f"{key}.{field}": item for field, item in value.items()})
    return out


def _cast(value: Any, feature: Any) -> Any:
    if value is None or feature is None:
        return value
    encode = getattr(feature, "encode_example", None)
    return encode(value) if encode is not None else value
