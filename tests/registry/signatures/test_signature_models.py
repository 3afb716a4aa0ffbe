"""Signatures of models: ours against ours, theirs against ours, ours against theirs."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from llmasos.errors import InputError
from llmasos_registry.signatures import dsse, keys
from llmasos_registry.signatures.errors import SignatureRefused
from llmasos_registry.signatures.model_bundle import read_bundle, sign_model, verify_model
from llmasos_registry.signatures.model_files import hash_files, list_files

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
PUBLIC = [KEY.public_key()]
#: A folder that `model_signing sign key` of model-signing 1.1.1 signed, and the public key.
FOREIGN = Path(__file__).parent / "foreign"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "sub" / "b.txt").write_text("b")
    # Sorted by segments this comes after sub/b.txt, sorted as text before.
    (folder / "sub.txt").write_text("c")
    (folder / "empty.bin").write_bytes(b"")
    (folder / "naïve name.txt").write_text("d")
    (folder / ".gitattributes").write_text("* text")
    return folder


def signed(folder: Path, **options: Any) -> bytes:
    bundle = sign_model(folder, KEY, **options)
    (folder / "model.sig").write_bytes(bundle)
    return bundle


def test_what_was_signed_verifies_as_a_folder_and_as_a_listing(model: Path) -> None:
    bundle = signed(model, name="acme/tiny")
    assert verify_model(model, bundle, PUBLIC, name="acme/tiny") == keys.keyid(PUBLIC[0])
    listing = hash_files(model, list_files(model, ()))
    assert "model.sig" in listing
    assert verify_model(listing, bundle, [OTHER.public_key(), *PUBLIC]) == keys.keyid(PUBLIC[0])


def test_progress_counts_every_byte(model: Path) -> None:
    counts: list[int] = []
    sign_model(model, KEY, read=counts.append)
    assert sum(counts) == 8 + 1 + 1 + 1


def change(model: Path) -> str:
    (model / "config.json").write_text('{"a": 2}')
    return "config.json: expected sha256 "


def add(model: Path) -> str:
    (model / "extra.py").write_text("print()")
    return "extra.py was not signed, found sha256 "


def remove(model: Path) -> str:
    (model / "sub" / "b.txt").unlink()
    return "sub/b.txt is missing, expected sha256 "


def swap(model: Path) -> str:
    os.rename(model / "sub.txt", model / "x")
    os.rename(model / "sub" / "b.txt", model / "sub.txt")
    os.rename(model / "x", model / "sub" / "b.txt")
    return "sub.txt: expected sha256 "


@pytest.mark.parametrize("tamper", [change, add, remove, swap])
def test_a_changed_model_is_refused_with_file_and_digests(model: Path, tamper: Callable[[Path], str]) -> None:
    bundle = signed(model)
    before = hash_files(model, list_files(model))
    words = tamper(model)
    with pytest.raises(SignatureRefused) as refusal:
        verify_model(model, bundle, PUBLIC)
    assert words in refusal.value.message
    after = hash_files(model, list_files(model))
    changed = {
        digest for path, digest in {*before.items(), *after.items()} if before.get(path) != after.get(path)
    }
    assert changed
    assert all(digest in refusal.value.message for digest in changed)


def test_many_differences_are_counted_not_printed(model: Path) -> None:
    bundle = signed(model)
    for number in range(20):
        (model / f"extra{number}").write_text("x")
    with pytest.raises(SignatureRefused, match="and 15 more"):
        verify_model(model, bundle, PUBLIC)


def test_another_key_is_refused_with_both_named(model: Path) -> None:
    bundle = signed(model)
    with pytest.raises(SignatureRefused) as refusal:
        verify_model(model, bundle, [OTHER.public_key()])
    assert keys.keyid(OTHER.public_key()) in refusal.value.message
    assert keys.keyid(PUBLIC[0]) in refusal.value.message


@pytest.mark.parametrize(
    ("signed_as", "asked", "accepted"),
    [
        ("acme/tiny", "acme/tiny", True),
        ("acme/tiny", "evil/tiny", False),
        ("acme/tiny", "acme/other", False),
        (None, "acme/tiny", True),  # another tool names the folder only
        (None, "acme/other", False),
    ],
)
def test_a_bundle_for_another_model_is_refused(
    model: Path, signed_as: str | None, asked: str, accepted: bool
) -> None:
    bundle = signed(model, name=signed_as)
    if accepted:
        assert verify_model(model, bundle, PUBLIC, name=asked)
    else:
        with pytest.raises(SignatureRefused, match=f"expected '{asked}'"):
            verify_model(model, bundle, PUBLIC, name=asked)


def test_a_bundle_for_another_version_is_refused(model: Path) -> None:
    bundle = signed(model, name="acme/tiny", version="1.2.0")
    assert verify_model(model, bundle, PUBLIC, version="1.2.0")
    assert verify_model(model, bundle, PUBLIC)
    with pytest.raises(SignatureRefused, match=r"is for version 1\.2\.0, expected 1\.3\.0"):
        verify_model(model, bundle, PUBLIC, version="1.3.0")
    assert verify_model(model, signed(model, name="acme/tiny"), PUBLIC, version="1.3.0")


def parts(bundle: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    document = json.loads(bundle)
    return document, json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))


def test_an_edited_bundle_is_refused(model: Path) -> None:
    document, statement = parts(signed(model))
    (model / "config.json").write_text("evil")
    statement["predicate"]["resources"][0]["digest"] = "00" * 32
    document["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    with pytest.raises(SignatureRefused, match="was changed after it was signed"):
        verify_model(model, json.dumps(document).encode(), PUBLIC)


def resign(statement: dict[str, Any], bundle: bytes) -> bytes:
    document = json.loads(bundle)
    document["dsseEnvelope"] = dsse.sign(dsse.IN_TOTO, json.dumps(statement).encode(), KEY)
    return json.dumps(document).encode()


def edit_root(statement: dict[str, Any]) -> None:
    statement["subject"][0]["digest"]["sha256"] = "00" * 32


def edit_method(statement: dict[str, Any]) -> None:
    statement["predicate"]["serialization"]["method"] = "shards"


def edit_hash(statement: dict[str, Any]) -> None:
    statement["predicate"]["serialization"]["hash_type"] = "blake3"


def edit_path(statement: dict[str, Any]) -> None:
    statement["predicate"]["resources"][0]["name"] = "../config.json"


def edit_twice(statement: dict[str, Any]) -> None:
    statement["predicate"]["resources"].append(statement["predicate"]["resources"][0])


def edit_digest(statement: dict[str, Any]) -> None:
    statement["predicate"]["resources"][0]["digest"] = "AB"


def edit_kind(statement: dict[str, Any]) -> None:
    statement["predicateType"] = "https://slsa.dev/provenance/v1"


def edit_subject(statement: dict[str, Any]) -> None:
    statement["subject"] *= 2


def edit_predicate(statement: dict[str, Any]) -> None:
    statement["predicate"] = []


def edit_version(statement: dict[str, Any]) -> None:
    statement["predicate"]["llmasos"] = {"version": 1}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (edit_root, "hashes to"),
        (edit_method, "signed as shards"),
        (edit_hash, "with blake3"),
        (edit_path, "is no path"),
        (edit_twice, "there twice"),
        (edit_digest, "no sha256"),
        (edit_kind, "slsa.dev"),
        (edit_subject, "exactly one model"),
        (edit_predicate, "no predicate"),
        (edit_version, "malformed version"),
    ],
)
def test_even_a_signed_listing_must_make_sense(
    model: Path, edit: Callable[[dict[str, Any]], None], words: str
) -> None:
    bundle = signed(model)
    _, statement = parts(bundle)
    edit(statement)
    with pytest.raises(SignatureRefused, match=words):
        verify_model(model, resign(statement, bundle), PUBLIC)


@pytest.mark.parametrize(
    "bundle",
    [b"", b"{}", b'{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}', b"\xff", b"[" * 9999],
)
def test_what_is_no_bundle_is_refused(model: Path, bundle: bytes) -> None:
    with pytest.raises(SignatureRefused):
        verify_model(model, bundle, PUBLIC)


def test_a_signer_cannot_leave_files_out_quietly(model: Path) -> None:
    (model / "weights.safetensors").write_bytes(b"x")
    bundle = signed(model, ignore=["weights.safetensors"])
    with pytest.raises(SignatureRefused, match=r"weights\.safetensors was not signed"):
        verify_model(model, bundle, PUBLIC)


def test_links_are_not_signed(model: Path) -> None:
    (model / "link").symlink_to(model / "config.json")
    with pytest.raises(InputError, match="is a symbolic link"):
        sign_model(model, KEY)


def test_names_that_no_repository_has_are_not_signed(model: Path) -> None:
    (model / "a\nb").write_text("x")
    with pytest.raises(InputError, match="not a name for a repository"):
        sign_model(model, KEY)


def test_a_bundle_of_model_signing_verifies_here() -> None:
    public = keys.load_public((FOREIGN / "key.pub.pem").read_bytes())
    bundle = (FOREIGN / "model" / "model.sig").read_bytes()
    found = read_bundle(bundle, [public])
    assert (found.name, found.version) == ("model", None)
    assert list(found.files) == ["config.json", "sub/data.txt", "sub.txt"]
    assert verify_model(FOREIGN / "model", bundle, [public], name="acme/model") == keys.keyid(public)
    with pytest.raises(SignatureRefused, match="PEM digest"):
        verify_model(FOREIGN / "model", bundle, PUBLIC)


@pytest.mark.network
def test_model_signing_accepts_ours_and_we_accept_theirs(
    model: Path, model_signing: list[str], tmp_path: Path
) -> None:
    private, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    key = keys.generate(private)
    public.write_text(keys.public_pem(key.public_key()))
    (model / "model.sig").write_bytes(sign_model(model, key, name="acme/tiny", version="1.0.0"))

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [*model_signing, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    verify = ("verify", "key", "--public_key", public, "--signature", model / "model.sig", model)
    ours = run(*verify)
    assert ours.returncode == 0, ours.stderr
    assert "Verification succeeded" in ours.stdout
    assert "WARNING" not in ours.stdout + ours.stderr
    (model / "extra.txt").write_text("x")
    assert "Extra files found" in (refused := run(*verify)).stdout + refused.stderr
    (model / "extra.txt").unlink()

    theirs = run("sign", "key", "--private_key", private, "--signature", model / "model.sig", model)
    assert theirs.returncode == 0, theirs.stderr
    bundle = (model / "model.sig").read_bytes()
    assert verify_model(model, bundle, [key.public_key()], name="acme/tiny") == keys.keyid(key.public_key())
    change(model)
    with pytest.raises(SignatureRefused, match=r"config\.json: expected sha256"):
        verify_model(model, bundle, [key.public_key()])
