"""The registry's serial: one number that grows with every change that clients can see. Clients pin the highest seen."""

from __future__ import annotations

import sqlalchemy as sa

from llmasos_registry.server.db.tables_accounts import facts


def next_serial(conn: sa.Connection) -> int:
    """Count one up, in the transaction of the change. The row stays locked until that ends, so serials are in order."""
    conn.execute(
        facts.update()
        .where(facts.c.name == "serial")
        .values(value=sa.cast(sa.cast(facts.c.value, sa.BigInteger) + 1, sa.Text))
    )
    return current_serial(conn)


def current_serial(conn: sa.Connection) -> int:
    """The serial as it is."""
    return int(conn.execute(sa.select(facts.c.value).where(facts.c.name == "serial")).scalar_one())
