"""Wheels that lie, overwrite or explode are refused, each by the rule that it breaks; sound ones are read."""

from __future__ import annotations

import io
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from wheelsmith import make_plugin_wheel, make_wheel, record_row, wheel_members, wheel_name, zipped

from llmasos_registry.wheel.archive import read_wheel
from llmasos_registry.wheel.hosting import check_hosted
from llmasos_registry.wheel.refusal import Limits, WheelRefused

INFO = "evil-1.0.dist-info"


def refusal(data: bytes, filename: str | None = None, limits: Limits | None = None) -> WheelRefused:
    """What reading and hosting a wheel is refused with."""
    with pytest.raises(WheelRefused) as caught:
        check_hosted(
            read_wheel(io.BytesIO(data), filename=filename or wheel_name("evil"), limits=limits or Limits())
        )
    return caught.value


def with_file(path: str, data: bytes = b"x = 1\n", **more: bytes) -> bytes:
    """A wheel whose RECORD is right and that has one more file."""
    return zipped(wheel_members("evil", files={"evil/__init__.py": b"", path: data, **more}))


def wrong_digest() -> bytes:
    members = wheel_members("evil")
    members["evil/__init__.py"] = b"changed\n"
    return zipped(members)


def unlisted() -> bytes:
    members = wheel_members("evil")
    members["evil/hidden.py"] = b""
    return zipped(members)


def ghost() -> bytes:
    members = wheel_members("evil")
    members[f"{INFO}/RECORD"] += record_row("evil/ghost.py", b"").encode()
    return zipped(members)


def twice() -> bytes:
    with pytest.warns(UserWarning, match="Duplicate"):
        return zipped([*wheel_members("evil").items(), ("evil/__init__.py", b"other\n")])


def bomb() -> bytes:
    return with_file("evil/zeros.bin", bytes(200_000_000))


def symlink() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, data in wheel_members("evil", files={"evil/link": b"/etc/passwd"}).items():
            entry = zipfile.ZipInfo(path)
            entry.create_system = 3
            entry.external_attr = (0o120777 if path == "evil/link" else 0o100644) << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def without(path: str) -> Callable[[], bytes]:
    def build() -> bytes:
        members = wheel_members("evil")
        del members[path]
        return zipped(members)

    return build


def with_metadata(old: str, new: str) -> bytes:
    """A wheel whose METADATA is changed and recorded as it is."""
    members = wheel_members("evil")
    path = f"{INFO}/METADATA"
    before, after = members[path], members[path].replace(f"\n{old}".encode(), f"\n{new}".encode(), 1)
    rows = members[f"{INFO}/RECORD"].decode()
    members[path] = after
    members[f"{INFO}/RECORD"] = rows.replace(record_row(path, before), record_row(path, after)).encode()
    return zipped(members)


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "digest in RECORD wrong": (wrong_digest, "RECORD"),
    "file missing from RECORD": (unlisted, "RECORD"),
    "ghost in RECORD": (ghost, "RECORD"),
    "member twice": (twice, "member collision"),
    "pth file": (lambda: with_file("evil.pth", b"import os\n"), "runs at start-up"),
    "start file": (lambda: with_file("evil.start", b"evil:main\n"), "runs at start-up"),
    "pth in data": (lambda: with_file("evil-1.0.data/purelib/e.pth", b"import os\n"), "runs at start-up"),
    "sitecustomize": (lambda: with_file("sitecustomize.py"), "runs at start-up"),
    "overwrites another package": (lambda: with_file("numpy/__init__.py"), "top level"),
    "overwrites the kernel": (lambda: with_file("llmasos/hub.py"), "top level"),
    "overwrites a plugin": (lambda: with_file("llmasos_data/__init__.py"), "top level"),
    "shadows the standard library": (lambda: with_file("json/__init__.py"), "top level"),
    "stray file": (lambda: with_file("README.md"), "top level"),
    "bomb": (bomb, "compression ratio"),
    "symlink": (symlink, "member kind"),
    "names that differ by case": (
        lambda: with_file("evil/A.py", b"", **{"evil/a.py": b""}),
        "member collision",
    ),
    "names that differ by form": (
        lambda: with_file("evil/ﬁ.py", b"", **{"evil/fi.py": b""}),
        "member collision",
    ),
    "not composed": (lambda: with_file("evil/e\u0301.py"), "member name"),
    "file and folder": (lambda: with_file("evil/a", b"", **{"evil/a/b.py": b""}), "member collision"),
    "replaces python": (lambda: with_file("evil-1.0.data/scripts/python3", b"#!python\n"), "program name"),
    "replaces activate": (lambda: with_file("evil-1.0.data/scripts/activate.sh", b""), "program name"),
    "replaces python by data": (lambda: with_file("evil-1.0.data/data/bin/python3.11", b""), "program name"),
    "climbs": (lambda: with_file("../../../evil.py"), "member path"),
    "absolute": (lambda: with_file("/tmp/evil.py"), "member path"),
    "climbs out of data": (lambda: with_file("evil-1.0.data/data/../../evil.py"), "member path"),
    "into site-packages by data": (
        lambda: with_file("evil-1.0.data/data/lib/python3.11/site-packages/numpy/__init__.py"),
        "data folder",
    ),
    "pyvenv.cfg": (lambda: with_file("evil-1.0.data/data/pyvenv.cfg", b""), "data folder"),
    "drive letter": (lambda: with_file("C:/evil.py"), "member name"),
    "backslash": (lambda: with_file("evil\\..\\x.py"), "member name"),
    "device": (lambda: with_file("evil/aux.txt"), "member name"),
    "raised digit device": (lambda: with_file("evil/COM¹"), "member name"),
    "unprintable": (lambda: with_file("evil/a\u202egnp.py"), "member name"),
    "trailing dot": (lambda: with_file("evil/a./b.py"), "member name"),
    "entry point climbs": (
        lambda: zipped(wheel_members("evil", entry_points="[console_scripts]\n../../x = evil:main\n")),
        "program name",
    ),
    "entry point is python3": (
        lambda: zipped(wheel_members("evil", entry_points="[console_scripts]\npython3 = evil:main\n")),
        "program name",
    ),
    "entry point runs code": (
        lambda: zipped(wheel_members("evil", entry_points="[llmasos.plugins]\nx = os:system('x')\n")),
        "entry points",
    ),
    "no RECORD": (without(f"{INFO}/RECORD"), "dist-info"),
    "no METADATA": (without(f"{INFO}/METADATA"), "RECORD"),
    "other name in METADATA": (lambda: with_metadata("Name: evil", "Name: good"), "metadata"),
    "other version in METADATA": (lambda: with_metadata("Version: 1.0", "Version: 1.1"), "metadata"),
    "two names in METADATA": (lambda: with_metadata("Name: evil", "Name: evil\nName: good"), "metadata"),
    "no version in METADATA": (lambda: with_metadata("Version: 1.0\n", ""), "metadata"),
    "two dist-info": (lambda: with_file("good-1.0.dist-info/METADATA"), "dist-info"),
    "Wheel-Version 99": (lambda: zipped(wheel_members("evil", wheel_version="99.0")), "WHEEL"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_wheels_are_refused_by_the_rule_they_break(kind: str) -> None:
    build, rule = HOSTILE[kind]
    assert refusal(build()).rule == rule


def test_refusals_name_the_member_and_what_was_expected() -> None:
    error = refusal(wrong_digest())
    assert error.member == "evil/__init__.py"
    assert "RECORD says" in error.message
    assert "\u202e" not in refusal(HOSTILE["unprintable"][0]()).message, (
        "a name must not write to the terminal"
    )


@pytest.mark.parametrize(
    "filename",
    ["evil-1.0.whl", "evil-1.0-py3-none-any.zip", "../evil-1.0-py3-none-any.whl", "good-1.0-py3-none-any.whl",
     "evil-2.0-py3-none-any.whl", "evil-1.0-py3-none-any.whl\n", ""],
)  # fmt: skip
def test_the_file_name_and_the_content_agree(filename: str) -> None:
    with pytest.raises(WheelRefused):
        read_wheel(io.BytesIO(zipped(wheel_members("evil"))), filename=filename)


def test_a_bomb_that_lies_about_its_size_is_caught_while_it_unpacks(tmp_path: Path) -> None:
    honest = with_file("evil/zeros.bin", bytes(100_000_000))
    lying = honest.replace(struct.pack("<L", 100_000_000), struct.pack("<L", 1000))
    path = tmp_path / wheel_name("evil")
    path.write_bytes(lying)
    # In a process of its own: what it needs at most is asked of the system.
    code = (
        "import resource, sys\nfrom llmasos_registry.wheel.archive import read_wheel\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    read_wheel(sys.argv[1])\nexcept Exception as error:\n    print(error.rule)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    rule, grown = done.stdout.split("\n")[:2]
    assert rule in ("zip data", "RECORD")
    assert int(grown) < 16 << 10, "kilobytes"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0


def test_limits_hold() -> None:
    data = with_file("evil/big.bin", b"x" * 5000)
    assert refusal(data, limits=Limits(expanded=4000)).rule == "archive size"
    assert refusal(data, limits=Limits(archive=100)).rule == "archive size"
    assert refusal(data, limits=Limits(members=3)).rule == "archive size"
    assert refusal(data, limits=Limits(record=10)).rule == "member size"
    assert refusal(data, limits=Limits(text=10)).rule == "member size"
    assert refusal(data, limits=Limits(directory=10)).rule == "archive size"
    assert refusal(data, limits=Limits(ratio_from=1000, ratio=10)).rule == "compression ratio"


def test_an_unpublished_wheel_may_hold_what_a_published_one_may_not() -> None:
    """Reading alone tells what a wheel is; setuptools itself ships a .pth file."""
    facts = read_wheel(io.BytesIO(with_file("evil.pth", b"import os\n")), filename=wheel_name("evil"))
    assert "evil.pth" in facts.top_level


def test_a_sound_wheel_is_read(tmp_path: Path) -> None:
    files = {
        "acme_tools/__init__.py": "",
        "acme_tools/model.pth": b"weights, not a path file",
        "acme_tools-1.0.data/data/share/acme/readme.txt": "hello",
        "acme_tools-1.0.data/scripts/acme": "#!python\n",
        "acme_tools-1.0.data/purelib/acme_tools_extra.py": "",
    }
    path = make_wheel(
        tmp_path,
        "acme-tools",
        files=files,
        entry_points="[console_scripts]\nacme-run = acme_tools:main\n",
        metadata=["Requires-Python: >=3.11", "Requires-Dist: packaging>=20", "Requires-Dist: numpy; extra == 'x'",
                  "Provides-Extra: x"],
    )  # fmt: skip
    facts = read_wheel(path)
    check_hosted(facts)
    assert (facts.name, facts.version, facts.tags) == ("acme-tools", "1.0", ("py3-none-any",))
    assert facts.top_level == ("acme_tools", "acme_tools_extra.py")
    assert facts.requires_python == ">=3.11"
    assert facts.requires_dist == ("packaging>=20", 'numpy; extra == "x"')
    assert facts.other_paths == ("data/share/acme/readme.txt", "scripts/acme")
    assert facts.entry_points == {"console_scripts": {"acme-run": "acme_tools:main"}}
    assert facts.metadata_bytes.startswith(b"Metadata-Version: 2.1")
    assert facts.size == path.stat().st_size


def test_a_plugin_keeps_to_its_own_packages(tmp_path: Path) -> None:
    path = make_plugin_wheel(tmp_path, "acme-ngram")
    check_hosted(read_wheel(path))
    package = {"acme_ngram/__init__.py": "", "acme_ngram/llmasos.toml": "", "beside/__init__.py": ""}
    points = "[llmasos.plugins]\nacme-ngram = acme_ngram:llmasos.toml\n"
    other = make_wheel(tmp_path, "acme-ngram", "2.0", files=package, entry_points=points)
    with pytest.raises(WheelRefused, match="neither named by an entry point"):
        check_hosted(read_wheel(other))
