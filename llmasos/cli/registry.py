"""``llmasos registry``: run a registry, and look after one. Sub-commands are imported when they are named."""

from __future__ import annotations

import click

#: name -> (import path, summary), as in llmasos/cli/main.py; a test compares the summaries with the commands.
COMMANDS: dict[str, tuple[str, str]] = {
    "advisory": (
        "llmasos.cli.registry_advisory:command",
        "Advisories: which versions not to use, and why.",
    ),
    "audit": ("llmasos.cli.registry_store:audit", "The record of every change."),
    "backup": ("llmasos.cli.registry_store:backup", "Write a backup into the new folder TARGET."),
    "gc": (
        "llmasos.cli.registry_store:gc",
        "Remove what nothing refers to any more and is older than the setting gc_grace.",
    ),
    "key": ("llmasos.cli.registry_key:command", "Publisher keys: make, register, revoke, pin."),
    "login": ("llmasos.cli.registry_login:command", "Remember an access token."),
    "org": ("llmasos.cli.registry_accounts:org", "Organisations and their members."),
    "project": (
        "llmasos.cli.registry_project:command",
        "Projects of the package index: list, quarantine, archive, make private.",
    ),
    "restore": (
        "llmasos.cli.registry_store:restore",
        "Make a registry from BACKUP, in a new or empty data folder.",
    ),
    "scrub": ("llmasos.cli.registry_store:scrub", "Read every blob again."),
    "serve": ("llmasos.cli.registry_serve:command", "Run a registry on this machine."),
    "token": ("llmasos.cli.registry_accounts:token", "Access tokens of users."),
    "user": ("llmasos.cli.registry_accounts:user", "Users of the registry."),
}


class RegistryGroup(click.Group):
    """Imports a sub-command when it is named."""

    def list_commands(self, context: click.Context) -> list[str]:
        """From the table."""
        return sorted(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import the command behind a name."""
        if name not in COMMANDS:
            return None
        from llmasos.cli.main import import_command

        return import_command(COMMANDS[name][0])

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click, with near misses for an unknown command."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from llmasos.near_miss import did_you_mean

            raise click.UsageError(f"no command `{name}`{did_you_mean(name, sorted(COMMANDS))}", context)
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in sorted(COMMANDS.items())])


@click.command(cls=RegistryGroup)
def command() -> None:
    """Run a registry, look after one, and sign in to one."""
