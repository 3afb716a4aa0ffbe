"""Fixtures of tests/registries.py for the tests in this folder."""

from __future__ import annotations

import pytest

pytest.importorskip("granian", reason="needs the extra `registry`")

from independent_tool import model_signing
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
    "make_app",
    "make_bucket",
    "model_signing",
    "postgres",
    "registry",
    "s3_server",
    "sqlite_template",
    "start_server",
]
