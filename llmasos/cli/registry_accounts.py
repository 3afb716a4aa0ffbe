"""``llmasos registry user | token | org``: accounts, for the operator, on the data folder itself."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmasos.cli.registry_serve import data_option, opened
from llmasos.cli.state import State, common_options, pass_state
from llmasos.errors import UsageError

if TYPE_CHECKING:
    from llmasos_registry.server.accounts.caller import Caller
    from llmasos_registry.server.accounts.people import Account
    from llmasos_registry.server.accounts.tokens import TokenFacts

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SPANS = {"h": 3600, "d": 86400, "w": 7 * 86400}


def operator() -> Caller:
    """Who the audit log names: the operator, and the account of this machine."""
    import getpass

    from llmasos_registry.server.accounts.caller import Caller

    try:
        login = getpass.getuser()
    except (OSError, KeyError):
        login = str(os.getuid())
    return Caller(name=f"operator:{login}"[:96], address="local")


def _bytes(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    unit = text[-1:].upper() if text[-1:].upper() in _UNITS else ""
    number = text[: len(text) - len(unit)]
    if not number.isdecimal() or len(number) > 19 or int(number) * _UNITS[unit] >= 1 << 63:
        raise click.BadParameter("a number of bytes such as 500M, 20G or 1T")
    return int(number) * _UNITS[unit]


def _expiry(text: str | None) -> datetime | None:
    """A moment from `90d`, `12h`, `2w` or a date."""
    if text is None:
        return None
    try:
        if text[:-1].isdecimal() and text[-1] in _SPANS:
            return datetime.now(UTC) + timedelta(seconds=int(text[:-1]) * _SPANS[text[-1]])
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise UsageError(
            f"`{text[:40]}` is no expiry", hint="give a span (12h, 90d, 4w) or a date (2030-01-31)"
        ) from None


def _account_json(account: Account) -> dict[str, Any]:
    return {
        "name": account.name,
        "fullname": account.fullname,
        "admin": account.admin,
        "disabled": account.disabled,
        "quota": account.quota,
        "created_at": account.created_at.isoformat(),
    }


def _token_json(token: TokenFacts) -> dict[str, Any]:
    def when(moment: datetime | None) -> str | None:
        return None if moment is None else moment.isoformat()

    return {
        "id": token.id,
        "name": token.name,
        "scopes": token.scopes,
        "projects": token.projects,
        "created_at": when(token.created_at),
        "expires_at": when(token.expires_at),
        "last_used_at": when(token.last_used_at),
        "revoked_at": when(token.revoked_at),
    }


@click.group()
def user() -> None:
    """Users of the registry."""


@user.command("add")
@click.argument("name")
@click.option("--fullname", default="", help="Name for people.")
@click.option("--admin", is_flag=True, help="May do everything, with a token of scope admin.")
@click.option("--quota", metavar="BYTES", callback=_bytes, help="Bytes the user may keep: 500M, 20G, 1T.")
@data_option
@common_options
@pass_state
def user_add(
    state: State, name: str, fullname: str, admin: bool, quota: int | None, data: Path | None
) -> None:
    """Add the user NAME."""
    with opened(data) as registry, registry.db.write() as conn:
        from llmasos_registry.server.accounts.people import create_account

        made = create_account(conn, operator(), name, fullname=fullname, admin=admin, quota=quota)
    state.output.emit(_account_json(made), f"added user {made.name}")
    where = f" --data {data}" if data is not None else ""
    state.output.note(f"a token to publish with: llmasos registry token new {made.name}{where}")


@user.command("list")
@data_option
@common_options
@pass_state
def user_list(state: State, data: Path | None) -> None:
    """List users."""
    with opened(data) as registry, registry.db.read() as conn:
        from llmasos_registry.server.accounts.people import list_accounts

        found = [_account_json(account) for account in list_accounts(conn, "user")]
    rows = [
        (
            u["name"],
            u["fullname"],
            "admin" if u["admin"] else "",
            "disabled" if u["disabled"] else "",
            u["quota"],
        )
        for u in found
    ]
    state.output.emit(
        found, lambda: state.output.table(("name", "full name", "admin", "state", "quota"), rows)
    )


def _change(state: State, data: Path | None, name: str, said: str, **changes: Any) -> None:
    with opened(data) as registry, registry.db.write() as conn:
        from llmasos_registry.server.accounts.people import change_account, find_account

        find_account(conn, name, "user")
        changed = change_account(conn, operator(), name, **changes)
    state.output.emit(_account_json(changed), f"{said} {changed.name}")


@user.command("disable")
@click.argument("name")
@data_option
@common_options
@pass_state
def user_disable(state: State, name: str, data: Path | None) -> None:
    """Disable the user NAME: the tokens stop working at once, the content stays."""
    _change(state, data, name, "disabled", disabled=True)


@user.command("enable")
@click.argument("name")
@data_option
@common_options
@pass_state
def user_enable(state: State, name: str, data: Path | None) -> None:
    """Let a disabled user NAME in again."""
    _change(state, data, name, "enabled", disabled=False)


@user.command("set")
@click.argument("name")
@click.option("--admin/--no-admin", default=None, help="May do everything, or not any more.")
@click.option("--quota", metavar="BYTES", callback=_bytes, help="Bytes the user may keep: 500M, 20G, 1T.")
@data_option
@common_options
@pass_state
def user_set(state: State, name: str, admin: bool | None, quota: int | None, data: Path | None) -> None:
    """Change the rights and the quota of the user NAME."""
    if admin is None and quota is None:
        raise UsageError("nothing to change", hint="give --admin, --no-admin or --quota")
    _change(state, data, name, "changed", admin=admin, quota=quota)


@click.group()
def token() -> None:
    """Access tokens of users."""


@token.command("new")
@click.argument("user_name", metavar="USER")
@click.option("--name", "label", default="command line", show_default=True, help="What it is for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(("read", "write", "publish", "admin")),
    help="What it may do; each includes the ones before. May be repeated.  [default: publish]",
)
@click.option(
    "--project", "projects", multiple=True, metavar="NAME", help="Only these: acme/*, llmasos-acme."
)
@click.option("--expires", metavar="WHEN", help="12h, 90d, 4w, or a date.  [default: never]")
@data_option
@common_options
@pass_state
def token_new(
    state: State,
    user_name: str,
    label: str,
    scopes: tuple[str, ...],
    projects: tuple[str, ...],
    expires: str | None,
    data: Path | None,
) -> None:
    """Make a token for USER. It is printed once and not kept."""
    until = _expiry(expires)
    with opened(data) as registry, registry.db.write() as conn:
        from llmasos_registry.server.accounts.people import find_account
        from llmasos_registry.server.accounts.tokens import issue_token

        made, facts = issue_token(
            conn,
            operator(),
            find_account(conn, user_name, "user"),
            label,
            scopes or ("publish",),
            projects=projects or None,
            expires_at=until,
        )
    state.output.emit({**_token_json(facts), "token": made}, made)


@token.command("list")
@click.argument("user_name", metavar="USER")
@data_option
@common_options
@pass_state
def token_list(state: State, user_name: str, data: Path | None) -> None:
    """List the tokens of USER."""
    with opened(data) as registry, registry.db.read() as conn:
        from llmasos_registry.server.accounts.people import find_account
        from llmasos_registry.server.accounts.tokens import list_tokens

        found = list_tokens(conn, find_account(conn, user_name, "user").id)
    now = datetime.now(UTC)

    def standing(item: TokenFacts) -> str:
        if item.revoked_at is not None:
            return "revoked"
        return "expired" if item.expires_at is not None and item.expires_at <= now else "valid"

    def day(moment: datetime | None) -> str:
        return "never" if moment is None else f"{moment:%Y-%m-%d %H:%M}"

    rows = [
        (
            str(item.id),
            item.name,
            " ".join(item.scopes),
            "all" if item.projects is None else " ".join(item.projects),
            day(item.expires_at),
            day(item.last_used_at),
            standing(item),
        )
        for item in found
    ]
    columns = ("id", "name", "scopes", "projects", "expires", "last used", "state")
    state.output.emit([_token_json(item) for item in found], lambda: state.output.table(columns, rows))


@token.command("revoke")
@click.argument("number", metavar="ID", type=click.IntRange(1, (1 << 63) - 1))
@data_option
@common_options
@pass_state
def token_revoke(state: State, number: int, data: Path | None) -> None:
    """End the token with the number ID now. `token list` shows the numbers."""
    with opened(data) as registry, registry.db.write() as conn:
        from llmasos_registry.server.accounts.tokens import revoke_token

        revoke_token(conn, operator(), number)
    state.output.emit({"id": number, "revoked": True}, f"revoked token {number}")


@click.group()
def org() -> None:
    """Organisations and their members."""


@org.command("add")
@click.argument("name")
@click.option("--owner", required=True, metavar="USER", help="The first owner.")
@click.option("--fullname", default="", help="Name for people.")
@data_option
@common_options
@pass_state
def org_add(state: State, name: str, owner: str, fullname: str, data: Path | None) -> None:
    """Add the organisation NAME."""
    with opened(data) as registry, registry.db.write() as conn:
        from llmasos_registry.server.accounts.people import create_org, find_account

        made = create_org(conn, operator(), name, find_account(conn, owner, "user").id, fullname=fullname)
    state.output.emit(_account_json(made), f"added organisation {made.name}")


@org.command("list")
@data_option
@common_options
@pass_state
def org_list(state: State, data: Path | None) -> None:
    """List organisations."""
    with opened(data) as registry, registry.db.read() as conn:
        from llmasos_registry.server.accounts.people import list_accounts, list_members

        found = [
            {**_account_json(account), "members": len(list_members(conn, account.id))}
            for account in list_accounts(conn, "org")
        ]
    rows = [(o["name"], o["fullname"], o["members"]) for o in found]
    state.output.emit(found, lambda: state.output.table(("name", "full name", "members"), rows))


@org.command("set")
@click.argument("name")
@click.option(
    "--quota", metavar="BYTES", callback=_bytes, required=True, help="Bytes it may keep: 500M, 20G, 1T."
)
@data_option
@common_options
@pass_state
def org_set(state: State, name: str, quota: int, data: Path | None) -> None:
    """Change the quota of the organisation NAME."""
    with opened(data) as registry, registry.db.write() as conn:
        from llmasos_registry.server.accounts.people import change_account, find_account

        find_account(conn, name, "org")
        changed = change_account(conn, operator(), name, quota=quota)
    state.output.emit(_account_json(changed), f"changed {changed.name}")


@org.command("members")
@click.argument("name")
@click.option(
    "--add", metavar="USER[:ROLE]", help="Add a member, or change the role: reader, maintainer, owner."
)
@click.option("--remove", metavar="USER", help="Remove a member.")
@data_option
@common_options
@pass_state
def org_members(state: State, name: str, add: str | None, remove: str | None, data: Path | None) -> None:
    """List the members of the organisation NAME, after the changes asked for."""
    with opened(data) as registry, registry.db.write() as conn:
        from llmasos_registry.server.accounts.people import (
            find_account,
            list_members,
            remove_member,
            set_member,
        )

        if add is not None:
            person, _, role = add.partition(":")
            set_member(conn, operator(), name, person, role or "maintainer")
        if remove is not None:
            remove_member(conn, operator(), name, remove)
        found = list_members(conn, find_account(conn, name, "org").id)
    state.output.emit(
        [{"user": person, "role": role} for person, role in found],
        lambda: state.output.table(("user", "role"), found),
    )
