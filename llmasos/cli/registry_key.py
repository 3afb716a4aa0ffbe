"""``llmasos registry key``: publishers' keys, one's own and those one trusts."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmasos.cli.state import State, common_options, pass_state
from llmasos.errors import UsageError

if TYPE_CHECKING:
    from llmasos_registry.client.connection import Connection
    from llmasos_registry.signatures.keys import PrivateKey

_key = click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The key's file, instead of your usual one.",
)
_registry = click.option("--registry", metavar="URL", help="The registry. [env: LLMASOS_REGISTRY]")
_account = click.option("--account", metavar="NAME", help="The user or organisation; yourself when left out.")


@click.group()
def command() -> None:
    """Publisher keys: make, register, revoke, pin."""


def signing_key(state: State, path: Path | None, no_sign: bool) -> PrivateKey | None:
    """The key to publish with, None for --no-sign. Raises KeyRefused when there is none; warns when others can read it."""
    from llmasos_registry.client.publisher import key_path
    from llmasos_registry.signatures.keys import exposed, load_private

    if no_sign:
        if path is not None:
            raise UsageError("--key and --no-sign exclude each other")
        return None
    file = key_path(state.config.config_dir, path)
    key = load_private(file)
    if exposed(file):
        state.output.warn(f"others on this machine can read your key: chmod 600 {file}")
    return key


@command.command(short_help="Make a key.")
@_key
@click.option("--register", is_flag=True, help="Also register it for yourself.")
@click.option("--comment", default="", help="Where the key lives, for the list of keys.")
@_registry
@common_options
@pass_state
def new(state: State, key: Path | None, register: bool, comment: str, registry: str | None) -> None:
    """Make a key that signs what you publish, in a file that only you can read."""
    from llmasos_registry.client.publisher import key_path
    from llmasos_registry.signatures.keys import generate, keyid

    path = key_path(state.config.config_dir, key)
    if register:
        from llmasos_registry.client.credentials import connect

        # Before the key is made: a registry that is not there, or a wrong token, leaves nothing behind.
        with connect(state.config, registry, need_token=True) as connection:
            _caller(connection)
    made = generate(path)
    name = keyid(made.public_key())
    state.output.note(
        "keep a copy of this file: whoever has it publishes in your name, and it cannot be made again"
    )
    account = _register(state, made, None, comment, registry) if register else None
    text = f"made {name} in {path}"
    if account is not None:
        text += f"\nregistered for {account}"
    state.output.emit({"keyid": name, "path": path, "account": account}, text)
    if account is None:
        named = "" if key is None else f" --key {shlex.quote(str(key))}"
        state.output.note(f"next: llmasos registry key register{named}")


@command.command(short_help="Tell the registry of a key.")
@_key
@_account
@click.option("--comment", default="", help="Where the key lives, for the list of keys.")
@_registry
@common_options
@pass_state
def register(state: State, key: Path | None, account: str | None, comment: str, registry: str | None) -> None:
    """Register your key, so that others verify with it what you publish. Registering it again changes nothing."""
    from llmasos_registry.signatures.keys import keyid

    found = signing_key(state, key, no_sign=False)
    assert found is not None
    owner = _register(state, found, account, comment, registry)
    name = keyid(found.public_key())
    state.output.emit({"keyid": name, "account": owner}, f"registered {name} for {owner}")


def _register(state: State, key: PrivateKey, account: str | None, comment: str, registry: str | None) -> str:
    from llmasos_registry.client.connection import path_segment
    from llmasos_registry.client.credentials import connect
    from llmasos_registry.signatures.keys import prove, public_pem

    with connect(state.config, registry, need_token=True) as connection:
        owner = account or _caller(connection)
        body = {"pem": public_pem(key.public_key()), "comment": comment, "proof": prove(key, owner)}
        connection.post(f"/v1/publishers/{path_segment(owner)}/keys", body)
    return owner


def _caller(connection: Connection) -> str:
    from llmasos_registry.client.publisher import caller_name

    return caller_name(connection)


@command.command("list", short_help="List the keys of a publisher.")
@click.argument("account", required=False)
@_registry
@common_options
@pass_state
def list_(state: State, account: str | None, registry: str | None) -> None:
    """The keys of ACCOUNT (yourself when left out) at the registry, and which of them you have pinned."""
    from llmasos_registry.client.connection import path_segment
    from llmasos_registry.client.credentials import connect
    from llmasos_registry.client.trust import Trust

    with connect(state.config, registry, need_token=account is None) as connection:
        name = account or _caller(connection)
        keys = connection.get(f"/v1/publishers/{path_segment(name)}/keys")["keys"]
        pinned = Trust(state.config.config_dir, connection.url).publisher(name)
    mine = {key.keyid for key in pinned.keys} if pinned is not None else set()
    rows = [{**key, "pinned": key["keyid"] in mine} for key in keys]

    def human() -> str:
        if not rows:
            return f"{name} has no keys"
        columns = ("key", "registered", "revoked", "pinned", "comment")
        table = [
            (
                row["keyid"],
                row["created_at"],
                row["revoked_at"],
                "yes" if row["pinned"] else "",
                row["comment"],
            )
            for row in rows
        ]
        return state.output.table(columns, table)

    state.output.emit({"account": name, "keys": rows}, human)


@command.command(short_help="Revoke a key.")
@click.argument("keyid")
@_account
@_registry
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@common_options
@pass_state
def revoke(state: State, keyid: str, account: str | None, registry: str | None, yes: bool) -> None:
    """Revoke the key KEYID: nothing signed with it is accepted any more, except what a lock already names."""
    from llmasos_registry.client.connection import path_segment
    from llmasos_registry.client.credentials import connect

    if not yes and not sys.stdin.isatty():
        raise UsageError(
            "nothing was revoked: there is no terminal to ask on",
            hint=f"to revoke it run: llmasos registry key revoke {keyid} --yes",
        )
    if not yes and not click.confirm(f"revoke {keyid}? It can never be used again", err=True):
        raise click.Abort
    with connect(state.config, registry, need_token=True) as connection:
        owner = account or _caller(connection)
        connection.delete(f"/v1/publishers/{path_segment(owner)}/keys/{path_segment(keyid)}")
    state.output.emit({"keyid": keyid, "account": owner}, f"revoked {keyid} of {owner}")


@command.command(short_help="Show or change what you trust.")
@click.option("--accept", metavar="ACCOUNT", help="Trust the keys that ACCOUNT has now.")
@click.option(
    "--for",
    "subject",
    metavar="KIND:NAME",
    help="With --accept: ACCOUNT publishes this, e.g. plugin:llmasos-acme.",
)
@click.option("--accept-serial", is_flag=True, help="The registry was restored: take its age as it is now.")
@_registry
@common_options
@pass_state
def pin(
    state: State, accept: str | None, subject: str | None, accept_serial: bool, registry: str | None
) -> None:
    """Show the publishers whose keys you have pinned; with --accept, trust changed ones.

    Keys are pinned when you first install something of a publisher. When they change later, nothing of that publisher is
    installed until you accept the change: ask the publisher first.
    """
    from llmasos_registry.client.connection import registry_url
    from llmasos_registry.client.credentials import connect
    from llmasos_registry.client.trust import Publisher, Trust
    from llmasos_registry.client.verify import registry_keys

    address = registry or state.config.registry
    if not address:
        raise UsageError("no registry is set", hint="set LLMASOS_REGISTRY, or pass --registry URL")
    if subject is not None and accept is None:
        raise UsageError("--for goes with --accept ACCOUNT")
    trust = Trust(state.config.config_dir, registry_url(address))
    before = trust.publisher(accept) if accept is not None else None
    if accept_serial:
        trust.forget_serials()
    if accept is not None:
        with connect(state.config, registry) as connection:
            keys = tuple(sorted(registry_keys(connection)(accept)))
        if not keys:
            raise UsageError(f"{accept} has no keys at {trust.registry}")
        trust.pin(Publisher(accept, keys), subject)
    found = trust.publishers()
    rows = [
        (entry.account, key.keyid, "revoked" if key.revoked else "") for entry in found for key in entry.keys
    ]

    def human() -> str:
        lines: list[str] = []
        if accept is not None:
            old = ", ".join(key.keyid for key in before.keys) if before is not None else "none"
            now = ", ".join(account_key for account, account_key, _ in rows if account == accept)
            lines.append(f"accepted the keys of {accept}: {now} (before: {old})")
        if accept_serial:
            lines.append(f"accepted the age of {trust.registry}")
        if not lines:
            lines.append(
                state.output.table(("publisher", "key", "state"), rows)
                if rows
                else "no publisher is pinned yet"
            )
        return "\n".join(lines)

    state.output.emit(
        {
            "registry": trust.registry,
            "serial": trust.serial(),
            "publishers": {entry.account: [key._asdict() for key in entry.keys] for entry in found},
        },
        human,
    )
