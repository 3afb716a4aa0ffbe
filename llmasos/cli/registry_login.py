"""``llmasos registry login``: remember a token for a registry."""

from __future__ import annotations

import sys

import click

from llmasos.cli.consent import registry_option
from llmasos.cli.state import State, common_options, pass_state


@click.command()
@registry_option
@click.option("--logout", is_flag=True, help="Forget the token instead.")
@common_options
@pass_state
def command(state: State, registry: str | None, logout: bool) -> None:
    """Remember an access token.

    The token is asked for without showing it, or read from standard input. It is tried first, and kept in credentials.toml in the
    configuration folder, which only you can read. LLMASOS_TOKEN goes before it.
    """
    from llmasos.errors import UsageError
    from llmasos_registry.client.connection import Connection
    from llmasos_registry.client.credentials import connect, store_token
    from llmasos_registry.client.publisher import caller_name

    with connect(state.config, registry) as known:
        url = known.url
    if logout:
        path = store_token(state.config.config_dir, url, None)
        state.output.emit({"registry": url, "account": None}, f"the token for {url} is gone from {path}")
        return
    if sys.stdin.isatty():
        token = click.prompt(f"Token for {url}", hide_input=True, err=True)
    else:
        token = sys.stdin.readline(4096)
    token = token.strip()
    if not token or not token.isprintable() or " " in token:
        raise UsageError(
            "that is no token", hint="whoever runs the registry makes one: llmasos registry token new USER"
        )
    with Connection(url, token) as connection:
        account = caller_name(connection)
    path = store_token(state.config.config_dir, url, token)
    state.output.emit({"registry": url, "account": account}, f"signed in to {url} as {account} ({path})")
