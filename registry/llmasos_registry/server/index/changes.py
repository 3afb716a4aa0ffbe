"""What follows from every change of a project: a new serial, a new page, a new place in search."""

from __future__ import annotations

import sqlalchemy as sa

from llmasos_registry.server.api.documents import index_project
from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.serial import next_serial
from llmasos_registry.server.db.tables_index import projects
from llmasos_registry.server.index.pages import write_page


def project_changed(conn: sa.Connection, project: int) -> int:
    """Call it after any change of a project, its releases or files, in the same transaction; the new serial."""
    serial = next_serial(conn)
    conn.execute(projects.update().where(projects.c.id == project).values(serial=serial, updated_at=utcnow()))
    write_page(conn, project)
    index_project(conn, project)
    return serial
