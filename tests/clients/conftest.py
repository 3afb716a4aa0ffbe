"""Fixtures of tests/registries.py for the tests in this folder."""

from __future__ import annotations

import pytest

pytest.importorskip("granian", reason="needs the extra `registry`")

from journey_machines import llmasos_wheel, machine, published
from registries import (
    app,
    database,
    make_app,
    make_bucket,
    postgres,
    registry,
    s3_server,
    sqlite_template,
    start_server,
)

__all__ = [
    "app",
    "database",
    "llmasos_wheel",
    "machine",
    "make_app",
    "make_bucket",
    "postgres",
    "published",
    "registry",
    "s3_server",
    "sqlite_template",
    "start_server",
]
