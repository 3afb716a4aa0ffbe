"""Paths, and which references the hook answers."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmasos import Hub
from llmasos.api import ModelNotFound, UsageError
from llmasos_refs.local import resolve_path
from llmasos_refs.plugin import llmasos_resolve_model


@dataclass
class Settings:
    cache_dir: Path
    offline: bool = True


def test_files_and_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for ref in (str(model), "model.gguf", "./model.gguf", "~/model.gguf"):
        found = resolve_path(ref)
        assert (found.path, found.source, found.ref) == (model.resolve(), "path", ref)
    assert resolve_path(".").path == tmp_path.resolve()


@pytest.mark.parametrize(
    ("ref", "hint"),
    [
        ("modle.gguf", "model.gguf"),
        ("sub/deep/model", "has no sub"),
        ("org/name", "hf://org/name"),
        ("org/name", "registry://org/name"),
        ("", "pypi:package/path"),
        ("a\0b", "NUL"),
        ("x" * 5000, ""),
    ],
)
def test_nothing_there(ref: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFound) as caught:
        resolve_path(ref)
    assert hint in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 5


def test_the_hook_answers_its_own_forms_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:name").mkdir()
    settings = Settings(tmp_path)
    assert llmasos_resolve_model(ref="acme://x", hub=settings) is None
    assert llmasos_resolve_model(ref="odd:name", hub=settings) is not None
    for ref in ("nowhere", "pypi:nothing==1.0", "hf://acme/nothing"):
        with pytest.raises(ModelNotFound):
            llmasos_resolve_model(ref=ref, hub=settings)


def test_a_hub_resolves_through_the_plugin(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert Hub(offline=True).resolve_model(str(tmp_path / "model")).path == (tmp_path / "model").resolve()


@pytest.mark.parametrize("module", ["llmasos_refs.plugin", "llmasos_tokenizers.plugin"])
def test_plugin_modules_import_little(module: str) -> None:
    program = f"import sys, {module}; print(*(set(sys.modules) & {{'torch', 'pydantic', 'numpy', 'tokenizers', 'jinja2', 'huggingface_hub'}}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("tail", ["", "/tree/main", "?x=1"])
def test_the_address_of_a_page_is_told_as_a_reference(tmp_path: Path, tail: str) -> None:
    with pytest.raises(UsageError) as caught:
        llmasos_resolve_model(f"https://huggingface.co/org/some-1.5{tail}", Settings(tmp_path))
    assert caught.value.hint == "write hf://org/some-1.5"
    assert llmasos_resolve_model("https://example.org/model", Settings(tmp_path)) is None
