"""Migrations: they make the tables of the code on both databases, once, and know what they do not know."""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from llmasos.errors import EnvironmentProblem
from llmasos_registry.server.db import migrate
from llmasos_registry.server.db.engine import Database
from llmasos_registry.server.db.full_text import CREATE
from llmasos_registry.server.db.migrate import bring_up_to_date, configuration, differences, write_revision
from llmasos_registry.server.db.tables import metadata
from llmasos_registry.server.db.tables_accounts import facts


@pytest.fixture
def empty(database: str | None, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database without tables."""
    if database is None:
        made = Database.of_folder(tmp_path)
        yield made
        made.close()
        return
    server = request.getfixturevalue("postgres")
    url = server.empty("migrated")
    made = Database(url)
    yield made
    made.close()
    server.drop(url)


def test_migrations_make_the_tables_of_the_code(empty: Database) -> None:
    bring_up_to_date(empty)
    with empty.read() as conn:
        assert differences(conn) == []
        names = set(sa.inspect(conn).get_table_names())
    assert set(metadata.tables) <= names
    # And the comparison sees a difference when there is one.
    with empty.write() as conn:
        conn.exec_driver_sql("ALTER TABLE webhooks ADD COLUMN more INTEGER")
    with empty.read() as conn:
        assert [step[0] for step in differences(conn)] == ["remove_column"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_they_make_what_the_code_would_make_itself(empty: Database, tmp_path: Path) -> None:
    """Triggers and full-text indexes too, of which Alembic knows nothing; SQLite keeps the text of every statement."""
    bring_up_to_date(empty)
    direct = Database.of_folder(tmp_path / "direct")
    metadata.create_all(direct.engine)
    found = []
    for one in (empty, direct):
        with one.read() as conn:
            rows = conn.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").all()
        # Alembic writes constraints in an order of its own.
        found.append(
            {
                row.name: sorted(row.sql.replace(",", " , ").split())
                for row in rows
                if row.name != "alembic_version"
            }
        )
    direct.close()
    assert found[0] == found[1]


def test_full_text_of_the_first_migration_is_that_of_the_code() -> None:
    path = next(migrate.FOLDER.glob("versions/0001_*.py"))
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "FULL_TEXT":
            assert ast.literal_eval(node.value) == CREATE
            return
    raise AssertionError("no FULL_TEXT")


def test_head_is_the_newest_migration(empty: Database) -> None:
    from alembic.script import ScriptDirectory

    with empty.read() as conn:
        assert ScriptDirectory.from_config(configuration(conn)).get_heads() == [migrate.HEAD]


def test_two_processes_that_start_at_once_migrate_once(empty: Database) -> None:
    failures: list[BaseException] = []

    def start() -> None:
        try:
            bring_up_to_date(Database(empty.url.render_as_string(hide_password=False)))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with empty.read() as conn:
        assert conn.execute(sa.text("SELECT count(*) FROM alembic_version")).scalar_one() == 1


def test_a_newer_database_is_refused(empty: Database) -> None:
    bring_up_to_date(empty)
    with empty.write() as conn:
        conn.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(EnvironmentProblem, match="at revision 9999; this version knows"):
        bring_up_to_date(empty)


def test_a_migration_that_fails_leaves_nothing(empty: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import command

    upgrade = command.upgrade

    def half(*arguments: Any) -> None:
        upgrade(*arguments)
        raise RuntimeError("power cut")

    monkeypatch.setattr(command, "upgrade", half)
    with pytest.raises(RuntimeError):
        bring_up_to_date(empty)
    with empty.read() as conn:
        assert sa.inspect(conn).get_table_names() == []


def test_a_change_of_the_tables_becomes_a_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write_revision("initial", tmp_path_with(tmp_path))
    assert first.name == "0001_initial.py"
    tree = ast.parse(first.read_text())
    made = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", "") == "create_table"
        and isinstance(node.args[0], ast.Constant)
    }
    assert made == set(metadata.tables)
    assert facts.name in made


def tmp_path_with(tmp_path: Path) -> Path:
    (tmp_path / "versions").mkdir()
    return tmp_path
