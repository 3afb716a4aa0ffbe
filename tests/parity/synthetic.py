"""Rows for any task file: columns and types are found out by running the task's templates and functions on made-up values.

A sketch says what a column holds. Rows made from it note which value was touched last; when a template or a function fails,
the error and those values say what to change. What is left in the end are plain JSON rows that the task can digest, or none.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest import mock

from sketches import KINDS, METHODS, Sketch, guess, sketch_of_templates, value

from llmasos_evals.datasets import rows as row_module
from llmasos_evals.datasets.rows import Rows
from llmasos_evals.tasks import planning, requests
from llmasos_evals.tasks import task as task_module

# ---- values that remember ------------------------------------------------------------------------------------------------


class Trace:
    """The sketches whose values were touched, the last one last."""

    def __init__(self) -> None:
        self.touched: list[Sketch] = []
        self.compared: list[tuple[Sketch, Any]] = []

    def compare(self, sketch: Sketch, constant: Any) -> None:
        if len(self.compared) < 4000:
            self.compared.append((sketch, constant))

    def constants(self, sketch: Sketch) -> list[Any]:
        """What the values of a sketch were compared with."""
        return list(dict.fromkeys(constant for other, constant in self.compared if other is sketch))[:40]

    def touch(self, sketch: Sketch) -> None:
        self.touched.append(sketch)

    def suspects(self) -> list[Sketch]:
        """Most recent first, each once."""
        found: list[Sketch] = []
        for sketch in reversed(self.touched):
            if not any(sketch is other for other in found):
                found.append(sketch)
        return found


class _Noting:
    """What all spies do: an operation that their type does not have is noted before it fails."""

    sketch: Sketch
    trace: Trace

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            self.trace.touch(self.sketch)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _refuse(self, other: Any) -> Any:
        self.trace.touch(self.sketch)
        return NotImplemented

    __sub__ = __rsub__ = __truediv__ = __rtruediv__ = __radd__ = _refuse
    __lt__ = __gt__ = __le__ = __ge__ = _refuse  # type: ignore[assignment]


class SpyDict(_Noting, dict[str, Any]):
    """A struct that invents fields when they are asked for."""

    def __init__(self, sketch: Sketch, seed: int, trace: Trace) -> None:
        self.sketch, self.seed, self.trace = sketch, seed, trace
        super().__init__()
        for name in sketch.fields:
            self._make(name)

    def _make(self, name: str) -> Any:
        position = list(self.sketch.fields).index(name)
        made = spy(self.sketch.fields[name], self.seed + position, self.trace)
        super().__setitem__(name, made)
        return made

    def __getitem__(self, name: Any) -> Any:
        if name in self.keys():
            if name in self.sketch.fields:
                self.trace.touch(self.sketch.fields[name])
            return super().__getitem__(name)
        if not isinstance(name, str) or name in METHODS or len(self.sketch.fields) > 60:
            self.trace.touch(self.sketch)
            raise KeyError(name)
        self.sketch.fields[name] = guess(name)
        self.trace.touch(self.sketch.fields[name])
        return self._make(name)

    def get(self, name: Any, default: Any = None) -> Any:
        return self[name] if name in self.keys() else default

    def items(self) -> Any:
        for one in self.sketch.fields.values():
            self.trace.touch(one)
        return super().items()


class SpyList(_Noting, list[Any]):
    """A list that notes when its items are read."""

    def __init__(self, sketch: Sketch, seed: int, trace: Trace) -> None:
        if sketch.item is None:
            sketch.item = Sketch("text")
        self.sketch, self.trace = sketch, trace
        super().__init__(spy(sketch.item, seed * 4 + n, trace) for n in range(4))

    def __getitem__(self, index: Any) -> Any:
        self.trace.touch(self.sketch.item or self.sketch)
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[Any]:
        self.trace.touch(self.sketch.item or self.sketch)
        return super().__iter__()


class SpyText(_Noting, str):
    """A text that notes what it is compared with."""

    __lt__, __gt__, __le__, __ge__ = str.__lt__, str.__gt__, str.__le__, str.__ge__

    def _same(self, text: str) -> SpyText:
        made = SpyText(text)
        made.sketch, made.trace = self.sketch, self.trace
        return made

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str) and not isinstance(other, SpyText):
            self.trace.compare(self.sketch, str(other))
        return str.__eq__(self, other) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__

    def lower(self) -> SpyText:
        return self._same(str.lower(self))

    def strip(self, *arguments: Any) -> SpyText:
        return self._same(str.strip(self, *arguments))

    def startswith(self, *arguments: Any) -> bool:
        wanted = arguments[0] if isinstance(arguments[0], tuple) else (arguments[0],)
        for one in wanted:
            self.trace.compare(self.sketch, str(one))
        return str.startswith(self, *arguments)

    def __contains__(self, other: Any) -> bool:
        self.trace.compare(self.sketch, str(other))
        return str.__contains__(self, other)


class SpyNumber(_Noting, int):
    """A number that notes what it is compared with."""

    __sub__, __rsub__, __radd__ = int.__sub__, int.__rsub__, int.__radd__
    __truediv__, __rtruediv__ = int.__truediv__, int.__rtruediv__
    __lt__, __gt__, __le__, __ge__ = int.__lt__, int.__gt__, int.__le__, int.__ge__

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int) and not isinstance(other, bool | SpyNumber):
            self.trace.compare(self.sketch, int(other))
        return int.__eq__(self, other) is True  # type: ignore[arg-type]

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__


def spy(sketch: Sketch, seed: int, trace: Trace) -> Any:
    """The value of a sketch, as one that remembers."""
    if sketch.kind == "struct":
        return SpyDict(sketch, seed, trace)
    if sketch.kind == "list":
        return SpyList(sketch, seed, trace)
    plain = value(sketch, seed)
    if type(plain) not in (str, int):
        return plain
    made: Any = SpyText(plain) if isinstance(plain, str) else SpyNumber(plain)
    made.sketch, made.trace = sketch, trace
    return made


def _kept(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The engine copies rows; spies must stay spies, or they would see nothing."""

    def copied(given: Any) -> Any:
        if isinstance(given, SpyDict):
            return SpyDict(given.sketch, given.seed, given.trace)
        return given if isinstance(given, SpyList | SpyText | SpyNumber) else original(given)

    return copied


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """While this lasts, rows that are spies are not turned into plain ones."""
    copied, plain = _kept(row_module.copied), _kept(row_module._plain)
    with contextlib.ExitStack() as stack:
        for module in (row_module, planning, requests, task_module):
            stack.enter_context(mock.patch.object(module, "copied", copied))
        stack.enter_context(mock.patch.object(row_module, "_plain", plain))
        yield


class SpyRows(Rows):
    """Rows whose documents are spies."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = list(rows)
        self.column_names = list(rows[0]) if rows else []
        self.features = dict.fromkeys(self.column_names)


# ---- what errors say -----------------------------------------------------------------------------------------------------


def alternatives(error: BaseException, sketch: Sketch, constants: Sequence[Any] = ()) -> list[Sketch]:
    """What else a place could hold, the likeliest first; ``constants`` are what it was compared with."""
    text = str(error).lower()
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    first = [Sketch("options", options=[constant]) for constant in constants]
    if len(constants) > 1:
        first.insert(0, Sketch("options", options=list(constants)))
    first += [Sketch("options", options=options) for options in _listed(cause, sketch) if options]
    inside = str(cause).lower()
    wish = {
        "string indices": ["struct", "list"],
        "has no attribute 'items'": ["struct"],
        "has no attribute 'get'": ["struct", "listing"],
        "has no attribute 'strip'": ["text"],
        "has no attribute": ["text", "struct", "list"],
        "invalid literal for int": ["digits", "integer"],
        "could not convert string to float": ["digits", "number"],
        "list indices": ["struct", "integer"],
        "must be integers": ["integer", "struct"],
        "jsondecode": ["json", "listing"],
        "expecting value": ["json", "listing"],
        "malformed": ["listing", "json"],
        "invalid syntax": ["listing", "json", "digits"],
        "not in list": ["letter", "integer"],
        "substring not found": ["marked", "lines"],
        "unpack": ["lines", "marked", "list"],
        "out of range": ["lines", "marked", "integer", "long"],
        "time data": ["date"],
        "not iterable": ["list", "text"],
        "unhashable": ["text", "letter"],
        "not text": ["text"],
        "literal": ["listing"],
        "is empty": ["text"],
        "is undefined": ["struct", "list"],
    }
    if "has no attribute 'keys'" in inside:
        listed = [options[0] for options in _listed(cause, sketch) if len(options) > 1]
        names = [name for name in dict.fromkeys(listed) if isinstance(name, str)][:5]
        for pair in itertools.permutations(names, 2):
            first.append(Sketch("struct", {name: Sketch("text") for name in pair}))
    for key, kinds in wish.items():
        if key in inside or key in text or key in type(cause).__name__.lower():
            first += [Sketch(kind) for kind in kinds]
    first += [Sketch(kind) for kind in KINDS]
    first.append(Sketch("list", item=Sketch("struct")))
    first.append(Sketch("list", item=Sketch("list", item=Sketch("text"))))
    first.append(Sketch("list", item=Sketch("integer")))
    found, seen = [], {sketch.signature()}
    for one in first:
        if one.kind == "list" and one.item is None:
            one.item = Sketch("text")
        if one.signature() not in seen:
            seen.add(one.signature())
            found.append(one)
    return found


def _absent(error: BaseException, row: Sketch) -> str | None:
    """The column that the code asked for in vain."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, KeyError) and cause.args and isinstance(cause.args[0], str):
        name = str(cause.args[0])
        ours = name.endswith(".") or name.isdigit() or row.offers(name)  # a value that was looked up
        if name not in row.fields and len(name) < 40 and name not in METHODS and not ours:
            return name
    found = re.match(r"'(\w+)' is undefined", str(cause))
    return found[1] if found and found[1] not in row.fields else None


def _listed(error: BaseException, sketch: Sketch) -> Iterator[list[Any]]:
    """Keys of mappings and members of lists in the code that failed: a value that was looked up must be one of them."""
    if not isinstance(
        error, KeyError | ValueError | TypeError | AttributeError | AssertionError | IndexError
    ):
        return
    frames = list(_frames(error.__traceback__))
    for frame, line in reversed(frames[-3:]):
        names = {**frame.f_globals, **frame.f_locals}
        for name in frame.f_code.co_names + frame.f_code.co_varnames:
            held = names.get(name)
            if isinstance(held, dict) and not isinstance(held, SpyDict) and 0 < len(held) < 300:
                yield [key for key in held if isinstance(key, str | int)][:40]
            elif isinstance(held, list | tuple) and not isinstance(held, SpyList) and 0 < len(held) < 60:
                yield [item for item in held if isinstance(item, str | int)]
        yield from _literals(frame.f_code.co_filename, frame.f_code.co_firstlineno, line)


def _frames(trace: TracebackType | None) -> Iterator[tuple[Any, int]]:
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


@lru_cache(maxsize=64)
def _nodes(file: str) -> tuple[ast.AST, ...]:
    try:
        return tuple(ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))))
    except (OSError, SyntaxError, ValueError):
        return ()


def _literals(file: str, start: int, line: int) -> Iterator[list[Any]]:
    for node in _nodes(file):
        number = getattr(node, "lineno", 0)
        if not start <= number <= line + 30:
            continue
        if isinstance(node, ast.Dict):
            yield [
                k.value for k in node.keys if isinstance(k, ast.Constant) and isinstance(k.value, str | int)
            ]
        elif isinstance(node, ast.List | ast.Tuple | ast.Set):
            yield [
                i.value for i in node.elts if isinstance(i, ast.Constant) and isinstance(i.value, str | int)
            ]
        elif isinstance(node, ast.Compare):
            constants = [
                side.value for side in (node.left, *node.comparators) if isinstance(side, ast.Constant)
            ]
            if constants:
                yield [constant for constant in constants if isinstance(constant, str | int)]


def place_of(error: BaseException) -> str:
    """Where an error happened and what it was, without the values in it: equal for the same failure."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    frames = list(_frames(cause.__traceback__))
    where = f"{frames[-1][0].f_code.co_filename}:{frames[-1][1]}" if frames else ""
    outer = [
        f"{frame.f_code.co_filename}:{line}" for frame, line in frames if "tasks/" in frame.f_code.co_filename
    ]
    words = re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "*", str(cause))
    return f"{where}|{outer[-1:]}|{type(cause).__name__}|{words[:80]}"


def invent(
    templates: Sequence[str],
    attempt: Callable[[Callable[[int], Any]], None],
    *,
    start: Sketch | None = None,
    budget: int = 250,
    seconds: float = 10.0,
) -> Sketch | None:
    """A sketch of rows for which ``attempt`` succeeds, or None; ``start`` is one that suits a similar task.

    ``attempt`` gets a function from a number to a row and raises when the task cannot digest such rows.
    """
    sketch = sketch_of_templates(templates) if start is None else start.copy()
    sketch.kind = "struct"
    seen: set[str] = set()
    left, end = budget, time.process_time() + seconds

    def tried(candidate: Sketch) -> tuple[BaseException | None, Trace]:
        nonlocal left
        left = left - 1 if time.process_time() < end else 0
        trace = Trace()
        try:
            with watching():
                attempt(lambda number: SpyDict(candidate, number, trace))
        except Exception as error:
            return error, trace
        return None, trace

    def search(depth: int) -> bool:
        """Whether the sketch can be made to work by changing one place after another, the likeliest changes first."""
        error, trace = tried(sketch)
        if error is None:
            return True
        absent = _absent(error, sketch)
        mark = f"{place_of(error)}|{absent}"  # another column that is not there is another error
        if mark in seen or depth > 25:
            return False
        seen.add(mark)
        if absent is not None:
            sketch.fields[absent] = guess(absent)
            if search(depth + 1):
                return True
            del sketch.fields[absent]
        suspects = trace.suspects()[:5]
        compared = [one for one, _ in trace.compared]
        for one in (*compared, *sketch.fields.values()):
            if not any(one is other for other in suspects):
                suspects.append(one)
        if "no documents" in str(error) or "pool is empty" in str(error):
            suspects.sort(key=lambda one: not trace.constants(one))
        for suspect in suspects:
            before = suspect.copy()
            for other in alternatives(error, before, trace.constants(suspect)):
                if left <= 0:
                    break
                suspect.become(other)
                if search(depth + 1):
                    return True
            suspect.become(before)
            if left <= 0:
                break
        return False

    return sketch if search(0) else None
