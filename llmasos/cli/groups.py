"""Command groups that plugins may add to: the contribution ``eval.compare`` becomes ``llmasos eval compare``.

Listing and ``--help`` read tables and the index; a command is imported when it is named.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import click

from llmasos.cli.state import State


class OpenGroup(click.Group):
    """A group of core commands (a static table) and plugin commands (``GROUP.NAME`` in the index)."""

    #: Prefix of the plugin commands that belong here.
    prefix: ClassVar[str]
    #: name -> (import path, summary), as in llmasos/cli/main.py; a test compares the summaries with the commands.
    core: ClassVar[Mapping[str, tuple[str, str]]]
    #: The command meant when the first word names none.
    default: ClassVar[str | None] = None

    def rows(self, context: click.Context) -> list[tuple[str, str]]:
        """(name, summary) of every command, sorted."""
        from llmasos.cli.main import grouped_commands

        found = {name: summary for name, (_, summary) in self.core.items()}
        for name, summary in grouped_commands(context.ensure_object(State), self.prefix).items():
            found.setdefault(name, summary)
        return sorted(found.items())

    def list_commands(self, context: click.Context) -> list[str]:
        """All names."""
        return [name for name, _ in self.rows(context)]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import the command behind a name."""
        from llmasos.cli.main import import_command, plugin_command

        if name in self.core:
            return import_command(self.core[name][0])
        return plugin_command(context.ensure_object(State), f"{self.prefix}.{name}")

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click, with the default command for anything else, or near misses where there is none."""
        name = args[0]
        if self.get_command(context, name) is None and not name.startswith("-"):
            from llmasos.near_miss import did_you_mean

            if self.default is not None and not self._misspelt(name, context):
                return super().resolve_command(context, [self.default, *args])

            raise click.UsageError(
                f"no command `{name}`{did_you_mean(name, self.list_commands(context))}", context
            )
        return super().resolve_command(context, args)

    def _misspelt(self, name: str, context: click.Context) -> bool:
        """Whether a word is a command with a slip in it rather than what the default command takes: models and paths that
        are there, and references, look otherwise."""
        from llmasos.near_miss import closest

        plain = name.replace("-", "").replace("_", "").isalpha()
        return (
            plain and not os.path.exists(name) and bool(closest(name, self.list_commands(context), limit=1))
        )

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Options of the default command may stand first: ``llmasos eval --limit 8 MODEL TASK``."""
        if self.default is not None and args and args[0].startswith("-") and args[0] not in ("-h", "--help"):
            args = [self.default, *args]
        return super().parse_args(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """From the tables; imports no command."""
        with formatter.section("Commands"):
            formatter.write_dl(self.rows(context))

    def shell_complete(self, context: click.Context, incomplete: str) -> list[Any]:
        """From the tables; imports no command."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=summary)
            for name, summary in self.rows(context)
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, context, incomplete)]
