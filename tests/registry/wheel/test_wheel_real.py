"""Wheels that the world installs are read; damaged ones are refused and never crash the reader."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wheelsmith import make_sdist, wheel_members, wheel_name, zipped

from llmasos.errors import LlmasosError
from llmasos_registry.wheel.archive import read_wheel
from llmasos_registry.wheel.hosting import check_hosted
from llmasos_registry.wheel.plugin import read_plugins
from llmasos_registry.wheel.refusal import WheelRefused
from llmasos_registry.wheel.sdist import read_sdist

#: Of different build tools, with data files, programs, compiled modules, zip64 fields, old metadata, a .pth file.
REAL = (
    "requests==2.32.3", "six==1.17.0", "jupyterlab-widgets==3.0.13", "ninja==1.11.1.4", "protobuf==6.31.1", "certifi==2025.4.26",
    "notebook-shim==0.2.4", "ipykernel==6.29.5", "pybind11==2.13.6", "tqdm==4.67.1", "safetensors==0.5.3", "wheel==0.45.1",
    "pyyaml==6.0.2", "markupsafe==3.0.2", "setuptools==80.9.0", "distlib==0.3.9",
)  # fmt: skip


@pytest.fixture(scope="module")
def real_wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("real")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
    ]
    done = subprocess.run(
        [*command, str(folder), *REAL], capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"the package registry did not give the wheels: {done.stderr.strip()[-300:]}")
    return sorted(folder.glob("*.whl"))


@pytest.mark.network
def test_wheels_of_pypi_are_read(real_wheels: list[Path]) -> None:
    refused = {}
    for path in real_wheels:
        facts = read_wheel(path)
        assert facts.top_level
        assert path.name.lower().replace("_", "-").startswith(facts.name)
        try:
            check_hosted(facts)
        except WheelRefused as error:
            refused[facts.name] = error.rule
    assert refused == {"setuptools": "runs at start-up"}, (
        "it ships a .pth file: sound, and not for publishing here"
    )


def damaged(data: bytes, draw: st.DataObject) -> bytes:
    """The bytes with a few of them changed, left out or put in."""
    changed = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(changed) - 1))
        kind = draw.draw(st.sampled_from(["change", "remove", "insert", "cut"]))
        if kind == "change":
            changed[at] = draw.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, draw.draw(st.integers(0, 255))]))
        elif kind == "remove":
            del changed[at : at + draw.draw(st.integers(1, 8))]
        elif kind == "insert":
            changed[at:at] = draw.draw(st.binary(min_size=1, max_size=8))
        else:
            del changed[max(at, 1) :]
        if not changed:
            return b""
    return bytes(changed)


FILES = {"acme/__init__.py": "x = 1\n" * 20, "acme/plugin.py": "", "acme/llmasos.toml": "manifest = 1\n"}
WHEEL = zipped(
    wheel_members("acme", files=FILES, entry_points="[llmasos.plugins]\nacme = acme:llmasos.toml\n")
)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_damaged_wheel_is_refused_with_a_reason(draw: st.DataObject) -> None:
    try:
        facts = read_wheel(io.BytesIO(damaged(WHEEL, draw)), filename=wheel_name("acme"))
        check_hosted(facts)
        read_plugins(facts)
    except LlmasosError:
        pass


@settings(max_examples=200, deadline=None)
@given(member=st.sampled_from(sorted(wheel_members("acme", files=FILES))), draw=st.data())
def test_damage_behind_sound_framing_is_refused_with_a_reason(member: str, draw: st.DataObject) -> None:
    members = wheel_members("acme", files=FILES)
    before = members[member]
    members[member] = damaged(before, draw) if before else b"x"
    try:
        read_wheel(io.BytesIO(zipped(members)), filename=wheel_name("acme"))
    except LlmasosError:
        return
    record = "acme-1.0.dist-info/RECORD"
    assert member == record or members[member] == before, "every other file is held by its digest"


def test_a_damaged_source_distribution_is_refused_with_a_reason(tmp_path: Path) -> None:
    whole = make_sdist(tmp_path, "acme").read_bytes()

    @settings(max_examples=200, deadline=None)
    @given(st.data())
    def check(draw: st.DataObject) -> None:
        with suppress(LlmasosError):
            read_sdist(io.BytesIO(damaged(whole, draw)), "acme-1.0.tar.gz")

    check()
