"""Whether a plugin fits is decided from metadata, and every step is kept."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from llmasos.kernel import compat
from llmasos.kernel.compat import Accepted, Rejected, check


def verdict(**requires: Any) -> compat.Verdict:
    return check({"api": ">=1.0,<2", "requires": requires})


def test_no_requirements_are_met() -> None:
    assert verdict() == Accepted(("ok: needs llmasos API >=1.0,<2, this is 1.0",))


@pytest.mark.parametrize(
    ("range_", "fits", "hint"),
    [
        (">=1.0,<2", True, ""),
        (">=1,<2", True, ""),
        ("==1.*", True, ""),
        ("~=1.0", True, ""),
        (">=0.1,<1", False, "upgrade the plugin"),
        (">=2", False, "upgrade llmasos"),
        (">=1.7,<2", False, "upgrade llmasos"),
    ],
)
def test_api_ranges(range_: str, fits: bool, hint: str) -> None:
    found = check({"api": range_})
    assert isinstance(found, Accepted) == fits
    if isinstance(found, Rejected):
        assert found.reason == f"needs llmasos API {range_}, this is 1.0"
        assert found.hint == hint


def test_python() -> None:
    assert isinstance(verdict(python=">=3.11"), Accepted)
    found = verdict(python="<3.11")
    assert isinstance(found, Rejected)
    assert found.reason.startswith("needs Python <3.11, this is 3.")


@pytest.mark.parametrize(
    ("requires", "reason"),
    [
        ({"packages": ["click>=8"]}, None),
        (
            {"packages": ["click>=8", "no-such-package-here>=1"]},
            "needs no-such-package-here>=1, which is not installed",
        ),
        ({"packages": ["click>=999"]}, "needs click>=999, found "),
        ({"packages": ["no-such-package-here; python_version < '3'"]}, None),
    ],
)
def test_packages(requires: dict[str, Any], reason: str | None) -> None:
    found = verdict(**requires)
    if reason is None:
        assert isinstance(found, Accepted)
    else:
        assert isinstance(found, Rejected)
        assert found.reason.startswith(reason)
        assert found.trace[-1].startswith("no: ")
        assert "pip install" in found.hint


def test_the_authors_hint_is_preferred() -> None:
    found = verdict(packages=["no-such-package-here"], extras_hint="pip install 'acme[gpu]'")
    assert isinstance(found, Rejected)
    assert found.hint == "pip install 'acme[gpu]'"


@pytest.mark.parametrize(
    ("version", "fits"), [("2.13.0+cpu", True), ("2.5.1", False), (None, False), ("junk", False)]
)
def test_torch_by_metadata(monkeypatch: pytest.MonkeyPatch, version: str | None, fits: bool) -> None:
    monkeypatch.setattr(compat, "installed_version", lambda name: version if name == "torch" else None)
    found = verdict(torch=">=2.6")
    assert isinstance(found, Accepted) == fits
    if isinstance(found, Rejected):
        assert found.reason.startswith("needs torch>=2.6")


def test_torch_is_not_imported() -> None:
    code = (
        "import sys; from llmasos.kernel.compat import check;"
        "check({'api': '>=1', 'requires': {'torch': '>=2'}}, devices=True); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("wanted", "present", "fits"),
    [
        (["cpu"], {"cpu": ""}, True),
        (["cuda"], {"cpu": ""}, False),
        (["cuda", "cpu"], {"cpu": ""}, True),
        (["cuda>=8.0"], {"cpu": "", "cuda": "9.0"}, True),
        (["cuda>=8.0"], {"cpu": "", "cuda": "7.5"}, False),
        (["cuda>=8.0"], {"cpu": "", "cuda": ""}, False),
    ],
)
def test_devices_are_any_of(
    monkeypatch: pytest.MonkeyPatch, wanted: list[str], present: dict[str, str], fits: bool
) -> None:
    monkeypatch.setattr(compat, "device_version", lambda name, *, detail=False: present.get(name))
    manifest = {"api": ">=1", "requires": {"devices": wanted}}
    assert isinstance(check(manifest, devices=True), Accepted) == fits
    # Devices are asked for when a plugin is used, not when plugins are listed.
    assert isinstance(check(manifest), Accepted)


def test_hidden_devices_are_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert compat.device_version("cuda") is None
    assert compat.device_version("cpu") == ""
    assert compat.device_version("abacus") is None
