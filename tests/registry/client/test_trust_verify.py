"""The Verifier: what may be used, and the words of each refusal."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from llmasos_registry.client.trust import PublishedKey, RolledBack, TrustChanged
from llmasos_registry.client.verify import DigestMismatch, Signed, Verifier, carried_keys
from llmasos_registry.signatures.errors import SignatureRefused
from llmasos_registry.signatures.keys import keyid, public_pem
from llmasos_registry.signatures.model_bundle import sign_files, sign_model
from llmasos_registry.signatures.wheel_statement import sign_wheel

URL = "https://registry.example"
KEY = ec.generate_private_key(ec.SECP256R1())
NEXT = ec.generate_private_key(ec.SECP256R1())
NAME = keyid(KEY.public_key())
FILE = "llmasos_acme-1.2.0-py3-none-any.whl"
DIGEST = hashlib.sha256(b"wheel").hexdigest()
WHEEL: dict[str, Any] = {"filename": FILE, "sha256": DIGEST, "project": "llmasos-acme", "version": "1.2.0"}
ENVELOPE = sign_wheel(KEY, FILE, DIGEST, "llmasos-acme", "1.2.0", "acme")


def row(key: ec.EllipticCurvePrivateKey, revoked: bool = False) -> dict[str, Any]:
    public = key.public_key()
    return {"keyid": keyid(public), "pem": public_pem(public), "revoked_at": "2030" if revoked else None}


class World:
    """Accounts at a registry, and verifiers of one user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.accounts: dict[str, list[dict[str, Any]]] = {"acme": [row(KEY)]}
        self.notes: list[str] = []

    def verifier(self, **options: Any) -> Verifier:
        return Verifier(URL, self.folder, carried_keys(self.accounts), note=self.notes.append, **options)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_file_with_another_digest_or_size_is_refused_with_both(world: World, tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(b"wheel")
    world.verifier().verify_file(path, DIGEST, size=5)
    world.verifier().verify_file(path, DIGEST.upper())
    path.write_bytes(b"whee!")
    with pytest.raises(DigestMismatch) as refusal:
        world.verifier().verify_file(path, DIGEST, name=FILE)
    assert refusal.value.message == (
        f"{FILE}: expected sha256 {DIGEST}, found {hashlib.sha256(b'whee!').hexdigest()}"
    )
    with pytest.raises(DigestMismatch, match="has 5 bytes, expected 6"):
        world.verifier().verify_file(path, DIGEST, size=6)


def test_a_signed_wheel_passes_and_pins(world: World) -> None:
    for _ in range(2):
        signed = world.verifier().verify_wheel(**WHEEL, publisher="acme", envelopes=[ENVELOPE])
        assert signed == Signed("acme", NAME)
    assert world.notes == [f"pinned the keys of acme on first contact: {NAME}"]
    assert world.verifier().trust.owner("plugin:llmasos-acme") == "acme"


def test_a_refused_wheel_pins_nothing(world: World) -> None:
    with pytest.raises(SignatureRefused):
        world.verifier().verify_wheel(**{**WHEEL, "version": "1.3.0"}, publisher="acme", envelopes=[ENVELOPE])
    assert world.verifier().trust.publishers() == []


def test_one_good_envelope_among_others_is_enough(world: World) -> None:
    other = sign_wheel(NEXT, FILE, DIGEST, "llmasos-acme", "1.2.0", "acme")
    assert world.verifier().verify_wheel(**WHEEL, publisher="acme", envelopes=[other, ENVELOPE])


def test_a_replaced_signature_names_expected_and_found_key(world: World) -> None:
    world.verifier().verify_wheel(**WHEEL, publisher="acme", envelopes=[ENVELOPE])
    other = sign_wheel(NEXT, FILE, DIGEST, "llmasos-acme", "1.2.0", "acme")
    with pytest.raises(SignatureRefused) as refusal:
        world.verifier().verify_wheel(**WHEEL, publisher="acme", envelopes=[other])
    assert FILE in refusal.value.message
    assert f"expected a signature by {NAME}" in refusal.value.message
    assert f"found {keyid(NEXT.public_key())}" in refusal.value.message


def test_keys_that_change_at_the_registry_are_compared(world: World) -> None:
    class Now:
        current = True

        def __call__(self, account: str) -> list[PublishedKey]:
            return [PublishedKey.from_answer(row(NEXT))]

    world.verifier().verify_wheel(**WHEEL, publisher="acme", envelopes=[ENVELOPE])
    with pytest.raises(TrustChanged, match=f"pinned {NAME}; now {keyid(NEXT.public_key())}"):
        Verifier(URL, world.folder, Now()).verify_wheel(**WHEEL, publisher="acme", envelopes=[ENVELOPE])


def test_replaced_signature_and_replaced_keys_are_a_reported_change(world: World) -> None:
    world.verifier().verify_wheel(**WHEEL, publisher="acme", envelopes=[ENVELOPE])
    world.accounts["acme"] = [row(NEXT)]
    other = sign_wheel(NEXT, FILE, DIGEST, "llmasos-acme", "1.2.0", "acme")
    with pytest.raises(TrustChanged, match=f"pinned {NAME}; now {keyid(NEXT.public_key())}"):
        world.verifier().verify_wheel(**WHEEL, publisher="acme", envelopes=[other])


def test_another_publisher_with_keys_of_his_own_is_a_reported_change(world: World) -> None:
    world.verifier().verify_wheel(**WHEEL, publisher="acme", envelopes=[ENVELOPE])
    world.accounts["evil"] = [row(NEXT)]
    other = sign_wheel(NEXT, FILE, DIGEST, "llmasos-acme", "1.2.0", "evil")
    with pytest.raises(TrustChanged, match="pinned acme, now evil"):
        world.verifier().verify_wheel(**WHEEL, publisher="evil", envelopes=[other])


def test_a_removed_signature_is_refused_unless_allowed(world: World) -> None:
    with pytest.raises(SignatureRefused, match=f"is not signed, but its publisher acme has keys.*{NAME}"):
        world.verifier().verify_wheel(**WHEEL, publisher="acme")
    assert world.verifier(allow_unsigned=True).verify_wheel(**WHEEL, publisher="acme") is None


def test_a_publisher_without_keys_publishes_unsigned(world: World) -> None:
    world.accounts = {}
    assert world.verifier().verify_wheel(**WHEEL, publisher="bob") is None


def test_a_revoked_key_verifies_nothing_new_but_what_was_locked(world: World) -> None:
    world.verifier().verify_wheel(**WHEEL, publisher="acme", envelopes=[ENVELOPE])
    world.accounts["acme"] = [row(KEY, revoked=True)]
    with pytest.raises(SignatureRefused, match=f"{NAME} was revoked by acme"):
        world.verifier().verify_wheel(**WHEEL, publisher="acme", envelopes=[ENVELOPE])
    locked = world.verifier().verify_wheel(**WHEEL, publisher="acme", envelopes=[ENVELOPE], locked_keyid=NAME)
    assert locked == Signed("acme", NAME)


def test_a_lock_cannot_bring_a_key_that_nobody_pinned(world: World) -> None:
    other = sign_wheel(NEXT, FILE, DIGEST, "llmasos-acme", "1.2.0", "acme")
    with pytest.raises(SignatureRefused):
        world.verifier().verify_wheel(
            **WHEEL, publisher="acme", envelopes=[other], locked_keyid=keyid(NEXT.public_key())
        )


def test_a_model_passes_as_folder_and_listing_and_is_refused_when_changed(
    world: World, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    bundle = sign_model(folder, KEY, name="acme/tiny", version="1.0.0")
    digest = hashlib.sha256(b"{}").hexdigest()
    asked: dict[str, Any] = {"model_id": "acme/tiny", "publisher": "acme", "bundle": bundle}
    for model in (folder, {"config.json": digest, "model.sig": "00" * 32, ".gitattributes": "00" * 32}):
        assert world.verifier().verify_model(model, **asked) == Signed("acme", NAME)
        assert world.verifier().verify_model(model, **asked, version="1.0.0")
        with pytest.raises(SignatureRefused, match=r"acme/tiny.*is for version"):
            world.verifier().verify_model(model, **asked, version="2.0.0")
    with pytest.raises(SignatureRefused, match=f"config.json: expected sha256 {digest}, found {'11' * 32}"):
        world.verifier().verify_model({"config.json": "11" * 32}, **asked)
    with pytest.raises(SignatureRefused, match="is not signed"):
        world.verifier().verify_model(folder, **{**asked, "bundle": None})
    other = sign_files({"config.json": digest}, KEY, name="acme/other")
    with pytest.raises(SignatureRefused, match="for the model 'acme/other', expected 'acme/tiny'"):
        world.verifier().verify_model(folder, **{**asked, "bundle": other})


def test_models_and_datasets_of_one_name_are_pinned_apart(world: World) -> None:
    world.accounts["other"] = [row(KEY)]
    bundle = sign_files({"a": "00" * 32}, KEY, name="acme/tiny")
    listing = {"a": "00" * 32}
    world.verifier().verify_model(listing, model_id="acme/tiny", publisher="acme", bundle=bundle)
    world.verifier().verify_model(
        listing, model_id="acme/tiny", publisher="other", bundle=bundle, kind="dataset"
    )


def test_serials_are_checked_through_the_same_seam(world: World) -> None:
    world.verifier().check_serial(5)
    world.verifier().check_serial(2, "model:acme/tiny")
    with pytest.raises(RolledBack, match="serial 4, but 5"):
        world.verifier().check_serial(4)


def test_keys_that_a_bundle_carries_must_fit_their_names(world: World) -> None:
    world.accounts["acme"] = [{**row(KEY), "keyid": keyid(NEXT.public_key())}]
    with pytest.raises(TrustChanged, match="calls a key"):
        world.verifier().verify_wheel(**WHEEL, publisher="acme", envelopes=[ENVELOPE])


def test_the_keys_of_a_publisher_can_be_asked_for(world: World) -> None:
    assert world.verifier().publisher("acme").keys == (PublishedKey(NAME, public_pem(KEY.public_key())),)
