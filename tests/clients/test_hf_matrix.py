"""Stock Hub clients, old and new, against a real server: the conformance list of tests/clients/hub_conformance.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hub_clients import CLIENTS, ROWS, SETTINGS, HubClient, run_conformance

pytestmark = pytest.mark.network

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
    "0.36.2": {"cache_verify", "card", "lists", "leaderboard"},
    "1.19.0": {"copy_between", "card"},
    "1.20.1": {"copy_between", "card"},
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
            known[client] = run_conformance(server, client, tmp_path_factory.mktemp("client"), kept_folder)
        return known[client]

    return find


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


def test_no_answer_was_an_internal_error(server: Any) -> None:
    assert [line for line in server.requests() if line.rsplit(" ", 1)[1] == "500"] == []
