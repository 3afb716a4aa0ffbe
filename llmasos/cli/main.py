"""The ``llmasos`` command.

Core commands are a static table of import paths; plugin commands come from the index with the summaries of their
manifests. Listing and ``--help`` import neither the commands nor any plugin.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmasos.cli.state import State
from llmasos.errors import ConfigError, ExitCode, LlmasosError, PluginLoadError, UnknownName

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from llmasos.kernel.catalog import Catalog

#: name -> (import path, summary). The summary is here so that ``--help`` imports nothing; a test compares it with the command.
COMMANDS: dict[str, tuple[str, str]] = {
    "backend": ("llmasos.cli.backend:command", "List, describe, check and time back ends."),
    "bundle": ("llmasos.cli.bundle:command", "Carry plugins and models to a machine without a network."),
    "data": (
        "llmasos.cli.data:command",
        "Clean and tokenise text; keep data under a name.",
    ),
    "doctor": ("llmasos.cli.doctor:command", "Check this environment and its plugins."),
    "eval": ("llmasos.cli.eval:command", "Score models; look at, compare and verify results."),
    "generate": ("llmasos.cli.generate:command", "Continue PROMPTS with MODEL."),
    "install": (
        "llmasos.cli.install:command",
        "Install plugins from the registry.",
    ),
    "lock": ("llmasos.cli.lock:command", "Write a lock of plugins and models."),
    "model": ("llmasos.cli.model:command", "Look at models, and publish them."),
    "plugin": ("llmasos.cli.plugin:command", "List, describe, switch, check and publish plugins."),
    "registry": ("llmasos.cli.registry:command", "Run a registry, look after one, and sign in to one."),
    "search": ("llmasos.cli.search:command", "Search the registry for plugins, models and datasets."),
    "sync": ("llmasos.cli.sync:command", "Make this environment equal to a lock."),
}

#: Flags that stand before the command, and how many values each takes.
GLOBAL_FLAGS: dict[str, int] = {
    "--no-plugins": 0,
    "--offline": 0,
    "--only": 1,
    "--plugin": 1,
    "--trace-plugins": 0,
    "--version": 0,
}


#: What the system says when there is no room for what is written.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class LazyGroup(click.Group):
    """A group whose commands are imported when they are named."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Core commands, then plugin commands, each sorted."""
        return [*COMMANDS, *(name for name, _ in plugin_commands(context.ensure_object(State)))]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import the command behind a name."""
        if name in COMMANDS:
            path = COMMANDS[name][0]
            return import_command(path)
        return plugin_command(context.ensure_object(State), name)

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands from the table and the index, and the options; imports no command."""
        from click.shell_completion import CompletionItem

        rows = [(name, summary) for name, (_, summary) in sorted(COMMANDS.items())]
        rows += plugin_commands(context.ensure_object(State))
        found = [CompletionItem(name, help=summary) for name, summary in rows if name.startswith(incomplete)]
        # Past click.Group, which would import every command for its help.
        return [*found, *click.Command.shell_complete(self, context, incomplete)]

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click, with near misses for an unknown command."""
        name = args[0]
        if self.get_command(context, name) is None and not name.startswith("-"):
            from llmasos.near_miss import did_you_mean

            known = self.list_commands(context)
            raise click.UsageError(f"no command `{name}`{did_you_mean(name, known)}", context)
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Two lists, from the table and from the index."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in sorted(COMMANDS.items())])
        state = context.ensure_object(State)
        try:
            extra = plugin_commands(state)
        except ConfigError as error:
            # Help is what someone with a damaged settings file asks for first.
            state.output.warn(f"plugin commands are not listed: {error.message}")
            extra = []
        if extra:
            with formatter.section("Plugin commands"):
                formatter.write_dl(extra)


def import_command(path: str) -> click.Command:
    """The click command behind ``module:attribute`` of the core."""
    import importlib

    module, _, attribute = path.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    assert isinstance(found, click.Command)
    return found


def plugin_command(state: State, name: str) -> click.Command | None:
    """Import the plugin command of a name; None when there is none. Raises PluginLoadError for what is no command."""
    try:
        # Says why when only a plugin that cannot be used has a command of this name.
        _catalog(state).find("command", name)
    except UnknownName:
        return None
    found = state.hub.get("command", name)
    if not isinstance(found, click.Command):
        raise PluginLoadError(f"the plugin command `{name}` is a {type(found).__name__}, not a click command")
    return found


def _catalog(state: State) -> Catalog:
    from llmasos.kernel.catalog import Catalog

    return Catalog(state.inventory)


def _all_commands(catalog: Catalog) -> list[Any]:
    return catalog.entries("command")


def plugin_commands(state: State) -> list[tuple[str, str]]:
    """(name, summary) of plugin commands, sorted; the full name where the bare one is taken or ambiguous."""
    entries = [entry for entry in _all_commands(_catalog(state)) if _group_of(entry.name) not in COMMANDS]
    bare = [entry.name for entry in entries]
    rows = [
        (
            entry.full_name if entry.name in COMMANDS or bare.count(entry.name) > 1 else entry.name,
            entry.table["summary"],
        )
        for entry in entries
    ]
    return sorted(rows)


def grouped_commands(state: State, group: str) -> dict[str, str]:
    """name -> summary of the plugin commands ``GROUP.name``."""
    return {
        entry.name.partition(".")[2]: entry.table["summary"]
        for entry in _all_commands(_catalog(state))
        if _group_of(entry.name) == group
    }


def _group_of(name: str) -> str | None:
    group, dot, _ = name.partition(".")
    return group if dot else None


def _print_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from llmasos import API_VERSION, __version__

        click.echo(f"llmasos {__version__} (API {API_VERSION[0]}.{API_VERSION[1]})")
        context.exit()


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
@click.option(
    "--no-plugins", is_flag=True, default=None, help="Ignore installed plugins. [env: LLMASOS_NO_PLUGINS]"
)
@click.option("--only", metavar="ID,ID", help="Use only these installed plugins.")
@click.option(
    "--plugin", "plugins", metavar="DIR", multiple=True, help="Use the plugin in a folder. May be repeated."
)
@click.option(
    "--trace-plugins",
    is_flag=True,
    default=None,
    help="Show every plugin load and hook call. [env: LLMASOS_TRACE_PLUGINS]",
)
@click.option("--offline", is_flag=True, default=None, help="Fetch nothing. [env: LLMASOS_OFFLINE]")
@click.pass_context
def command(context: click.Context, /, **_: Any) -> None:
    """An operating system for open language models.

    Flags before the command apply to every command.
    """


def read_globals(arguments: Sequence[str]) -> State:
    """The State from the flags in front of the command, read before click or any plugin has a say."""
    flags: dict[str, list[str]] = {}
    position = 0
    while position < len(arguments):
        name, equals, value = arguments[position].partition("=")
        if name not in GLOBAL_FLAGS:
            # `--help` may stand among the flags; the first thing that is no option is the command.
            if name in ("-h", "--help"):
                position += 1
                continue
            break
        if GLOBAL_FLAGS[name]:
            if not equals:
                position += 1
                value = arguments[position] if position < len(arguments) else ""
            flags.setdefault(name, []).append(value)
        else:
            flags[name] = []
        position += 1
    only = [part.strip() for text in flags.get("--only", []) for part in text.split(",")]
    return State(
        no_plugins=True if "--no-plugins" in flags else None,
        only=tuple(part for part in only if part) if "--only" in flags else None,
        plugins=tuple(Path(text) for text in flags.get("--plugin", [])),
        trace_plugins=True if "--trace-plugins" in flags else None,
        offline=True if "--offline" in flags else None,
    )


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code. Never raises, and prints a traceback only when strict."""
    state = read_globals(arguments)
    try:
        return _run(state, arguments)
    finally:
        state.close()


def _run(state: State, arguments: Sequence[str]) -> int:
    try:
        result = command.main(
            list(arguments),
            prog_name="llmasos",
            standalone_mode=False,
            obj=state,
            terminal_width=help_width(),
        )
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        return int(ExitCode.RUN_FAILED)
    except OSError as error:
        if error.errno not in FULL:
            return _crash(state, error)
        _silence_stdout()
        where = f"{error.filename}: " if error.filename else ""
        state.output.error(f"{where}{error.strerror}", "make room, or write somewhere else")
        return int(ExitCode.RUN_FAILED)
    except (KeyboardInterrupt, click.Abort):
        state.output.error("interrupted")
        return int(ExitCode.INTERRUPTED)
    except LlmasosError as error:
        return _report(state, error)
    except click.ClickException as error:
        return _usage(state, error)
    except Exception as error:
        return _crash(state, error)
    # A command may return an ExitCode; click's own exits (--help, context.exit) come back as numbers.
    return int(result) if isinstance(result, int) and not isinstance(result, bool) else int(ExitCode.OK)


def help_width() -> int:
    """Columns for help text, as click would choose them, without importing shutil and its compression modules."""
    try:
        columns = int(os.environ.get("COLUMNS", "")) or 80
    except ValueError:
        try:
            columns = os.get_terminal_size(sys.__stdout__.fileno() if sys.__stdout__ else 1).columns
        except (OSError, ValueError):
            columns = 80
    return max(min(columns, 80) - 2, 50)


def _report(state: State, error: LlmasosError) -> int:
    if _strict(state):
        import traceback

        traceback.print_exception(error)
    state.output.error(error.message, error.hint)
    return int(error.exit_code)


#: Commands that people look for in another group than theirs.
_ELSEWHERE = {
    "llmasos uninstall": "llmasos plugin uninstall NAME",
    "llmasos login": "llmasos registry login",
    "llmasos serve": "llmasos registry serve",
    "llmasos publish": "llmasos plugin publish FOLDER` or `llmasos model publish FOLDER ORG/NAME",
    "llmasos pull": "llmasos model pull ORG/NAME",
    "llmasos plugin install": "llmasos install NAME",
    "llmasos plugin search": "llmasos search WORDS",
    "llmasos model search": "llmasos search WORDS",
    "llmasos model install": "llmasos model pull ORG/NAME",
    "llmasos registry search": "llmasos search WORDS",
}


def _usage(state: State, error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    # click 8.2 raises this for a group without arguments; before, it showed the help itself.
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())) and context is not None:
        click.echo(context.get_help(), err=True)
        return int(ExitCode.USAGE)
    path = context.command_path if context is not None else "llmasos"
    message = error.format_message()
    hint = f"`{path} --help` shows what it takes"
    for wrong, right in _ELSEWHERE.items():
        group, _, name = wrong.rpartition(" ")
        if path == group and message.startswith((f"no command `{name}`", f"No such command '{name}'")):
            # Near misses would offer the opposite: `install` for `uninstall`.
            message, hint = f"no command `{wrong}`", f"it is `{right}`"
    option = getattr(error, "option_name", None)
    if option in GLOBAL_FLAGS:
        hint = f"{option} stands before the command: llmasos {option} ..."
    state.output.error(message, hint)
    return int(ExitCode.USAGE) if isinstance(error, click.UsageError) else error.exit_code


def _strict(state: State) -> bool:
    try:
        return state.config.strict
    except LlmasosError:
        return False


def _crash(state: State, error: Exception) -> int:
    """An exception nobody meant for the user: one line, the traceback in a file."""
    import traceback

    if _strict(state):
        traceback.print_exception(error)
    text = "".join(traceback.format_exception(error))
    where = _keep_traceback(state, text)
    first = (str(error).strip().splitlines() or [""])[0]
    state.output.error(
        f"internal error {type(error).__name__}: {first}".rstrip(": "),
        f"the traceback is in {where}; please report it"
        if where
        else "set LLMASOS_STRICT=1 to see the traceback",
    )
    return int(ExitCode.RUN_FAILED)


def _keep_traceback(state: State, text: str) -> Path | None:
    import tempfile
    import time

    from llmasos.kernel.atomic import write_atomic

    name = f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.txt"
    folders = [Path(tempfile.gettempdir(), "llmasos-errors")]
    with suppress(LlmasosError):
        folders.insert(0, state.config.cache_dir / "errors")
    for folder in folders:
        try:
            write_atomic(folder / name, text.encode("utf-8", "backslashreplace"))
        except OSError:
            continue
        return folder / name
    return None


def _silence_stdout() -> None:
    """The reader has gone: what is left in the buffer must not make the interpreter complain at exit."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
    except (OSError, ValueError):
        pass


def open_streams() -> None:
    """Put the null device where the caller closed a standard stream.

    Python makes such a stream None, and the next file that is opened would get its number and receive what libraries print.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))


def main() -> None:
    """Run the command line of this process and exit with its code."""
    open_streams()
    sys.exit(run(sys.argv[1:]))
