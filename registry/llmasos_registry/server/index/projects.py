"""Projects: who may have which name, how they are made, changed and deleted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from llmasos_registry.server.accounts.audit import audit, emit
from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.api.documents import remove_document
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.serial import next_serial
from llmasos_registry.server.db.tables_accounts import accounts
from llmasos_registry.server.db.tables_index import package_files, project_tombstones, projects
from llmasos_registry.server.failures import bad_request, conflict, forbidden, not_found
from llmasos_registry.server.index.changes import project_changed
from llmasos_registry.server.index.names import PROHIBITED, imitated_prefix, is_name, key_of, skeleton
from llmasos_registry.server.index.pages import write_tombstone
from llmasos_registry.wheel.hosting import TAKEN_DISTRIBUTIONS

#: PEP 792. A quarantined project serves no files; only an administrator sets or lifts that.
STATUSES = ("active", "archived", "deprecated", "quarantined")
#: The distribution of the kernel: whoever could publish it here would run code in every environment that updates.
KERNEL = "llmasos"


def check_free(conn: sa.Connection, key: str, reserved: Sequence[str]) -> None:
    """Whether a new project may have this name. Raises Failure 400, 403 and 409."""
    if not is_name(key):
        raise bad_request(f"{key[:100]!r} is not a name for a project (PEP 508)")
    if key in PROHIBITED or key.replace("-", "_") in sys.stdlib_module_names:
        raise forbidden(
            f"`{key}` would be taken for a part of Python or of an installer; choose another name"
        )
    looks = skeleton(key)
    prefix = imitated_prefix(key, reserved)
    if prefix is not None:
        raise forbidden(f"`{key}` looks as if it began with `{prefix}`; choose another name")
    for other in TAKEN_DISTRIBUTIONS:
        if skeleton(other) == looks and other != key:
            raise forbidden(f"`{key}` looks like `{other}`; choose another name")
    if conn.execute(
        sa.select(project_tombstones.c.key).where(project_tombstones.c.skeleton == looks)
    ).first():
        raise conflict(
            f"A project named `{key}`, or of a name that looks the same, was deleted; names are not used again"
        )
    like = conn.execute(
        sa.select(projects.c.key, projects.c.private).where(projects.c.skeleton == looks)
    ).first()
    if like is not None:
        # The name of a private project is not told.
        other = "that of another project" if like.private else f"`{like.key}`"
        raise conflict(f"`{key}` looks like {other}; choose a name that nobody mistakes for another")


def create_project(
    conn: sa.Connection,
    caller: Caller,
    name: str,
    owner: str,
    reserved: Sequence[str],
    *,
    private: bool = False,
) -> sa.Row[Any]:
    """A new project; the name as it is to be shown. Raises Failure 400, 403 and 409."""
    key = key_of(name)
    if not is_name(name):
        raise bad_request(f"{name[:100]!r} is not a name for a project (PEP 508)")
    check_free(conn, key, reserved)
    account = check_owner(conn, caller, owner, key)
    now = utcnow()
    conn.execute(
        projects.insert().values(
            name=name,
            key=key,
            skeleton=skeleton(key),
            owner_id=account.id,
            owner=account.name,
            private=private,
            created_at=now,
            updated_at=now,
        )
    )
    audit(conn, caller, "plugin.create", key, {"owner": account.name, "private": private})
    return conn.execute(sa.select(projects).where(projects.c.key == key)).one()


def check_owner(conn: sa.Connection, caller: Caller, owner: str, key: str) -> sa.Row[Any]:
    """The account that a new project is for. Raises Failure 403."""
    if key == KERNEL and not (caller.admin and "admin" in caller.scopes):
        raise forbidden(f"`{KERNEL}` is LLMasOS itself; only an administrator publishes it here")
    row = conn.execute(sa.select(accounts).where(accounts.c.name_key == owner.lower())).one_or_none()
    if row is None or not caller.may_write(row.name, key, "publish"):
        raise forbidden(f"This token may not publish `{key}` for `{owner[:96]}`")
    return row


def delete_file(conn: sa.Connection, caller: Caller, project: sa.Row[Any], filename: str) -> None:
    """Take a file away for ever: its name stays used, its bytes go with the next sweep. Raises Failure 404."""
    which = (
        (package_files.c.project_id == project.id)
        & (package_files.c.filename == filename)
        & package_files.c.deleted_at.is_(None)
    )
    size = conn.execute(sa.select(package_files.c.size).where(which)).scalar_one_or_none()
    if size is None:
        raise not_found(f"There is no file `{filename[:250]}` in this project")
    conn.execute(
        package_files.update().where(which).values(deleted_at=utcnow(), sha256=None, metadata_sha256=None)
    )
    conn.execute(projects.update().where(projects.c.id == project.id).values(bytes=projects.c.bytes - size))
    audit(conn, caller, "plugin.delete-file", project.key, {"file": filename})
    emit(conn, "plugin.delete-file", project.key, {"name": project.key, "filename": filename})
    project_changed(conn, project.id)


def delete_project(conn: sa.Connection, caller: Caller, project: sa.Row[Any]) -> None:
    """Delete a project. Its name is not given to anybody again, and the upstream is not asked for it."""
    conn.execute(
        project_tombstones.insert().values(
            key=project.key, skeleton=project.skeleton, owner=project.owner, deleted_at=utcnow()
        )
    )
    remove_document(conn, "plugin", project.key)
    remove_document(conn, "package", project.key)
    conn.execute(projects.delete().where(projects.c.id == project.id))
    write_tombstone(conn, project.key, project.owner, next_serial(conn))
    audit(conn, caller, "plugin.delete", project.key)
    emit(conn, "plugin.delete", project.key, {"name": project.key})
