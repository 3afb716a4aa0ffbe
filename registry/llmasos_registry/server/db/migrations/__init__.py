"""Changes of the tables, one file each in ``versions``; ``env.py`` is what Alembic runs them through."""
