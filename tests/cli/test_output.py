"""stdout is data, stderr is talk."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import click
import pytest
from click.testing import CliRunner

from llmasos.cli.output import PLAIN_INTERVAL, Figure, Output, PlainProgress, format_table, to_json
from llmasos.cli.state import State, common_options, pass_state


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def output(mode: str = "human", terminal: bool = False) -> Output:
    return Output(mode, io.StringIO(), Terminal() if terminal else io.StringIO())


def texts(out: Output) -> tuple[str, str]:
    assert isinstance(out.stdout, io.StringIO)
    assert isinstance(out.stderr, io.StringIO)
    return out.stdout.getvalue(), out.stderr.getvalue()


@pytest.mark.parametrize(
    ("mode", "shown"), [("human", "text\n"), ("quiet", "text\n"), ("json", '{\n  "a": 1\n}\n')]
)
def test_emit(mode: str, shown: str) -> None:
    for human in ("text", lambda: "text"):
        out = output(mode)
        out.emit({"a": 1}, human)
        assert texts(out) == (shown, "")


def test_emit_without_human_text_prints_the_value() -> None:
    out = output()
    out.emit("plain")
    assert texts(out)[0] == "plain\n"


def test_text_of_strangers_does_not_steer_the_terminal() -> None:
    out = output()
    out.emit({"ref": "m"}, "model \x1b[31m\x9b2J\r\u202egnp.exe\n\tक्\u200dष é")
    assert texts(out)[0] == "model ?[31m?2J??gnp.exe\n\tक्\u200dष é\n"


def test_in_json_mode_human_text_is_not_even_made() -> None:
    def human() -> str:
        raise AssertionError("made")

    output("json").emit(1, human)


@pytest.mark.parametrize(
    ("mode", "err"),
    [
        ("human", "note\nwarning: careful\nerror: bad\nhint: mend\n"),
        ("json", "note\nwarning: careful\nerror: bad\nhint: mend\n"),
        ("quiet", "warning: careful\nerror: bad\nhint: mend\n"),
    ],
)
def test_talk_goes_to_stderr(mode: str, err: str) -> None:
    out = output(mode)
    out.note("note")
    out.warn("careful")
    out.error("bad", "mend")
    assert texts(out) == ("", err)


class Pair(NamedTuple):
    a: int
    b: str


@dataclass
class Point:
    x: float


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ({"z": 1, "a": Path("/x")}, {"z": 1, "a": "/x"}),
        (float("nan"), None),
        (float("-inf"), None),
        ([1.5, True, None], [1.5, True, None]),
        (Pair(1, "x"), {"a": 1, "b": "x"}),
        (Point(0.5), {"x": 0.5}),
        ({3, 1, 2}, [1, 2, 3]),
        (MappingProxyType({1: (2,)}), {"1": [2]}),
        ("ünïcode", "ünïcode"),
    ],
)
def test_json(value: Any, plain: Any) -> None:
    text = to_json(value)
    assert json.loads(text) == plain
    assert "NaN" not in text
    assert "\\u" not in text


def test_json_refuses_what_it_cannot_say() -> None:
    with pytest.raises(TypeError, match="object cannot be written as JSON"):
        to_json(object())


def test_json_keeps_the_order_of_keys() -> None:
    assert to_json({"b": 1, "a": 2}).index('"b"') < to_json({"b": 1, "a": 2}).index('"a"')


def test_table() -> None:
    text = format_table(("name", "value", "note"), [("a", 1.5, "x\ny"), ("long name", 10.0, None)])
    assert text.splitlines() == [
        "name         value  note",
        "---------  -------  ----",
        "a           1.5000  x y",
        "long name  10.0000",
    ]
    assert format_table(("a", "b"), []) == "a  b\n-  -"


def test_gaps_leave_a_column_of_numbers_one_of_numbers() -> None:
    text = format_table(("task", "value"), [("a", ""), ("b", 1.0), ("c", 148.5), ("d", None)])
    assert text.splitlines()[2:] == ["a", "b       1.0000", "c     148.5000", "d"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.00"),
        (0.01234, "0.0123"),
        (1.236, "1.24"),
        (12.34, "12.3"),
        (-3.456, "-3.46"),
        (1234.6, "1,235"),
        (99.96, "100.0"),
    ],
)
def test_figures_have_three_digits_and_stand_to_the_right(value: float, shown: str) -> None:
    *_, line = format_table(("us", "op"), [(Figure(12345.6), "x"), (Figure(value), "y")]).splitlines()
    assert line == f"{shown:>6}  y"
    assert json.loads(to_json(Figure(value))) == value


def test_a_table_wider_than_the_terminal_wraps_its_last_column() -> None:
    rows = [("one", "words that say a little more than fits"), ("two", "short"), ("three", "")]
    assert format_table(("name", "what it is"), rows, 30).splitlines() == [
        "name   what it is",
        "-----  -----------------------",
        "one    words that say a little",
        "       more than fits",
        "two    short",
        "three",
    ]
    # Numbers are never cut, and a column of a few letters would be no column.
    assert format_table(("name", "n"), [("a" * 40, 1)], 30) == format_table(("name", "n"), [("a" * 40, 1)])
    assert format_table(("name", "what"), rows, 12) == format_table(("name", "what"), rows)


# ---- progress ----


def work(out: Output) -> None:
    with out.progress() as progress:
        progress.phase("loading", 2)
        progress.advance()
        progress.advance()
        progress.phase("scoring [bold]")
        progress.warn("odd")
        progress.advance(3)


@pytest.mark.parametrize("mode", ["human", "json"])
def test_plain_progress_on_a_pipe(mode: str) -> None:
    out = output(mode)
    work(out)
    assert texts(out) == (
        "",
        "loading: 0/2\nloading: 2/2\nscoring [bold] ...\nwarning: odd\nscoring [bold]: 3\n",
    )


def test_quiet_progress_only_warns() -> None:
    out = output("quiet")
    work(out)
    assert texts(out) == ("", "warning: odd\n")


def test_a_bar_on_a_terminal_is_there_before_the_first_phase() -> None:
    out = output(terminal=True)
    with out.progress() as progress:
        assert "starting" in texts(out)[1]
        progress.phase("scoring [bold]", 2)
        progress.advance(2)
        progress.warn("odd [red]")
    stdout, stderr = texts(out)
    assert stdout == ""
    assert "scoring [bold]" in stderr
    assert "2/2" in stderr
    assert "warning: odd [red]" in stderr


def test_a_long_name_leaves_room_for_its_bar() -> None:
    out = output(terminal=True)
    with out.progress() as progress:
        progress.phase(f"reading task files in /home/{'somebody/' * 20}tasks", 12)
        progress.advance(12)
    last = texts(out)[1].splitlines()[-2]
    assert "reading task files in…" in last
    assert "/tasks " in last
    assert "12/12" in last


def test_an_exception_ends_the_bar_and_propagates() -> None:
    out = output(terminal=True)
    with pytest.raises(KeyError), out.progress():
        raise KeyError
    assert "starting" in texts(out)[1]


def test_plain_lines_come_now_and_then() -> None:
    now = 0.0
    out = output()
    progress = PlainProgress(out, clock=lambda: now)
    progress.phase("scoring", 1000)
    for _ in range(10):
        progress.advance()
    assert texts(out)[1] == "scoring: 0/1000\n"
    now = PLAIN_INTERVAL
    progress.advance()
    assert texts(out)[1].endswith("scoring: 11/1000\n")
    progress.advance()
    assert texts(out)[1].count("\n") == 2
    progress.close()
    progress.close()
    assert texts(out)[1].splitlines()[-1] == "scoring: 12/1000"
    assert texts(out)[1].count("\n") == 3


# ---- options ----


@click.command()
@common_options
@pass_state
def shout(state: State) -> None:
    """Says what mode it is in."""
    state.output.note("talk")
    state.output.emit({"mode": state.output.mode}, lambda: state.output.mode)


@pytest.mark.parametrize(
    ("arguments", "out", "err"),
    [
        ([], "human\n", "talk\n"),
        (["--json"], '{\n  "mode": "json"\n}\n', "talk\n"),
        (["--quiet"], "quiet\n", ""),
        (["-q"], "quiet\n", ""),
    ],
)
def test_common_options(arguments: list[str], out: str, err: str) -> None:
    result = CliRunner().invoke(shout, arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (0, out, err)


def test_json_and_quiet_exclude_each_other() -> None:
    result = CliRunner().invoke(shout, ["--json", "--quiet"])
    assert result.exit_code == 2
    assert "exclude each other" in result.stderr


def test_every_progress_satisfies_the_contract() -> None:
    from llmasos.contracts.evaluation import Progress

    methods = [name for name in vars(Progress) if not name.startswith("_")]
    for terminal in (False, True):
        makers: list[Callable[[], Output]] = [lambda t=terminal: output(terminal=t), lambda: output("quiet")]
        for make in makers:
            with make().progress() as progress:
                assert all(callable(getattr(progress, name)) for name in methods)
