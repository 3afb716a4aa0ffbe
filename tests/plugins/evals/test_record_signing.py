"""Who stands behind a record: signatures beside it, and what happens when either was touched."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace

import pytest
from record_samples import a_sample, write_run

import llmasos
from llmasos.api import InputError, LlmasosError, MissingDependency, RunError, UsageError
from llmasos.cli.output import Output
from llmasos_evals.commands.sign import command as sign
from llmasos_evals.records.reading import open_run
from llmasos_evals.records.signing import (
    check_signature,
    in_words,
    read_signature,
    sign_document,
    signature_path,
    write_signature,
)
from llmasos_registry.client.trust import PublishedKey, Publisher, Trust
from llmasos_registry.signatures.keys import generate, keyid, load_private, public_pem


@pytest.fixture
def hub(tmp_path):
    with llmasos.Hub(cache_dir=tmp_path / "cache", config_dir=tmp_path / "config", offline=True) as made:
        yield made


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "config" / "keys" / "publisher.pem"
    return generate(path)


@pytest.fixture
def run(tmp_path):
    return open_run(write_run(tmp_path / "run", [a_sample(0)]))


def test_a_signature_lies_beside_the_record_and_names_the_key(hub, key, run):
    write_signature(hub, run.path, run.record)
    assert signature_path(run.path).name == "record.sig"
    signed = read_signature(hub, run.path, run.record)
    assert signed.keyid == keyid(key.public_key())
    assert signed.known_as == ("you",)
    assert in_words(signed).startswith("you (sha256:")


def test_no_signature_is_nobody(hub, run):
    assert read_signature(hub, run.path, run.record) is None
    assert in_words(None) == "nobody"


def test_without_a_key_the_command_that_makes_one_is_named(hub, run):
    with pytest.raises(InputError) as caught:
        sign_document(hub, run.record)
    assert "llmasos registry key new" in caught.value.hint


def test_without_a_signer_the_plugin_is_named(tmp_path, run):
    with (
        llmasos.Hub(cache_dir=tmp_path / "c", config_dir=tmp_path / "d", only=["llmasos-evals"]) as alone,
        pytest.raises(MissingDependency, match="no enabled plugin signs") as caught,
    ):
        sign_document(alone, run.record)
    assert "llmasos-registry" in caught.value.hint


@pytest.mark.parametrize(
    ("section", "value"),
    [("digest", "0" * 64), ("settings", {"seed": 5}), ("timings", {}), ("environment", {}), ("tasks", [])],
)
def test_a_record_that_was_touched_is_not_the_one_that_was_signed(hub, key, run, section, value):
    envelope = sign_document(hub, run.record)
    with pytest.raises(RunError, match="another document"):
        check_signature(hub, {**run.record, section: value}, envelope)


def test_laying_a_record_out_anew_keeps_its_signature(hub, key, run):
    write_signature(hub, run.path, run.record)
    run.path.write_text(json.dumps(run.record, sort_keys=True))
    again = open_run(run.path)
    assert read_signature(hub, again.path, again.record) is not None


def test_a_payload_that_was_touched_is_refused(hub, key, run):
    envelope = sign_document(hub, run.record)
    payload = json.loads(base64.b64decode(envelope["payload"]))
    payload["subject"][0]["digest"]["sha256"] = "0" * 64
    envelope["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    with pytest.raises(RunError, match="does not fit its content"):
        check_signature(hub, run.record, envelope)


def test_the_key_in_an_envelope_cannot_be_exchanged(hub, key, run, tmp_path):
    envelope = sign_document(hub, run.record)
    other = generate(tmp_path / "other.pem")
    envelope["signatures"][0]["publicKey"] = public_pem(other.public_key())
    with pytest.raises(RunError, match="not by a key"):
        check_signature(hub, run.record, envelope)


def test_a_signature_of_another_kind_of_document_is_refused(hub, key, run):
    envelope = sign_document(hub, run.record)
    attestation = {**run.record, "schema": "llmasos-attestation/1"}
    with pytest.raises(RunError, match="another kind"):
        check_signature(hub, attestation, envelope)


@pytest.mark.parametrize(
    "damage",
    [
        {},
        {"payload": "", "payloadType": "x", "signatures": []},
        {"signatures": [{"sig": "AAAA", "publicKey": "no key"}]},
        {"signatures": "x"},
        {"payloadType": "text/plain"},
    ],
)
def test_a_damaged_envelope_is_an_error_of_ours(hub, key, run, damage):
    envelope = {**sign_document(hub, run.record), **damage} if damage else {}
    with pytest.raises(LlmasosError):
        check_signature(hub, run.record, envelope)


def test_pinned_publishers_are_known_and_revoked_keys_said_so(hub, run, tmp_path):
    named = tmp_path / "elsewhere.pem"
    public = generate(named).public_key()
    envelope = sign_document(hub, run.record, named)
    stranger = check_signature(hub, run.record, envelope)
    assert stranger.known_as == ()
    assert "somebody unknown here" in in_words(stranger)
    row = PublishedKey(keyid(public), public_pem(public))
    Trust(tmp_path / "config", "https://one.example").pin(Publisher("alice", (row,)))
    assert check_signature(hub, run.record, envelope).known_as == ("alice",)
    assert not check_signature(hub, run.record, envelope).revoked
    revoked = row._replace(revoked=True)
    Trust(tmp_path / "config", "https://two.example").pin(Publisher("bob", (revoked,)))
    both = check_signature(hub, run.record, envelope)
    assert (both.known_as, both.revoked) == (("alice", "bob"), True)
    assert load_private(named)


def test_the_signature_of_somebody_else_is_not_replaced(hub, key, run, tmp_path):
    other = tmp_path / "other.pem"
    generate(other)
    state = SimpleNamespace(hub=hub, output=Output(), config=None)
    for _ in range(2):  # one's own is
        sign.callback.__wrapped__(state, run.folder, None)
    before = signature_path(run.path).read_bytes()
    with pytest.raises(UsageError, match="is signed by you") as caught:
        sign.callback.__wrapped__(state, run.folder, other)
    assert "eval verify" in caught.value.hint
    assert signature_path(run.path).read_bytes() == before
