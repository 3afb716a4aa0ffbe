"""Stock Hub clients, old and new, against a real server: the conformance list of tests/clients/hub_conformance.py."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hub_clients import CLIENTS, DESCRIPTIONS, ROWS, SETTINGS, HubClient, client_python, run_conformance

#: In every run: the newest with Xet, and the oldest. The others take a minute more.
ALWAYS = (CLIENTS[0], CLIENTS[4])
PARAMETERS = [
    pytest.param(
        client, id=client.label.replace(" ", "-"), marks=() if client in ALWAYS else pytest.mark.slow
    )
    for client in CLIENTS
]
#: What a version of the client cannot be asked; anything else that is missing is a failure of the test.
ABSENT = {
    "0.36.2": {"cache_verify", "copy_between", "card_update", "models_ls", "leaderboard"},
    "1.19.0": {"copy_between", "card_update"},
    "1.20.1": {"copy_between", "card_update"},
    "2.4.0": {"copy_between"},
}


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Any]) -> Any:
    """One server for all clients: what one has stored meets what another sends."""
    return start_server(**SETTINGS)


@pytest.fixture(scope="module")
def results(
    server: Any, tmp_path_factory: pytest.TempPathFactory, kept_folder: Path
) -> Callable[[HubClient], Mapping[str, Mapping[str, Any]]]:
    """Runs the list once for each client."""
    known: dict[HubClient, Mapping[str, Mapping[str, Any]]] = {}

    def find(client: HubClient) -> Mapping[str, Mapping[str, Any]]:
        if client not in known:
            python = client_python(client.version, kept_folder)
            known[client] = run_conformance(server, client, tmp_path_factory.mktemp("client"), python)
        return known[client]

    return find


@pytest.mark.network
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("client", PARAMETERS, scope="module")
def test_row(
    client: HubClient, row: str, results: Callable[[HubClient], Mapping[str, Mapping[str, Any]]]
) -> None:
    result = results(client)[row]
    if result["outcome"] == "absent":
        assert row in ABSENT[client.version], result["detail"]
        return
    assert result["outcome"] == "pass", result["detail"]


@pytest.mark.network
def test_no_answer_was_an_internal_error(server: Any) -> None:
    assert [line for line in server.requests() if line.rsplit(" ", 1)[1] == "500"] == []


def test_the_list_passes_on_postgresql_and_object_storage(
    start_server: Callable[..., Any], postgres: Any, s3_server: Any, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    options = "".join(f"{key} = {json.dumps(value)}\n" for key, value in s3_server.options.items())
    storage = f"s3://{s3_server.bucket()}/hub"
    (data / "registry.toml").write_text(f"storage = {json.dumps(storage)}\n\n[storage_options]\n{options}")
    server = start_server(data, database=postgres.copy(), **SETTINGS)
    # The client of this environment, whatever its version is.
    client = HubClient(importlib.metadata.version("huggingface_hub"), xet=False)
    found = run_conformance(server, client, tmp_path, Path(sys.executable))
    failed = {row: result["detail"] for row, result in found.items() if result["outcome"] == "fail"}
    assert failed == {}
    assert any(line.startswith("GET /user-") and line.endswith(" 302") for line in server.requests())
    assert [line for line in server.requests() if line.endswith(" 500")] == []


def test_the_page_has_every_row_and_client() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "hub-api.md").read_text(encoding="utf-8")
    assert "| | " + " | ".join(client.label for client in CLIENTS) + " |" in page
    for row, what in zip(ROWS, DESCRIPTIONS, strict=True):
        line = next((line for line in page.splitlines() if line.startswith(f"| {what} |")), "")
        shown = [cell.strip() for cell in line.split("|")[2:-1]]
        expected = ["-" if row in ABSENT[client.version] else "yes" for client in CLIENTS]
        assert shown == expected, row
