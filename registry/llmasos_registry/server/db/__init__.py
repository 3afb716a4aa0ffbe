"""The registry's database: tables, engine, migrations. SQLite or PostgreSQL."""
