"""Building the wheel of a project: in isolation, the same bytes twice, and what is said when it fails."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import pytest
from community_project import write_project

from llmasos.errors import InputError, MissingDependency
from llmasos_registry.client import wheel_build
from llmasos_registry.client.publish_plugin import upload_form
from llmasos_registry.client.wheel_build import build_wheel
from llmasos_registry.wheel.archive import read_wheel
from llmasos_registry.wheel.plugin import read_plugin

BUILDERS = {
    "uv": lambda: wheel_build._uv() is not None,
    "build": lambda: importlib.util.find_spec("build") is not None,
    "pip": lambda: importlib.util.find_spec("pip") is not None,
}


@pytest.mark.parametrize("builder", BUILDERS)
def test_each_builder_gives_a_wheel_that_reads_as_a_plugin(
    builder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not BUILDERS[builder]():
        pytest.skip(f"{builder} is not installed")
    if builder != "uv":
        monkeypatch.setattr(wheel_build, "_uv", lambda: None)
    real = importlib.util.find_spec
    if builder == "pip":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "build" else real(name))
    project = write_project(tmp_path / "acme", "1.2.0")
    (tmp_path / "out").mkdir()
    wheel = build_wheel(project, tmp_path / "out")
    facts = read_wheel(wheel)
    manifest = read_plugin(facts)
    assert (facts.name, facts.version) == ("llmasos-acme", "1.2.0")
    assert manifest is not None
    assert manifest.id == "llmasos-acme"


def test_a_build_knows_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMASOS_TOKEN", "llma_secret")
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    project = write_project(tmp_path / "acme", "1.2.0", record_environment=True)
    (tmp_path / "out").mkdir()
    build_wheel(project, tmp_path / "out")
    seen = (project / "environment.txt").read_text()
    assert "LLMASOS_TOKEN" not in seen
    assert f"SOURCE_DATE_EPOCH={wheel_build.EPOCH}" in seen


def test_a_failing_build_shows_its_last_lines(tmp_path: Path) -> None:
    project = write_project(tmp_path / "acme", "1.2.0")
    (project / "backend.py").write_text("raise RuntimeError('the backend is broken')")
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="the backend is broken"):
        build_wheel(project, tmp_path / "out")


def test_a_folder_that_is_no_project_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no pyproject\.toml"):
        build_wheel(tmp_path, tmp_path)


def test_nothing_that_builds_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = write_project(tmp_path / "acme", "1.2.0")
    monkeypatch.setattr(wheel_build, "_uv", lambda: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="nothing is installed that builds wheels"):
        build_wheel(project, tmp_path)


def test_the_form_has_what_twine_sends(tmp_path: Path) -> None:
    project = write_project(tmp_path / "acme", "1.2.0")
    (tmp_path / "out").mkdir()
    wheel = build_wheel(project, tmp_path / "out")
    content = wheel.read_bytes()
    form = upload_form(read_wheel(wheel), content)
    assert form[":action"] == "file_upload"
    assert form["filetype"] == "bdist_wheel"
    assert form["pyversion"] == "py3"
    assert form["sha256_digest"] == hashlib.sha256(content).hexdigest()
    assert form["blake2_256_digest"] == hashlib.blake2b(content, digest_size=32).hexdigest()
    assert form["requires_dist"] == ["packaging>=24", 'tomli; python_version < "3.11"']
    assert form["requires_python"] == ">=3.11"
    assert form["summary"] == "A test plugin"
    assert form["classifiers"] == ["Private :: Do Not Upload", "Typing :: Typed"]
    assert form["project_urls"] == ["Home, https://acme.example"]
    assert "description" not in form
