"""What a failed request to a registry tells the user to do."""

from __future__ import annotations

import ssl

import pytest

from llmasos.errors import UsageError
from llmasos_registry.client.connection import Connection, RegistryError, RegistryNotFound, failure


@pytest.mark.parametrize(
    ("reason", "way_out"),
    [
        ("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate", "SSL_CERT_FILE"),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "http://"),
        ("[Errno 111] Connection refused", "registry serve"),
    ],
)
def test_why_it_cannot_be_reached_decides_what_to_do(reason: str, way_out: str) -> None:
    with (
        Connection("https://registry.example") as connection,
        pytest.raises(RegistryError) as refused,
        connection._reaching("https://registry.example/v1/info"),
    ):
        raise ssl.SSLError(reason)
    assert reason in refused.value.message
    assert way_out in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("status", "kind", "way_out"),
    [
        (401, RegistryError, "expired"),
        (403, RegistryError, "role"),
        (404, RegistryNotFound, ""),
        (409, UsageError, ""),
        (500, RegistryError, ""),
    ],
)
def test_a_refusal_has_the_servers_hint_or_one_by_its_status(
    status: int, kind: type[Exception], way_out: str
) -> None:
    plain = failure(status, "no")
    assert isinstance(plain, kind)
    assert way_out in (plain.hint or "")
    assert failure(status, "no", "ask ann").hint == "ask ann"
