"""`llmasos registry key`: with and without a registry."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from person import Person
from registries import Server

from llmasos_registry.signatures.keys import keyid, load_private


@pytest.fixture
def offline(tmp_path: Path) -> Person:
    return Person(tmp_path, "http://127.0.0.1:9", None)


def test_a_key_is_made_once_and_kept_private(offline: Person, tmp_path: Path) -> None:
    made = offline.json("registry", "key", "new")
    path = offline.config / "keys" / "publisher.pem"
    assert made == {"keyid": keyid(load_private(path).public_key()), "path": str(path), "account": None}
    assert path.stat().st_mode & 0o777 == 0o600
    assert "is not overwritten" in offline.refused("registry", "key", "new")
    elsewhere = tmp_path / "my key.pem"
    said = offline.run("registry", "key", "new", "--key", str(elsewhere)).stderr
    assert f"next: llmasos registry key register --key '{elsewhere}'" in said


def test_registering_needs_a_token_and_publishing_a_key(offline: Person) -> None:
    offline.run("registry", "key", "new")
    assert "there is no token" in offline.refused("registry", "key", "register")
    words = offline.refused("model", "publish", str(offline.folder), "a/b", "--key", "none.pem")
    assert "there is no key file none.pem" in words
    assert "llmasos registry key new" in words


def test_registering_a_new_key_in_vain_leaves_no_key(offline: Person) -> None:
    assert "there is no token" in offline.refused("registry", "key", "new", "--register")
    assert not (offline.config / "keys").exists()


def test_offline_asks_nobody(offline: Person) -> None:
    done = offline.run("registry", "key", "list", "acme", code=2, LLMASOS_OFFLINE="1")
    assert "offline is set (LLMASOS_OFFLINE)" in done.stderr


def test_a_registry_that_does_not_answer_is_named(offline: Person) -> None:
    assert "http://127.0.0.1:9" in offline.refused("registry", "key", "list", "acme", code=1)


def test_pins_are_shown_without_a_registry_to_ask(offline: Person) -> None:
    assert "no publisher is pinned yet" in offline.run("registry", "key", "pin").stdout
    assert offline.json("registry", "key", "pin")["publishers"] == {}


def test_the_life_of_a_key(registry: Server, tmp_path: Path) -> None:
    kim = Person(tmp_path / "kim", registry.url, registry.user("kim"))
    made = kim.json("registry", "key", "new", "--register", "--comment", "laptop")
    assert made["account"] == "kim"
    kim.run("registry", "key", "register")
    (row,) = kim.json("registry", "key", "list")["keys"]
    assert (row["keyid"], row["comment"], row["revoked_at"]) == (made["keyid"], "laptop", None)
    assert "laptop" in kim.run("registry", "key", "list").stdout
    # Anyone may ask for public keys.
    reader = Person(tmp_path / "reader", registry.url, None)
    assert reader.json("registry", "key", "list", "kim")["keys"][0]["keyid"] == made["keyid"]
    accepted = reader.json("registry", "key", "pin", "--accept", "kim")
    assert [key["keyid"] for key in accepted["publishers"]["kim"]] == [made["keyid"]]
    assert reader.json("registry", "key", "list", "kim")["keys"][0]["pinned"] is True
    # Without --yes it asks, and there is nobody.
    assert f"key revoke {made['keyid']} --yes" in kim.refused("registry", "key", "revoke", made["keyid"])
    kim.run("registry", "key", "revoke", made["keyid"], "--yes")
    assert kim.json("registry", "key", "list")["keys"][0]["revoked_at"]
    assert "was revoked" in kim.refused("registry", "key", "register")


def test_keys_of_an_organisation_are_registered_by_its_owners(registry: Server, tmp_path: Path) -> None:
    lee = Person(tmp_path / "lee", registry.url, registry.user("lee"))
    mia = Person(tmp_path / "mia", registry.url, registry.user("mia"))
    registry.org("keyorg", {"lee": "owner", "mia": "maintainer"})
    for person in (lee, mia):
        person.run("registry", "key", "new")
    lee.run("registry", "key", "register", "--account", "keyorg")
    assert "your role" in mia.refused("registry", "key", "register", "--account", "keyorg", code=1)
    mia.refused("registry", "key", "register", "--account", "lee", code=1)
    assert len(lee.json("registry", "key", "list", "keyorg")["keys"]) == 1


def test_a_key_of_openssl_that_others_can_read_works_with_a_warning(registry: Server, tmp_path: Path) -> None:
    nia = Person(tmp_path / "nia", registry.url, registry.user("nia"))
    path = nia.folder / "mine.pem"
    make = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(path)]
    subprocess.run(make, check=True, capture_output=True)
    path.chmod(0o644)
    done = nia.run("registry", "key", "register", "--key", "mine.pem")
    assert "chmod 600" in done.stderr
    assert "registered sha256:" in done.stdout
