"""Where commands write: stdout is data, stderr is talk, and ``--json`` has one shape a command.

Modes: ``human`` (text and tables), ``json`` (one JSON document), ``quiet`` (data only, no talk). Colour never carries
meaning. rich is imported only when a progress bar is shown on a terminal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from llmasos.contracts.evaluation import Progress

#: A progress line is written at once, then at most this often, when stderr is not a terminal. Seconds.
PLAIN_INTERVAL = 5.0
#: The last column of a table is not wrapped into fewer columns than this.
_NARROWEST = 20


class Output:
    """One for each run of the command line."""

    def __init__(
        self, mode: str = "human", stdout: TextIO | None = None, stderr: TextIO | None = None
    ) -> None:
        self.mode = mode
        self._stdout = stdout
        self._stderr = stderr
        self._bar: Any = None

    @property
    def stdout(self) -> TextIO:
        """Looked up at each use, so that redirection works."""
        return self._stdout or sys.stdout

    @property
    def stderr(self) -> TextIO:
        """Looked up at each use, so that redirection works."""
        return self._stderr or sys.stderr

    def emit(self, value: Any, human: Callable[[], str] | str | None = None) -> None:
        """The result of a command: ``value`` as JSON in json mode, else ``human`` (text, or a function that makes it).

        Without ``human`` the value itself is printed. ``value`` holds what JSON can hold, and paths. In human text, what
        would steer the terminal is shown as ``?``.
        """
        if self.mode == "json":
            self.line(to_json(value))
            return
        text = human() if callable(human) else human
        self.line(str(value) if text is None else harmless(text))

    def line(self, text: str) -> None:
        """Data, one line or more, to stdout."""
        self.stdout.write(text if text.endswith("\n") else text + "\n")

    def write(self, text: str) -> None:
        """A piece of streamed data to stdout, shown at once."""
        self.stdout.write(text)
        self.stdout.flush()

    def note(self, text: str) -> None:
        """Talk to stderr; nothing in quiet mode."""
        if self.mode != "quiet":
            self._say(text)

    def warn(self, text: str) -> None:
        """One line to stderr, in every mode."""
        self._say(f"warning: {text}")

    def error(self, message: str, hint: str | None = None) -> None:
        """``error: ...`` and ``hint: ...`` to stderr, in every mode."""
        self._say(f"error: {message}")
        if hint:
            self._say(f"hint: {hint}")

    def _say(self, text: str) -> None:
        self.stdout.flush()
        self.stderr.write(printable(text) + "\n")
        self.stderr.flush()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
        """Rows as aligned text, on a terminal as wide as it is. Numbers stand to the right, everything else to the left."""
        return format_table(columns, rows, _terminal_width(self.stdout))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the progress bar off the terminal while the body asks something or shows progress of its own."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.pause()
        try:
            yield
        finally:
            self._bar = bar
            if bar is not None:
                bar.resume()

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Progress of long work on stderr: a bar on a terminal, plain lines elsewhere, only warnings in quiet mode."""
        if self.mode == "quiet":
            yield SilentProgress(self)
        elif self.stderr.isatty():
            from llmasos.cli.bar import bar_progress

            with bar_progress(self) as bar:
                outer, self._bar = self._bar, bar
                try:
                    yield bar
                finally:
                    self._bar = outer
        else:
            plain = PlainProgress(self)
            yield plain
            plain.close()


def printable(text: str) -> str:
    """The text with ``?`` for what would move the cursor, colour the screen or turn the line round: strangers wrote much of
    what is shown, and what is shown is what people say yes to."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


#: Control characters save tabs and line ends, and those that turn the direction of writing round.
_STEERING = dict.fromkeys(
    [*(set(range(0x20)) - {0x09, 0x0A}), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)],
    "?",
)


def harmless(text: str) -> str:
    """The text with ``?`` for what steers a terminal. Unlike ``printable`` it keeps what joins letters: prompts and names
    are in every language."""
    return text if text.isprintable() else text.translate(_STEERING)


def to_json(value: Any) -> str:
    """The JSON text of a result: UTF-8, two spaces, keys in the order given; NaN and infinities are null."""
    import json

    return json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    if hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if hasattr(value, "__fspath__"):
        return str(value)
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def format_table(columns: Sequence[str], rows: Sequence[Sequence[object]], width: int | None = None) -> str:
    """Aligned text with a header line; floats get four decimals, empty cells do not make a column of numbers one of text.

    Each cell is one line, unless the table is wider than ``width`` and its last column is text: that is then wrapped.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [_is_numeric([row[i] for row in rows]) for i in range(len(columns))]
    widths = [
        max(len(name), *(len(row[i]) for row in cells)) if cells else len(name)
        for i, name in enumerate(columns)
    ]

    if width is not None and columns and not numeric[-1]:
        left = width - sum(widths[:-1]) - 2 * (len(widths) - 1)
        if _NARROWEST <= left < widths[-1]:
            widths[-1] = left
            cells = [line for row in cells for line in _wrapped(row, left)]

    def join(row: Sequence[str]) -> str:
        parts = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ]
        return "  ".join(parts).rstrip()

    lines = [join(list(columns)), join(["-" * width for width in widths])]
    return "\n".join([*lines, *(join(row) for row in cells)])


def _is_numeric(column: Sequence[object]) -> bool:
    filled = [value for value in column if value not in (None, "")]
    return bool(filled) and all(isinstance(value, (int, float)) for value in filled)


def _wrapped(row: Sequence[str], width: int) -> list[list[str]]:
    """The row as one or more, its last cell cut between words into lines of ``width``."""
    import textwrap

    lines = textwrap.wrap(row[-1], width, break_on_hyphens=False) or [""]
    return [[*(row[:-1] if i == 0 else [""] * (len(row) - 1)), line] for i, line in enumerate(lines)]


def _terminal_width(stream: TextIO) -> int | None:
    """Columns of the terminal that a stream writes to; None when it is none, so that files and pipes get whole lines."""
    import os

    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):
        return None


class Figure(float):
    """A measured number: tables show three significant digits of it."""

    def __str__(self) -> str:
        digits = 0 if abs(self) >= 100 else 1 if abs(self) >= 10 else 2
        return f"{float(self):,.{digits}f}" if abs(self) >= 1 or not self else f"{float(self):.3g}"


def _cell(value: object) -> str:
    if isinstance(value, Figure):
        return str(value)
    if isinstance(value, float):
        return f"{value:.4f}"
    return printable(" ".join(str("" if value is None else value).split()))


class SilentProgress:
    """Says nothing but warnings."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def phase(self, name: str, total: int | None = None) -> None:
        """Nothing."""

    def advance(self, amount: int = 1) -> None:
        """Nothing."""

    def warn(self, message: str) -> None:
        """One line."""
        self._output.warn(message)


class PlainProgress:
    """Lines for logs and pipes: each phase at once, then its count now and then."""

    def __init__(self, output: Output, clock: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._clock = clock
        self._name = ""
        self._total: int | None = None
        self._done = 0
        self._said_at = 0.0
        self._said = -1

    def phase(self, name: str, total: int | None = None) -> None:
        """Announce a phase."""
        self.close()
        self._name, self._total, self._done, self._said = name, total, 0, 0
        self._said_at = self._clock()
        self._output.note(f"{name} ..." if total is None else f"{name}: 0/{total}")

    def advance(self, amount: int = 1) -> None:
        """Count, and say so when it is time or the phase is complete."""
        self._done += amount
        if self._clock() - self._said_at >= PLAIN_INTERVAL or self._done == self._total:
            self._say()

    def warn(self, message: str) -> None:
        """One line."""
        self._output.warn(message)

    def close(self) -> None:
        """The last count of the phase, if it was not said."""
        if self._name and self._done and self._said != self._done:
            self._say()

    def _say(self) -> None:
        self._said, self._said_at = self._done, self._clock()
        self._output.note(f"{self._name}: {self._done}" + ("" if self._total is None else f"/{self._total}"))
