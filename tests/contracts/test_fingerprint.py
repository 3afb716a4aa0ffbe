"""Digests: one text for one value, and the Merkle tree of RFC 6962."""

from __future__ import annotations

import hashlib

import pytest

from llmasos.contracts.fingerprint import canonical_digest, canonical_json, merkle_root


def test_key_order_and_tuples_do_not_matter():
    assert canonical_json({"b": (1, 2), "a": "ä"}) == '{"a":"ä","b":[1,2]}'.encode()
    assert canonical_digest({"b": [1, 2], "a": "ä"}) == canonical_digest({"a": "ä", "b": (1, 2)})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"x": object()}])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises((TypeError, ValueError)):
        canonical_json(value)


def test_lone_surrogates_stay_distinct():
    assert canonical_digest("\ud800") != canonical_digest("\ud801")


def rfc6962(data: list[bytes]) -> bytes:
    """The definition of RFC 6962, section 2.1, word by word."""
    if not data:
        return hashlib.sha256().digest()
    if len(data) == 1:
        return hashlib.sha256(b"\x00" + data[0]).digest()
    split = 1
    while split * 2 < len(data):
        split *= 2
    return hashlib.sha256(b"\x01" + rfc6962(data[:split]) + rfc6962(data[split:])).digest()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 6, 7, 8, 9, 31, 100])
def test_merkle_root_is_that_of_the_rfc(count):
    leaves = [hashlib.sha256(bytes([i])).hexdigest() for i in range(count)]
    assert merkle_root(leaves) == rfc6962([leaf.encode() for leaf in leaves]).hex()


def test_merkle_root_depends_on_order():
    assert merkle_root(["a", "b"]) != merkle_root(["b", "a"])
