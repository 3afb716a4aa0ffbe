"""`llmasos install` and `llmasos plugin uninstall` against a real registry, in environments of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from installing import Place, build_wheel, key_for, publish, requests_so_far, upload


@pytest.fixture(scope="module")
def world(registry: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A registry with plugins of the signed publisher acme, and libraries of somebody without keys."""
    folder = tmp_path_factory.mktemp("wheels")
    acme, libs = registry.user("acme"), registry.user("libs")
    key = key_for(registry.url, acme, "acme", folder / "acme.pem")
    permissions = {"network": ["api.acme.example"], "subprocess": True}
    for version in ("1.0.0", "1.1.0", "2.0.0"):
        wheel = build_wheel(
            folder,
            "acme-hello",
            version,
            requires=["llmasos", "acme-base>=1"],
            permissions=permissions,
            scripts={"acme-hello": "acme_hello:main"},
        )
        publish(registry.url, acme, wheel, key)
    for name, options in {
        "acme-base": {},
        "acme-future": {"api": ">=9"},
        "acme-torch": {"requires": ["torch<2"]},
        "acme-numpy": {"requires": ["old-lib"]},
        "acme-lib": {"requires": ["tiny-lib>=1"]},
        "acme-first": {},
        "acme-second": {"requires": ["acme-first"]},
    }.items():
        publish(registry.url, acme, build_wheel(folder, name, **options), key)
    for name, options in {
        "old-lib": {"requires": ["numpy<1"]},
        "tiny-lib": {"version": "1.5.0"},
    }.items():
        upload(registry.url, libs, build_wheel(folder, name, plugin=False, **options))
    registry.acme_key = key
    registry.acme_token = acme
    return registry


@pytest.fixture
def place(world: Any, tmp_path: Path) -> Place:
    return Place(tmp_path, world.url)


@pytest.fixture
def without_uv(tmp_path: Path) -> dict[str, str]:
    """Variables under which uv is not found."""
    folder = tmp_path / "no-uv"
    folder.mkdir()
    (folder / "uv.py").write_text("raise ImportError('no uv here')\n")
    return {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"}


def test_without_consent_nothing_happens(world: Any, place: Place) -> None:
    before = place.tree()
    seen = len(requests_so_far(world))
    done = place.run("install", "acme-hello>=1,<2", code=2)
    assert "add     acme-hello 1.1.0" in done.stderr
    assert "add     acme-base 1.0.0" in done.stderr
    assert "NEW key, will be pinned" in done.stderr
    assert "talk to api.acme.example; start other programs" in done.stderr
    assert "hint: to accept the plan run: llmasos install 'acme-hello>=1,<2' --yes" in done.stderr
    assert done.stdout == ""
    assert place.tree() == before
    # Nobody is trusted and no wheel is fetched for a plan that was not accepted.
    assert '"publishers"' not in (place.config / "trust.json").read_text()
    assert not [line for line in requests_so_far(world)[seen:] if ".whl " in line]


def test_install_change_and_uninstall(world: Any, place: Place) -> None:
    done = place.run("install", "--yes", "acme-hello<2")
    assert done.stdout.splitlines() == ["installed acme-base 1.0.0", "installed acme-hello 1.1.0"]
    assert "pinned the keys of acme" in done.stderr
    assert place.installed() == {"acme-base": "1.0.0", "acme-hello": "1.1.0"}
    states = {row["id"]: row["state"] for row in place.json("plugin", "list")["plugins"]}
    assert states["acme-hello"] == "enabled"
    again = place.run("install", "--yes", "acme-hello")
    assert "nothing to do" in again.stdout
    newer = place.json("install", "--yes", "--upgrade", "acme-hello")
    (step,) = newer["steps"]
    assert (step["action"], step["before"], step["after"]) == ("change", "1.1.0", "2.0.0")
    assert step["signer"]["state"] == "pinned"
    assert step["permissions"]["network"] == ["api.acme.example"]
    refused = place.run("plugin", "uninstall", "acme-base", "--yes", code=3)
    assert "acme-hello 2.0.0, which is installed, requires acme-base>=1" in refused.stderr
    place.run("plugin", "uninstall", "acme-hello", "--yes")
    assert place.installed() == {"acme-base": "1.0.0"}
    assert not (place.python.parent / "acme-hello").exists()
    assert "is part of llmasos" in place.run("plugin", "uninstall", "llmasos-evals", code=2).stderr


def test_no_wheel_is_fetched_before_resolution_ends(world: Any, place: Place) -> None:
    seen = len(requests_so_far(world))
    place.run("install", "--yes", "acme-lib")
    lines = requests_so_far(world)[seen:]
    wheels = [number for number, line in enumerate(lines) if line.split()[1].endswith(".whl")]
    others = [
        number
        for number, line in enumerate(lines)
        if line.split()[1].endswith(".metadata") or "/simple/" in line or "/v1/plugins/acme-lib 200" in line
    ]
    assert len(wheels) == 2
    assert others
    assert max(others) < min(wheels)
    assert place.installed() == {"acme-lib": "1.0.0", "tiny-lib": "1.5.0"}


def test_pip_where_there_is_no_uv(place: Place, without_uv: dict[str, str]) -> None:
    place.run("install", "--yes", "acme-lib", **without_uv)
    assert place.installed() == {"acme-lib": "1.0.0", "tiny-lib": "1.5.0"}
    place.run("plugin", "uninstall", "acme-lib", "--yes", **without_uv)
    assert place.installed() == {"tiny-lib": "1.5.0"}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("acme-future", ["acme-future 1.0.0 requires llmasos API >=9", "this kernel has API 1.0"]),
        ("acme-torch", ["acme-torch 1.0.0 requires torch<2", "never changed as a side effect"]),
        ("acme-numpy", ["numpy<1", "never changed: llmasos"]),
    ],
)
def test_what_would_change_the_machine_is_refused(place: Place, name: str, parts: list[str]) -> None:
    before = place.tree()
    done = place.run("install", "--yes", name, code=3)
    for part in parts:
        assert part in done.stderr
    assert "hint:" in done.stderr
    assert place.tree() == before


def test_a_wheel_does_not_write_over_what_belongs_to_something_else(place: Place) -> None:
    (place.site / "acme_base").mkdir()
    (place.site / "acme_base" / "__init__.py").write_text("mine = True\n")
    before = place.tree()
    done = place.run("install", "--yes", "acme-base", code=3)
    assert "acme_base-1.0.0-py3-none-any.whl would write over" in done.stderr
    assert place.tree() == before


@pytest.mark.parametrize("tool", ["uv", "pip"])
def test_when_the_second_wheel_fails_the_first_is_gone(
    place: Place, without_uv: dict[str, str], tool: str
) -> None:
    environ = without_uv if tool == "pip" else {}
    place.run("install", "--yes", "acme-hello==1.0.0", **environ)
    # A file where the second wheel needs a folder: the tool finds out when the first is in place.
    (place.site / "acme_second").write_text("in the way\n")
    before = place.tree()
    done = place.run("install", "--yes", "-U", "acme-second", "acme-hello", code=1, **environ)
    assert f"{tool}: installing failed" in done.stderr
    assert place.tree() == before
    (place.site / "acme_second").unlink()
    place.run("install", "--yes", "-U", "acme-second", "acme-hello", **environ)
    assert place.installed() == {
        "acme-base": "1.0.0",
        "acme-first": "1.0.0",
        "acme-hello": "2.0.0",
        "acme-second": "1.0.0",
    }


def test_what_a_killed_process_left_is_put_back_by_the_next(place: Place, tmp_path: Path) -> None:
    from uv import find_uv_bin

    place.run("install", "--yes", "acme-hello==1.0.0")
    before = place.tree()
    # A uv that installs and then takes its caller with it.
    folder = tmp_path / "killer"
    folder.mkdir()
    (folder / "uv.py").write_text(f"def find_uv_bin():\n    return {str(folder / 'uv')!r}\n")
    (folder / "uv").write_text(
        f'#!/bin/sh\n{find_uv_bin()} "$@"\n[ "$2" = install ] && kill -9 $PPID\nexit 0\n'
    )
    (folder / "uv").chmod(0o755)
    place.run("install", "--yes", "acme-hello==2.0.0", code=-9, PYTHONPATH=str(folder))
    assert place.installed()["acme-hello"] == "2.0.0"
    done = place.run("install", "--yes", "acme-hello")
    assert "an earlier installation was interrupted" in done.stderr
    assert place.tree() == before


def test_a_changed_wheel_is_refused(world: Any, place: Place) -> None:
    (blob,) = [path for path in world.data.rglob("*") if path.is_file() and _holds(path, b"acme_first/")]
    kept = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(kept[:-30] + bytes([kept[-30] ^ 1]) + kept[-29:])
    try:
        done = place.run("install", "--yes", "acme-first", code=1)
    finally:
        blob.write_bytes(kept)
    assert "acme_first-1.0.0-py3-none-any.whl: expected sha256 " in done.stderr
    assert ", found " in done.stderr
    assert place.installed() == {}


def _holds(path: Path, text: bytes) -> bool:
    data = path.read_bytes()
    return data.startswith(b"PK") and text in data


def test_unknown_names_and_no_registry(place: Place) -> None:
    assert "no plugin `acme-helo`" in place.run("install", "acme-helo", code=5).stderr
    assert "is no plugin" in place.run("install", "tiny-lib", code=2).stderr
    assert "no registry is set" in place.run("install", "acme-hello", code=2, LLMASOS_REGISTRY="").stderr
    assert "offline is set" in place.run("--offline", "install", "acme-hello", code=2).stderr


def test_signing_in(world: Any, place: Place, tmp_path: Path) -> None:
    import subprocess

    def login(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(place.python), "-m", "llmasos", "registry", "login"],
            env=place.environ,
            input=text,
            capture_output=True,
            text=True,
        )

    refused = login("llma_wrong\n")
    assert refused.returncode == 1
    assert "llma_wrong" not in refused.stderr
    assert not (place.config / "credentials.toml").exists()
    done = login(world.acme_token + "\n")
    assert done.returncode == 0, done.stderr
    assert "as acme" in done.stdout
    assert world.acme_token not in done.stdout + done.stderr
    assert (place.config / "credentials.toml").stat().st_mode & 0o777 == 0o600
    place.run("registry", "login", "--logout")
    assert world.acme_token not in (place.config / "credentials.toml").read_text()


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("y\n", 0)])
def test_on_a_terminal_one_is_asked(place: Place, answer: str, code: int) -> None:
    import os
    import pty
    import subprocess

    ours, theirs = pty.openpty()
    os.write(ours, answer.encode())
    done = subprocess.run(
        [str(place.python), "-m", "llmasos", "install", "acme-base"],
        env={**place.environ, "TERM": "dumb"},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    os.close(theirs)
    assert done.returncode == code, shown
    assert "add     acme-base 1.0.0" in shown
    assert "Do it? [y/N]" in shown
    assert place.installed() == ({"acme-base": "1.0.0"} if code == 0 else {})


def test_libraries_that_are_here_stay_where_they_fit(world: Any, place: Place, tmp_path: Path) -> None:
    libs = world.user("libs")

    def library(name: str, version: str) -> None:
        upload(world.url, libs, build_wheel(tmp_path, name, version, plugin=False))

    def plugin(name: str, *requires: str) -> None:
        wheel = build_wheel(tmp_path, name, requires=requires)
        publish(world.url, world.acme_token, wheel, world.acme_key)

    library("keep-lib", "1.0")
    plugin("acme-keeps", "keep-lib")
    place.run("install", "--yes", "acme-keeps")
    library("keep-lib", "2.0")
    library("new-lib", "1.0")
    plugin("acme-adds", "keep-lib", "new-lib")
    place.run("install", "--yes", "acme-adds")
    assert place.installed()["keep-lib"] == "1.0"
    assert place.installed()["new-lib"] == "1.0"
    plugin("acme-moves", "keep-lib>=2")
    plan = place.run("install", "--dry-run", "acme-moves").stdout
    assert "change  keep-lib 1.0 -> 2.0" in plan
    plugin("acme-holds", "keep-lib<2")
    place.run("install", "--yes", "acme-holds")
    # Now it cannot move any more, and whoever would be broken is named.
    refused = place.run("install", "--yes", "acme-moves", code=3)
    assert "keep-lib" in refused.stderr
    assert "acme-holds" in refused.stderr
