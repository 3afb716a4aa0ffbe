"""Users and organisations: made, listed, disabled; who belongs to which organisation, in which role."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from llmasos_registry.server.accounts.audit import audit
from llmasos_registry.server.accounts.caller import ROLES, Caller
from llmasos_registry.server.accounts.names import check_name
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_accounts import accounts, members
from llmasos_registry.server.failures import bad_request, conflict, not_found


@dataclass(frozen=True, slots=True)
class Account:
    """A user or an organisation."""

    id: int
    name: str
    kind: str
    fullname: str
    admin: bool
    disabled: bool
    #: Bytes it may keep; None: the registry's setting.
    quota: int | None
    created_at: datetime


_COLUMNS = tuple(accounts.c[name] for name in Account.__dataclass_fields__)


def find_account(conn: sa.Connection, name: str, kind: str | None = None) -> Account:
    """The account of a name, in any case. Raises Failure 404."""
    row = conn.execute(sa.select(*_COLUMNS).where(accounts.c.name_key == name.lower())).one_or_none()
    if row is None or (kind is not None and row.kind != kind):
        what = {"user": "user", "org": "organisation", None: "account"}[kind]
        raise not_found(f"There is no {what} `{name}`")
    return Account(**row._mapping)


def list_accounts(conn: sa.Connection, kind: str) -> list[Account]:
    """All accounts of a kind, by name."""
    rows = conn.execute(sa.select(*_COLUMNS).where(accounts.c.kind == kind).order_by(accounts.c.name_key))
    return [Account(**row._mapping) for row in rows]


def create_account(
    conn: sa.Connection,
    caller: Caller,
    name: str,
    kind: str = "user",
    *,
    fullname: str = "",
    admin: bool = False,
    quota: int | None = None,
) -> Account:
    """A new account. Raises Failure 400 (name) and 409 (taken, also when the names differ only in case)."""
    check_name(name)
    now = utcnow()
    values = {
        "name": name,
        "name_key": name.lower(),
        "kind": kind,
        "fullname": fullname,
        "admin": admin,
        "quota": quota,
        "created_at": now,
    }
    try:
        with conn.begin_nested():
            conn.execute(accounts.insert().values(values))
    except IntegrityError:
        raise conflict(f"The name `{name}` is taken") from None
    audit(conn, caller, f"{kind}.create", name, {"admin": admin} if admin else None)
    return find_account(conn, name)


def change_account(
    conn: sa.Connection,
    caller: Caller,
    name: str,
    *,
    disabled: bool | None = None,
    admin: bool | None = None,
    quota: int | None = None,
) -> Account:
    """Change what is given. A disabled account's tokens stop working at once. Raises Failure 404 and 409."""
    account = find_account(conn, name)
    values = {
        key: value
        for key, value in (("disabled", disabled), ("admin", admin), ("quota", quota))
        if value is not None
    }
    if not values:
        return account
    if account.admin and (disabled or admin is False) and _other_admins(conn, account.id) == 0:
        raise conflict(f"`{account.name}` is the only administrator left")
    conn.execute(accounts.update().where(accounts.c.id == account.id).values(values))
    audit(conn, caller, f"{account.kind}.change", account.name, values)
    return find_account(conn, name)


def _other_admins(conn: sa.Connection, account: int) -> int:
    return conn.execute(
        sa.select(sa.func.count())
        .select_from(accounts)
        .where(accounts.c.admin, sa.not_(accounts.c.disabled), accounts.c.id != account)
    ).scalar_one()


def create_org(conn: sa.Connection, caller: Caller, name: str, owner: int, *, fullname: str = "") -> Account:
    """A new organisation with its first owner. Raises Failure 400 and 409."""
    org = create_account(conn, caller, name, "org", fullname=fullname)
    conn.execute(members.insert().values(org_id=org.id, user_id=owner, role="owner"))
    return org


def list_members(conn: sa.Connection, org: int) -> list[tuple[str, str]]:
    """(user, role) of an organisation, by name."""
    rows = conn.execute(
        sa.select(accounts.c.name, members.c.role)
        .join(members, members.c.user_id == accounts.c.id)
        .where(members.c.org_id == org)
        .order_by(accounts.c.name_key)
    )
    return [(row.name, row.role) for row in rows]


def set_member(conn: sa.Connection, caller: Caller, org: str, user: str, role: str) -> None:
    """Add a member or change the role. Raises Failure 400, 404, and 409 for the last owner."""
    if role not in ROLES:
        raise bad_request(f"`{role[:40]}` is no role; there are {', '.join(ROLES)}")
    team = _locked_org(conn, org)
    person = find_account(conn, user, "user")
    where = (members.c.org_id == team.id) & (members.c.user_id == person.id)
    held = conn.execute(sa.select(members.c.role).where(where)).scalar_one_or_none()
    if held == role:
        return
    if held is None:
        conn.execute(members.insert().values(org_id=team.id, user_id=person.id, role=role))
    else:
        if held == "owner":
            _check_other_owner(conn, team, person)
        conn.execute(members.update().where(where).values(role=role))
    audit(conn, caller, "org.member", team.name, {"user": person.name, "role": role})


def remove_member(conn: sa.Connection, caller: Caller, org: str, user: str) -> None:
    """Remove a member. Raises Failure 404, and 409 for the last owner."""
    team = _locked_org(conn, org)
    person = find_account(conn, user, "user")
    where = (members.c.org_id == team.id) & (members.c.user_id == person.id)
    held = conn.execute(sa.select(members.c.role).where(where)).scalar_one_or_none()
    if held is None:
        raise not_found(f"`{person.name}` is no member of `{team.name}`")
    if held == "owner":
        _check_other_owner(conn, team, person)
    conn.execute(members.delete().where(where))
    audit(conn, caller, "org.member", team.name, {"user": person.name, "role": None})


def _locked_org(conn: sa.Connection, name: str) -> Account:
    """The organisation, its row locked: two owners who leave at the same moment must not both find the other there."""
    org = find_account(conn, name, "org")
    conn.execute(sa.select(accounts.c.id).where(accounts.c.id == org.id).with_for_update())
    return org


def _check_other_owner(conn: sa.Connection, org: Account, leaving: Account) -> None:
    others = conn.execute(
        sa.select(sa.func.count())
        .select_from(members)
        .where(members.c.org_id == org.id, members.c.role == "owner", members.c.user_id != leaving.id)
    ).scalar_one()
    if others == 0:
        raise conflict(
            f"`{leaving.name}` is the last owner of `{org.name}`", hint="make somebody else an owner first"
        )
