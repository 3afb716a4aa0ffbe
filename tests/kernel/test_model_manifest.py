"""``llmasos.toml`` of a model: what is read, and what is refused with the key and the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmasos.errors import ManifestError
from llmasos.kernel.model_manifest import (
    MAX_BYTES,
    ModelManifest,
    parse_model_manifest,
    read_model_manifest,
)
from llmasos.testing.tmp import manifest, toml_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ModelManifest()),
        ('architecture = "acme/llama"', ModelManifest((), "acme/llama")),
        (
            'manifest = 1\nrequires = ["Llmasos_Acme <2,>=1.2", "other[b,a]"]',
            ModelManifest(("llmasos-acme<2,>=1.2", "other[a,b]")),
        ),
    ],
)
def test_what_is_read(text: str, expected: ModelManifest) -> None:
    assert parse_model_manifest(text.encode(), source="model") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("manifest = 2", "newer than this llmasos reads"),
        ("manifest = true", "`manifest` is True"),
        ('manifest = "1"', "`manifest` is '1'"),
        ('requries = ["a"]', "did you mean `requires`"),
        ("architecture = 3", "not a string"),
        ('requires = "acme"', "not a list of strings"),
        ("requires = [1]", "not a list of strings"),
        ('requires = ["acme @ https://evil.example/acme.whl"]', "holds an address"),
        ("requires = [\"acme; python_version > '3'\"]", "holds a marker"),
        ('requires = ["acme ~ 1"]', "not a requirement"),
        ('requires = ["-r /etc/passwd"]', "not a requirement"),
        ('requires = ["acme>=1", "ACME<2"]', "required twice"),
        (f"requires = {[f'a{n}' for n in range(33)]}", "too many"),
        ("requires = [", "not valid TOML"),
        ("\0", "not valid TOML"),
        ("x = " + "[" * 5000, "not valid TOML"),
        ("# " + "x" * MAX_BYTES, "too many"),
        (toml_text(manifest("acme")), "manifest of a plugin"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message) as caught:
        parse_model_manifest(text.encode(), source="org/name llmasos.toml")
    assert caught.value.message.startswith("org/name llmasos.toml")


def test_the_file_of_a_folder(tmp_path: Path) -> None:
    assert read_model_manifest(tmp_path) is None
    (tmp_path / "llmasos.toml").write_text(toml_text(manifest("acme")))
    assert read_model_manifest(tmp_path) is None  # a plugin's: models also come inside plugins' wheels
    (tmp_path / "llmasos.toml").write_text('requires = ["acme"]')
    assert read_model_manifest(tmp_path) == ModelManifest(("acme",))
    (tmp_path / "llmasos.toml").unlink()
    (tmp_path / "llmasos.toml").mkdir()
    with pytest.raises(ManifestError, match="cannot read"):
        read_model_manifest(tmp_path)
