"""Pins: first contact, changes, revocations, serials, and the file they are in."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from llmasos.errors import ConfigError
from llmasos_registry.client.trust import PublishedKey, Publisher, RolledBack, Trust, TrustChanged
from llmasos_registry.signatures.keys import keyid, public_pem

URL = "http://127.0.0.1:8765"


def published(*, revoked: bool = False) -> PublishedKey:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return PublishedKey(keyid(public), public_pem(public), revoked)


A, B = sorted([published(), published()])


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    return Trust(tmp_path / "config", URL)


def test_the_first_contact_pins_and_the_same_keys_pass(trust: Trust) -> None:
    assert trust.publisher("acme") is None
    trust.pin(trust.examine("acme", [B, A]), "plugin:llmasos-acme")
    assert trust.publisher("acme") == Publisher("acme", (A, B))
    assert trust.examine("acme", [A, B]).keys == (A, B)
    assert trust.owner("plugin:llmasos-acme") == "acme"
    assert [entry.account for entry in trust.publishers()] == ["acme"]


def test_looking_pins_nothing(trust: Trust) -> None:
    trust.examine("acme", [A])
    assert trust.publisher("acme") is None
    assert not trust.path.exists()


@pytest.mark.parametrize("now", [[A, B], [B], []])
def test_a_changed_set_of_keys_is_refused_with_both_sides(trust: Trust, now: list[PublishedKey]) -> None:
    trust.pin(Publisher("acme", (A,)))
    with pytest.raises(TrustChanged, match="the keys of the publisher acme changed") as refusal:
        trust.examine("acme", now)
    old, new = refusal.value.message.split("; now ")
    assert A.keyid in old
    assert all(key.keyid in new for key in now)
    assert "pin --accept acme" in str(refusal.value.hint)
    assert trust.publisher("acme") == Publisher("acme", (A,))


def test_a_bundle_from_before_a_key_was_added_is_no_change(trust: Trust) -> None:
    trust.pin(Publisher("acme", (A, B)))
    assert trust.examine("acme", [A], current=False).keys == (A, B)
    with pytest.raises(TrustChanged):
        trust.examine("acme", [published()], current=False)


def test_a_revocation_needs_no_consent_and_cannot_be_taken_back(trust: Trust) -> None:
    trust.pin(Publisher("acme", (A, B)))
    seen = trust.examine("acme", [A._replace(revoked=True), B])
    assert [key.revoked for key in seen.keys] == [True, False]
    assert [keyid(key) for key in seen.active()] == [B.keyid]
    trust.pin(seen)
    assert [key.revoked for key in trust.examine("acme", [A, B]).keys] == [True, False]


def test_a_revoked_key_that_was_never_pinned_is_no_change(trust: Trust) -> None:
    trust.pin(Publisher("acme", (A,)))
    assert trust.examine("acme", [A, B._replace(revoked=True)]).keys == (A,)


def test_an_account_without_keys_may_get_its_first(trust: Trust) -> None:
    trust.pin(trust.examine("acme", []), "plugin:llmasos-acme")
    assert trust.examine("acme", [A]).keys == (A,)


def test_another_owner_of_a_project_is_refused(trust: Trust) -> None:
    trust.check_owner("plugin:llmasos-acme", "evil")
    trust.pin(Publisher("acme", ()), "plugin:llmasos-acme")
    trust.check_owner("plugin:llmasos-acme", "acme")
    with pytest.raises(TrustChanged, match="pinned acme, now evil"):
        trust.check_owner("plugin:llmasos-acme", "evil")


def test_an_index_that_went_back_is_refused_with_both_numbers(trust: Trust) -> None:
    trust.check_serial(7)
    trust.check_serial(7)
    trust.check_serial(9)
    trust.check_serial(3, "plugin:llmasos-acme")
    with pytest.raises(RolledBack, match=r"serial 8, but 9 was seen before"):
        trust.check_serial(8)
    with pytest.raises(RolledBack, match=r"plugin:llmasos-acme .* serial 2, but 3"):
        trust.check_serial(2, "plugin:llmasos-acme")
    assert (trust.serial(), trust.serial("plugin:llmasos-acme")) == (9, 3)
    trust.pin(Publisher("acme", (A,)), "plugin:llmasos-acme")
    trust.forget_serials()
    trust.check_serial(1)
    trust.check_serial(1, "plugin:llmasos-acme")
    assert trust.owner("plugin:llmasos-acme") == "acme"


def test_registries_do_not_share_pins(trust: Trust, tmp_path: Path) -> None:
    trust.pin(Publisher("acme", (A,)))
    trust.check_serial(9)
    other = Trust(tmp_path / "config", "https://other.example")
    assert other.publisher("acme") is None
    other.check_serial(1)
    assert trust.serial() == 9


def test_the_file_is_private(trust: Trust) -> None:
    trust.check_serial(1)
    assert trust.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"format": 2, "registries": {}}', b'{"format": 1}', b"[" * 99999]
)
def test_a_damaged_file_is_an_error_not_a_fresh_start(trust: Trust, content: bytes) -> None:
    trust.path.parent.mkdir(parents=True)
    trust.path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read"):
        trust.examine("acme", [A])
    with pytest.raises(ConfigError):
        trust.check_serial(1)
    assert trust.path.read_bytes() == content


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("a file")
    with pytest.raises(ConfigError, match="cannot store"):
        Trust(tmp_path / "config", URL).check_serial(1)


def test_runs_at_once_lose_no_pins(trust: Trust) -> None:
    def pin(number: int) -> None:
        Trust(trust.path.parent, URL).pin(Publisher(f"p{number}", (A,)))

    threads = [threading.Thread(target=pin, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trust.publishers()) == 12
    assert json.loads(trust.path.read_text())["format"] == 1


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"keyid": B.keyid, "pem": A.pem}, "calls a key"),
        ({"keyid": A.keyid, "pem": "x"}, "cannot be read"),
        ({"keyid": A.keyid}, "cannot be read"),
    ],
)
def test_a_registry_that_misnames_keys_is_refused(row: dict[str, str], words: str) -> None:
    with pytest.raises(TrustChanged, match=words):
        PublishedKey.from_answer(row)


def test_a_row_of_the_registry_is_read() -> None:
    row = {"keyid": A.keyid, "pem": A.pem, "comment": "x", "created_at": "x", "revoked_at": None}
    assert PublishedKey.from_answer(row) == A
    assert PublishedKey.from_answer({**row, "revoked_at": "2030-01-01T00:00:00Z"}).revoked
