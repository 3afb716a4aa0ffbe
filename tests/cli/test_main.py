"""The frame of the command line: lazy commands, global flags, errors, exit codes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

import llmasos
from llmasos.cli import entry, main
from llmasos.cli.main import COMMANDS, GLOBAL_FLAGS, import_command, read_globals, run
from llmasos.errors import (
    ExitCode,
    InputError,
    LlmasosError,
    MissingDependency,
    ModelNotFound,
    PluginLoadError,
)
from llmasos.testing.tmp import environment

if TYPE_CHECKING:
    from world import World


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMASOS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LLMASOS_CONFIG", str(tmp_path / "config"))


# ---- commands ----


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_core_command_answers_help_and_says_what_the_list_says(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"llmasos {name}" in shown
    found = import_command(COMMANDS[name][0])
    assert found.get_short_help_str(limit=200) == COMMANDS[name][1]


def test_every_subcommand_answers_help_and_has_json_and_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    def walk(path: list[str], found: click.Command) -> None:
        assert run([*path, "--help"]) == 0, path
        shown = capsys.readouterr().out
        if isinstance(found, click.Group):
            for name, inner in found.commands.items():
                walk([*path, name], inner)
        else:
            assert "--json" in shown, path
            assert "--quiet" in shown, path

    for name, (path, _) in COMMANDS.items():
        walk([name], import_command(path))


def test_help_lists_core_and_plugin_commands(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add("acme-hello", provides=[("command", "hello")], source="raise SystemExit('imported')")
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, (_, summary) in COMMANDS.items():
        assert f"  {name}" in shown
        assert summary in shown
    assert "Plugin commands:" in shown
    assert "The command hello" in shown
    assert run(["--no-plugins", "--help"]) == 0
    assert "Plugin commands:" not in capsys.readouterr().out
    assert run(["--help", "--no-plugins"]) == 0
    assert "Plugin commands:" not in capsys.readouterr().out
    monkeypatch.setenv("LLMASOS_NO_PLUGINS", "1")
    assert run(["--help"]) == 0
    assert "Plugin commands:" not in capsys.readouterr().out


COMMAND = """
import click
from llmasos.api import CommandDef, ExitCode, LlmasosError, hookimpl

@hookimpl
def llmasos_commands():
    for name in NAMES:
        yield CommandDef(name=name, factory=f"{__name__}:hello")

@click.command()
@click.option("--fail", is_flag=True)
def hello(fail):
    if fail:
        raise LlmasosError("it failed", hint="do not")
    click.echo("hello from " + __name__)
    return ExitCode.NOT_FOUND
"""


def command_plugin(world: World, plugin_id: str, *names: str) -> None:
    source = COMMAND.replace("NAMES", repr(list(names)))
    world.add(plugin_id, provides=[("command", name) for name in names], source=source)


def test_a_plugin_command_runs_and_is_imported_only_when_named(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    command_plugin(world, "acme-hello", "hello")
    assert run(["plugin", "list"]) == 0
    assert "acme_hello.plugin" not in sys.modules
    capsys.readouterr()
    assert run(["hello"]) == 5
    assert capsys.readouterr().out == "hello from acme_hello.plugin\n"
    assert run(["acme-hello/hello", "--fail"]) == 1
    assert capsys.readouterr().err.splitlines()[-2:] == ["error: it failed", "hint: do not"]
    assert run(["hello", "--help"]) == 0


def test_a_core_command_keeps_its_name(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    command_plugin(world, "acme-shadow", "doctor")
    assert run(["--help"]) == 0
    assert "acme-shadow/doctor" in capsys.readouterr().out
    assert run(["acme-shadow/doctor"]) == 5
    assert capsys.readouterr().out == "hello from acme_shadow.plugin\n"


def test_two_plugin_commands_of_one_name_are_ambiguous(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    command_plugin(world, "acme-one", "hello")
    command_plugin(world, "acme-two", "hello")
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "acme-one/hello" in shown
    assert "acme-two/hello" in shown
    assert run(["hello"]) == 3
    assert "command `hello` is provided by acme-one 1.0.0 and acme-two 1.0.0" in capsys.readouterr().err
    assert run(["acme-two/hello"]) == 5


def test_a_broken_plugin_command_is_a_hard_error_and_help_still_works(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.add("acme-bad", provides=[("command", "broken")], source="1 / 0")
    assert run(["broken"]) == 3
    assert "error: plugin acme-bad 1.0.0 cannot be loaded: ZeroDivisionError" in capsys.readouterr().err
    assert run(["--help"]) == 0
    assert "broken" not in capsys.readouterr().out


def test_a_factory_that_is_no_command(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.add("acme-odd", provides=[("command", "odd")])
    assert run(["odd"]) == 3
    assert "is a function, not a click command" in capsys.readouterr().err


@pytest.mark.parametrize(("word", "near"), [("modle", "`model`"), ("evla", "`eval`"), ("helo", "`hello`")])
def test_a_near_miss_is_suggested(
    world: World, capsys: pytest.CaptureFixture[str], word: str, near: str
) -> None:
    command_plugin(world, "acme-hello", "hello")
    assert run([word]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"error: no command `{word}`, did you mean {near}?" in captured.err


# ---- global flags ----


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"llmasos {llmasos.__version__} (API 1.0)\n"


def test_no_arguments_show_help_as_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Usage: llmasos")


def test_flags_are_read_before_click_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state = read_globals(
        [
            "--no-plugins",
            "--only",
            "a,b",
            "--only=c",
            "--plugin",
            "x",
            "--plugin=y",
            "--offline",
            "eval",
            "--trace-plugins",
        ]
    )
    assert state.config.no_plugins is True
    assert state.config.offline is True
    assert state.config.trace_plugins is False
    assert state.only == ("a", "b", "c")
    assert state.plugins == (Path("x"), Path("y"))
    assert read_globals(["plugin", "list", "--no-plugins"]).config.no_plugins is False
    assert read_globals(["--help", "--no-plugins"]).config.no_plugins is True
    assert read_globals(["--only"]).only == ()
    monkeypatch.setenv("LLMASOS_NO_PLUGINS", "1")
    assert read_globals([]).config.no_plugins is True


def test_the_table_of_global_flags_is_what_click_takes() -> None:
    options = {option for parameter in main.command.params for option in parameter.opts}
    assert options == set(GLOBAL_FLAGS)
    for parameter in main.command.params:
        assert isinstance(parameter, click.Option)
        assert GLOBAL_FLAGS[parameter.opts[0]] == (0 if parameter.is_flag else 1)


def test_a_global_flag_after_the_command_says_where_it_belongs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--no-plugins"]) == 2
    assert "hint: --no-plugins stands before the command" in capsys.readouterr().err


def test_only_with_an_unknown_plugin(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.add("acme-hello")
    assert run(["--only", "acme-helo", "plugin", "list"]) == 5
    assert "did you mean `acme-hello`" in capsys.readouterr().err


def test_local_plugins(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    folder = world.local(
        "acme-local", provides=[("command", "here")], source=COMMAND.replace("NAMES", '["here"]')
    )
    assert run(["--plugin", str(folder), "here"]) == 5
    assert capsys.readouterr().out == "hello from acme_local.plugin\n"
    assert run(["--plugin", str(world.root), "plugin", "list"]) == 3
    assert "has no llmasos.toml" in capsys.readouterr().err


def test_tracing_goes_to_stderr(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    command_plugin(world, "acme-hello", "hello")
    assert run(["--trace-plugins", "hello"]) == 5
    captured = capsys.readouterr()
    assert captured.out == "hello from acme_hello.plugin\n"
    assert "trace: load acme-hello 1.0.0 " in captured.err
    assert "trace: hook llmasos_commands acme-hello 1.0.0 " in captured.err


# ---- errors ----


def failing(error: BaseException) -> click.Command:
    @click.command()
    def fails() -> None:
        raise error

    return fails


def run_failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    monkeypatch.setattr(main, "import_command", lambda path: failing(error))
    return run(["doctor"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LlmasosError("m", hint="h"), 1),
        (InputError("m", hint="h"), 2),
        (PluginLoadError("m", hint="h"), 3),
        (MissingDependency("m", hint="h"), 4),
        (ModelNotFound("m", hint="h"), 5),
    ],
)
def test_our_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: LlmasosError, code: int
) -> None:
    assert run_failing(monkeypatch, error) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "error: m\nhint: h\n")
    monkeypatch.setenv("LLMASOS_STRICT", "1")
    assert run_failing(monkeypatch, error) == code
    assert capsys.readouterr().err.startswith("Traceback")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (click.Abort(), 130, "error: interrupted"),
        (click.UsageError("wrong"), 2, "error: wrong"),
        (click.BadParameter("bad"), 2, "error: Invalid value: bad"),
        (click.ClickException("click"), 1, "error: click"),
        (click.exceptions.Exit(4), 4, ""),
    ],
)
def test_other_ways_to_end(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    text: str,
) -> None:
    assert run_failing(monkeypatch, error) == code
    # click ends the line that the terminal shows ^C on.
    assert capsys.readouterr().err.lstrip().startswith(text)


def test_an_unexpected_exception_leaves_its_traceback_in_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_failing(monkeypatch, ZeroDivisionError("oh\nno")) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error == "error: internal error ZeroDivisionError: oh"
    path = Path(hint.removeprefix("hint: the traceback is in ").removesuffix("; please report it"))
    assert path.parent == tmp_path / "cache" / "errors"
    assert path.read_text().startswith("Traceback")
    assert "ZeroDivisionError: oh" in path.read_text()
    monkeypatch.setenv("LLMASOS_STRICT", "1")
    assert run_failing(monkeypatch, ValueError()) == 1
    assert "ValueError" in capsys.readouterr().err.splitlines()[-3]


def test_an_unexpected_exception_without_a_cache(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import tempfile

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMASOS_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    assert run_failing(monkeypatch, ValueError("x")) == 1
    assert str(tmp_path / "tmp" / "llmasos-errors") in capsys.readouterr().err
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    assert run_failing(monkeypatch, ValueError("x")) == 1
    assert "hint: set LLMASOS_STRICT=1 to see the traceback" in capsys.readouterr().err


def test_a_bad_setting_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMASOS_OFFLINE", "perhaps")
    assert run(["plugin", "list"]) == 2
    assert capsys.readouterr().err.startswith("error: LLMASOS_OFFLINE is 'perhaps'")


def test_help_is_shown_whatever_the_settings_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "plugins.json").write_text('{"disabled": 3}')
    assert run(["--help"]) == 0
    captured = capsys.readouterr()
    assert "doctor" in captured.out
    assert "plugin commands are not listed: `disabled` in" in captured.err
    monkeypatch.setenv("LLMASOS_OFFLINE", "perhaps")
    assert run(["--help"]) == 0
    assert "LLMASOS_OFFLINE is 'perhaps'" in capsys.readouterr().err


def test_a_full_disk_is_no_internal_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # The error path points standard output at nothing, which would reach the other tests of this process.
    monkeypatch.setattr(main, "_silence_stdout", lambda: None)
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "samples.jsonl")
    assert run_failing(monkeypatch, error) == 1
    assert capfd.readouterr().err.startswith(f"error: samples.jsonl: {os.strerror(errno.ENOSPC)}\nhint: ")


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (ExitCode.PLUGIN, 3), (True, 0), ("text", 0)])
def test_a_command_may_return_an_exit_code(monkeypatch: pytest.MonkeyPatch, returned: Any, code: int) -> None:
    monkeypatch.setattr(main, "import_command", lambda path: click.command()(lambda: returned))
    assert run(["doctor"]) == code


# ---- processes ----


def start(arguments: list[str], tmp_path: Path, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "llmasos", *arguments],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_reader_that_goes_away_is_not_an_error_message(tmp_path: Path) -> None:
    process = start(["plugin", "list", "--json"], tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1


@pytest.mark.parametrize(
    ("closed", "code"), [("0<&-", 0), ("1>&-", 0), ("2>&-", 0), ("0<&- 1>&- 2>&-", 0), ("1>/dev/full", 1)]
)
def test_closed_and_full_streams_are_no_internal_errors(tmp_path: Path, closed: str, code: int) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m llmasos plugin list --json {closed}', sys.executable],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "internal error" not in done.stderr
    assert "Traceback" not in done.stderr


def test_completion_comes_from_the_index(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add("acme-hello", provides=[("command", "hello")], source="raise SystemExit('imported')")

    def complete(words: str) -> list[str]:
        variables = {"_LLMASOS_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "1"}
        done = subprocess.run(
            [sys.executable, "-c", "from llmasos.cli.main import main; main()"],
            env={**environment(world.root, [world.site]), **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert complete("llmasos h") == ["hello"]
    assert set(complete("llmasos ")) >= {*COMMANDS, "hello"}
    assert "--no-plugins" in complete("llmasos --n")


@pytest.mark.parametrize(("extra", "code"), [({"sumary": "x"}, 3), ({"api": "<1"}, 0)])
def test_strict_refuses_to_go_on_beside_a_broken_plugin(
    world: World,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    extra: dict[str, str],
    code: int,
) -> None:
    world.add("acme-bad", **extra)
    monkeypatch.setattr(
        main, "import_command", lambda path: click.command()(click.pass_obj(lambda state: state.hub and None))
    )
    assert run(["doctor"]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "acme-bad" in line]
    assert line.startswith("warning: plugin acme-bad 1.0.0 is ")
    monkeypatch.setenv("LLMASOS_STRICT", "1")
    assert run(["doctor"]) == code


def test_python_minus_m(tmp_path: Path) -> None:
    process = start(["--version"], tmp_path)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.startswith("llmasos ")


def test_the_console_script_is_main(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata as metadata

    points = {point.value for point in metadata.entry_points(group="console_scripts", name="llmasos")}
    assert points == {"llmasos.cli.entry:main"}
    monkeypatch.setattr(sys, "argv", ["llmasos", "--version"])
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as caught:
        entry.main()
    assert caught.value.code == 0
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interruption_while_starting_is_no_traceback(tmp_path: Path) -> None:
    """Ctrl-C the moment that the command line begins to be imported, which no `except` is there to hear yet."""
    code = (
        "import importlib.abc, os, signal, sys\n"
        "class Interrupted(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'click':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from llmasos.cli.entry import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize(
    ("words", "right"),
    [
        (["uninstall", "llmasos-acme"], "llmasos plugin uninstall"),
        (["plugin", "install", "llmasos-acme"], "llmasos install"),
        (["registry", "search", "acme"], "llmasos search"),
        (["pull", "acme/tiny"], "llmasos model pull"),
    ],
)
def test_a_command_looked_for_in_the_wrong_group_is_pointed_to(
    words: list[str], right: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == ExitCode.USAGE
    told = capsys.readouterr().err
    assert f"hint: it is `{right}" in told
    assert "did you mean" not in told.lower()
