"""Finding an object and deciding whether this caller may see or change it. Every handler comes through here.

What a caller may not see is answered exactly as what does not exist.
"""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa
from packaging.utils import canonicalize_name

from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.db.tables_accounts import accounts
from llmasos_registry.server.db.tables_hub import repos
from llmasos_registry.server.db.tables_index import projects
from llmasos_registry.server.failures import Failure, forbidden, not_found, repo_not_found
from llmasos_registry.server.hub import repository
from llmasos_registry.server.hub.repository import Repo

_PROJECT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]{1,96}")


def find_project(conn: sa.Connection, caller: Caller, name: str) -> sa.Row[Any]:
    """The row of a project that the caller may see, by any spelling of its name. Raises Failure 404."""
    row = None
    if _PROJECT.fullmatch(name):
        row = conn.execute(sa.select(projects).where(projects.c.key == canonicalize_name(name))).one_or_none()
    if row is None or not caller.may_read(row.owner, row.key, private=bool(row.private)):
        raise not_found(f"There is no project `{name[:100]}`")
    return row


def project_to_change(
    conn: sa.Connection, caller: Caller, name: str, role: str = "maintainer"
) -> sa.Row[Any]:
    """The row of a project that the caller may publish to, locked. Raises Failure 404 and 403."""
    row = find_project(conn, caller, name)
    if not caller.may_write(row.owner, row.key, "publish", role):
        raise forbidden(f"You may not change the project `{row.key}` of `{row.owner}`")
    return conn.execute(sa.select(projects).where(projects.c.id == row.id).with_for_update()).one()


def find_repo(conn: sa.Connection, caller: Caller, kind: str, owner: str, name: str) -> Repo:
    """A repository that the caller may see; a name that it had before leads to it.

    Raises Failure 404, and 403 when it was taken out of service.
    """
    wanted = f"{owner}/{name}"
    try:
        if not (_SEGMENT.fullmatch(owner) and _SEGMENT.fullmatch(name)):
            raise repo_not_found(wanted, anonymous=False)
        try:
            return repository.find_repo(conn, kind, wanted, caller)
        except repository.Moved as moved:
            return repository.find_repo(conn, kind, moved.repo.full_name, caller)
    except Failure as failure:
        if failure.code != "RepoNotFound":
            raise
        # The Hub's clients want 401 here for strangers; ours take 404 for what it is.
        raise Failure(404, f"There is no {kind} `{wanted[:200]}`", code=failure.code) from None


def repo_to_change(
    conn: sa.Connection, caller: Caller, kind: str, owner: str, name: str, *, lock: bool = True
) -> Repo:
    """A repository that the caller may publish in, its row locked unless told not to. Raises Failure 404 and 403."""
    repo = find_repo(conn, caller, kind, owner, name)
    if not caller.may_write(repo.owner, repo.full_name, "publish"):
        raise forbidden(f"You may not publish in the {kind} `{repo.full_name}`")
    if repo.disabled is not None:
        raise forbidden(repository.DISABLED)
    if lock:
        conn.execute(sa.select(repos.c.id).where(repos.c.id == repo.id).with_for_update())
    return repository.repo_by_id(conn, repo.id)


def find_account(conn: sa.Connection, name: str) -> sa.Row[Any]:
    """The row of an account. Raises Failure 404."""
    row = None
    if _SEGMENT.fullmatch(name):
        row = conn.execute(sa.select(accounts).where(accounts.c.name_key == name.lower())).one_or_none()
    if row is None:
        raise not_found(f"There is no account `{name[:96]}`")
    return row


def account_to_change(conn: sa.Connection, caller: Caller, name: str) -> sa.Row[Any]:
    """The row of an account that the caller owns: himself, or an organisation. Raises Failure 404 and 403.

    A token that is restricted to some projects does not speak for the account.
    """
    row = find_account(conn, name)
    if not caller.owns(row.name):
        raise forbidden(f"Only owners of `{row.name}`, with an unrestricted token, may do this")
    return row
