"""The journal of an installation: what it promises to put back is on disk before it speaks of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmasos_registry.client import transaction
from llmasos_registry.client.environment import Environment
from llmasos_registry.client.plan import Step
from llmasos_registry.client.tools import find_tool


def test_copies_are_synced_before_the_journal_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    journals: list[tuple[dict[str, list[list[object]]], list[Path]]] = []
    monkeypatch.setattr(transaction, "_sync", synced.append)
    monkeypatch.setattr(
        transaction,
        "write_atomic",
        lambda path, data: journals.append((json.loads(data), list(synced))),
    )
    environment = Environment.current()
    change = transaction.Transaction(tmp_path, environment, find_tool())
    change._write_journal([Step("remove", "pluggy", before=environment.version("pluggy"))], [])
    ((journal, before),) = journals
    saved = {str(path): number for path, number in journal["saved"]}
    assert any(path.endswith("pluggy/__init__.py") for path in saved)
    copies = before[-1]
    assert set(before) == {copies, *(copies / str(number) for number in saved.values())}
    assert all(
        (copies / str(number)).read_bytes() == Path(path).read_bytes() for path, number in saved.items()
    )
