"""Bringing a database up to date: Alembic's migrations, in one transaction, when the registry is opened.

After a change of the tables: ``python -m llmasos_registry.server.db.migrate "what it is for"`` writes the next migration;
read it, correct it, set ``HEAD``. A test compares what the migrations make with the tables, on both databases.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from llmasos.errors import EnvironmentProblem
from llmasos_registry.server.db import full_text
from llmasos_registry.server.db.engine import Database, Moment
from llmasos_registry.server.db.metadata import Id, Json
from llmasos_registry.server.db.tables import metadata
from llmasos_registry.server.db.tables_accounts import accounts

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext
    from alembic.config import Config

#: The newest migration. Kept here so that an up-to-date registry opens without importing Alembic.
HEAD = "0002"
FOLDER = Path(__file__).parent / "migrations"
#: Where a database keeps what it has.
_VERSION = sa.table("alembic_version", sa.column("version_num"))
_HEAD = '''"""{message}."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from llmasos_registry.server.db.engine import Moment
from llmasos_registry.server.db.metadata import Id, Json

revision = "{number}"
down_revision = {before!r}
'''
#: Serialises migrations of several processes on PostgreSQL; SQLite has one writer.
_LOCK = 7302


def bring_up_to_date(database: Database) -> None:
    """Make the tables, or change them to what this version needs. Raises EnvironmentProblem for a newer database
    and for one that does not answer.
    """
    try:
        with database.read() as conn:
            if _revision(conn) == HEAD:
                return
    except (sa.exc.OperationalError, sa.exc.DatabaseError) as error:
        where = database.url.render_as_string(hide_password=True)
        first = (str(error.orig).strip().splitlines() or [""])[0]
        raise EnvironmentProblem(
            f"the database {where} cannot be used: {first[:300]}",
            hint="see `database` in registry.toml; a password belongs into ~/.pgpass"
            if not database.sqlite
            else "it may be damaged: restore a backup into a new folder (llmasos registry restore)",
        ) from error
    with database.write() as conn:
        if conn.dialect.name == "postgresql":
            conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        found = _revision(conn)
        if found == HEAD:
            return
        if found is not None and not any(FOLDER.glob(f"versions/{found}_*.py")):
            raise EnvironmentProblem(
                f"the database {database.url.render_as_string()} is at revision {found}; this version knows {HEAD}",
                hint="use the version of llmasos that changed it, or a newer one",
            )
        if found is None and sa.inspect(conn).has_table(accounts.name):
            raise EnvironmentProblem(
                f"the database {database.url.render_as_string()} has tables of unknown age",
                hint="it was made before the first release; start a registry in a new folder",
            )
        from alembic import command

        command.upgrade(configuration(conn), "head")


def _revision(conn: sa.Connection) -> str | None:
    if not sa.inspect(conn).has_table("alembic_version"):
        return None
    return conn.execute(sa.select(_VERSION.c.version_num)).scalar_one_or_none()


def configuration(conn: sa.Connection) -> Config:
    """Alembic's settings for a connection that has a transaction."""
    from alembic.config import Config

    config = Config()
    # Alembic interpolates %.
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = conn
    return config


def differences(conn: sa.Connection) -> list[Any]:
    """What Alembic would change to make the database like the tables: empty when migrations and tables agree."""
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    # Alembic misreads SQLite's defaults of ''; a test compares those as text.
    defaults = conn.dialect.name != "sqlite"
    context = MigrationContext.configure(
        conn, opts={"compare_type": True, "compare_server_default": defaults, "include_object": _is_ours}
    )
    return list(compare_metadata(context, metadata))


def _is_ours(thing: Any, name: str | None, kind: str, reflected: bool, other: Any) -> bool:
    """Full-text indexes are made by statements of their own (``db.full_text``), and SQLite keeps them in tables."""
    text = name or ""
    return not (
        reflected
        and text.startswith(
            ("documents_heads", "documents_texts", "ix_documents_heads", "ix_documents_texts")
        )
    )


def _render(kind: str, thing: Any, context: AutogenContext) -> str | Literal[False]:
    """Our own column types by their names."""
    if kind == "type":
        for known, name in ((Json, "Json"), (Id, "Id")):
            if thing is known:
                return name
        if isinstance(thing, Moment):
            return "Moment()"
    return False


def write_revision(message: str, folder: Path = FOLDER) -> Path:
    """Write the migration from the newest one to the tables as they are; the file."""
    from alembic.autogenerate import produce_migrations, render_python_code
    from alembic.runtime.migration import MigrationContext

    have = sorted(path.name.partition("_")[0] for path in folder.glob("versions/[0-9]*.py"))
    with tempfile.TemporaryDirectory() as scratch:
        database = Database.of_folder(Path(scratch))
        with database.write() as conn:
            if have:
                from alembic import command

                command.upgrade(configuration(conn), "head")
            context = MigrationContext.configure(
                conn,
                opts={"compare_type": True, "target_metadata": metadata, "include_object": _is_ours},
            )
            script = produce_migrations(context, metadata)
            assert script.upgrade_ops is not None
            body = render_python_code(
                script.upgrade_ops,
                render_item=_render,
                migration_context=context,
            )
        database.close()
    # SQLite's spelling, of which PostgreSQL knows nothing.
    body = body.replace("sa.text('0')", "sa.false()").replace("sa.text('1')", "sa.true()")
    number, before = (f"{int(have[-1]) + 1:04d}", have[-1]) if have else ("0001", None)
    text = _HEAD.format(message=message[0].upper() + message[1:], number=number, before=before)
    text += f"\n\ndef upgrade() -> None:\n    {body.strip()}\n"
    if not have:
        text += "    for statement in FULL_TEXT[op.get_bind().dialect.name]:\n        op.execute(statement)\n"
        text += f"\n\nFULL_TEXT = {full_text.CREATE!r}\n"
    path = folder / "versions" / f"{number}_{'_'.join(message.lower().split())[:40]}.py"
    path.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    print(write_revision(" ".join(sys.argv[1:]) or "initial"))
