"""``llmasos doctor`` works whatever is installed and whatever is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmasos.cli.main import run

if TYPE_CHECKING:
    from world import World


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    monkeypatch.setenv("LLMASOS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LLMASOS_CONFIG", str(tmp_path / "config"))


def report(
    capsys: pytest.CaptureFixture[str], code: int = 0, *flags: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    assert run([*flags, "doctor", "--json"]) == code
    value = json.loads(capsys.readouterr().out)
    return value, {check["what"]: check for check in value["checks"]}


def test_a_healthy_environment(world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    world.add("acme-good", source="raise SystemExit('imported')")
    value, checks = report(capsys)
    assert value["environment"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert value["environment"]["api"] == "1.0"
    assert value["packages"]["click"]
    assert "pytest" not in value["packages"]
    assert value["settings"]["cache_dir"] == {"value": str(tmp_path / "cache"), "from": "LLMASOS_CACHE"}
    for what in (
        "settings",
        "cache folder",
        "configuration folder",
        "plugin index",
        "plugin acme-good 1.0.0",
    ):
        assert checks[what]["level"] == "ok"
    assert "acme_good.plugin" not in sys.modules


def test_optional_packages_that_are_not_here_are_no_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["click", "no-such-core", 'no-such-extra; extra == "some"', 'llmasos; extra == "some"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: lines if name == "llmasos" else [])
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines() if "not installed" in line] == [
        ["no-such-core", "not", "installed"]
    ]
    assert "optional, and not here: no-such-extra\n" in out


def test_each_failing_plugin_is_one_line(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.add("acme-broken", provides=[("command", "broken")], source="1 / 0")
    world.add("acme-old", api="<1")
    world.add("acme-typo", sumary="x")
    world.add("acme-off")
    assert run(["plugin", "disable", "acme-off"]) == 0
    assert run(["broken"]) == 3
    capsys.readouterr()
    value, checks = report(capsys)
    assert {row["id"]: row["state"] for row in value["plugins"] if row["id"].startswith("acme-")} == {
        "acme-broken": "quarantined",
        "acme-old": "incompatible",
        "acme-typo": "invalid",
        "acme-off": "disabled",
    }
    assert run(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for plugin, words in (
        ("acme-broken", "ZeroDivisionError"),
        ("acme-old", "needs llmasos API <1"),
        ("acme-typo", "sumary"),
    ):
        (line,) = [line for line in lines if f"plugin {plugin}" in line and line.startswith("warn")]
        assert words in line
        assert "hint: " in line
    assert checks["plugin acme-off 1.0.0"]["level"] == "ok"


def test_strict_makes_warnings_count(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add("acme-old", api="<1")
    monkeypatch.setenv("LLMASOS_STRICT", "1")
    report(capsys, 3)


def test_conflicts_are_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.add("acme-one", provides=[("metric", "wer"), ("command", "doctor")])
    world.add("acme-two", provides=[("metric", "wer")])
    _, checks = report(capsys)
    assert "acme-one/wer, acme-two/wer" in checks["name metric wer"]["hint"]
    assert checks["command doctor"]["hint"] == "write `llmasos acme-one/doctor`"


@pytest.mark.parametrize(
    ("variable", "text", "file"),
    [
        ("LLMASOS_OFFLINE", "perhaps", ""),
        ("LLMASOS_OFFLINE", "0", "ofline = true"),
        ("LLMASOS_OFFLINE", "0", "offline = "),
    ],
)
def test_bad_settings_are_reported_not_raised(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variable: str,
    text: str,
    file: str,
) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.toml").write_text(file)
    monkeypatch.setenv(variable, text)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg-cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg-config"))
    _, checks = report(capsys, 4)
    assert checks["settings"]["level"] == "fail"
    assert checks["settings"]["hint"]


def test_a_damaged_list_of_disabled_plugins(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "plugins.json").write_text("{")
    _, checks = report(capsys, 4)
    assert "plugins.json" in checks["plugins"]["detail"]


def test_folders_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMASOS_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("LLMASOS_CONFIG", str(tmp_path / "file" / "config"))
    _, checks = report(capsys)
    assert checks["cache folder"]["level"] == "warn"
    assert "LLMASOS_CACHE" in checks["cache folder"]["hint"]
    assert checks["configuration folder"]["level"] == "warn"
    assert checks["plugin index"]["level"] == "warn"


def test_without_plugins(capsys: pytest.CaptureFixture[str]) -> None:
    value, _ = report(capsys, 0, "--no-plugins")
    assert value["plugins"] == []


def test_a_local_plugin_that_is_wrong(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    folder = world.local("acme-local", sumary="x")
    _, checks = report(capsys, 4, "--plugin", str(folder))
    assert "sumary" in checks["plugins"]["detail"]


# ---- probes ----

PROBE = '[[provides]]\nkind = "backend"\nname = "chip"\nsummary = "x"\nprobe = "acme_chip.here:lines"\n'


def with_probe(world: World, source: str) -> None:
    """Install a plugin with a back end whose probe is ``lines`` of a module of this source."""
    world.add("acme-chip", source="raise SystemExit('imported')")
    world.file("acme-chip", "here.py").write_text(source)
    world.promise("acme-chip", PROBE)


def test_a_plugin_says_what_it_is_on_this_machine(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    source = (
        "def lines():\n    print('noise')\n    yield 'kernels: plain'\n    yield 'because the chip\\n is old'"
    )
    with_probe(world, source)
    value, _ = report(capsys)
    found = [check for check in value["checks"] if check["what"] == "backend acme-chip/chip"]
    assert [check["detail"] for check in found] == ["kernels: plain", "because the chip is old"]
    assert {check["level"] for check in found} == {"ok"}
    assert not [name for name in sys.modules if name.startswith("acme_chip")]
    assert run(["doctor"]) == 0
    assert "ok    backend acme-chip/chip: kernels: plain" in capsys.readouterr().out
    assert run(["plugin", "disable", "acme-chip"]) == 0
    capsys.readouterr()
    assert "backend acme-chip/chip" not in report(capsys)[1]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("1 / 0", "raised ZeroDivisionError: division by zero"),
        ("def lines(): raise OSError('no such\\nlibrary')", "raised OSError: no such library"),
        ("def lines(): return 'one'", "returned a str, not lines"),
        ("def lines(): return 3", "returned a int, not lines"),
        ("import no_such_module", "raised ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1", "raised AttributeError: module 'acme_chip.here' has no attribute 'lines'"),
        ("import os; os.kill(os.getpid(), 9)", "the process ended with -9"),
        ("import os; os._exit(0)", "the process ended with 0"),
        ("def lines():\n    while True: pass\n    yield", "did not answer within 1 s"),
    ],
    ids=["import", "raises", "text", "number", "missing", "name", "killed", "exits", "hangs"],
)
def test_a_probe_that_fails_is_one_warning(
    world: World,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    problem: str,
) -> None:
    from llmasos.kernel import probe

    monkeypatch.setattr(probe, "TIMEOUT", 1.0 if "while" in source else 10.0)
    with_probe(world, source)
    value, checks = report(capsys)
    found = [check for check in value["checks"] if check["what"] == "backend acme-chip/chip"]
    assert [check["level"] for check in found] == ["warn"]
    assert problem in found[0]["detail"]
    assert "acme-chip" in found[0]["hint"]
    assert checks["plugin acme-chip 1.0.0"]["level"] == "ok"


def test_what_a_probe_says_is_cut_and_cannot_steer_the_terminal(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    with_probe(world, "def lines(): return ['\\x1b[2J' + 'x' * 10_000] * 1000")
    value, _ = report(capsys)
    found = [check["detail"] for check in value["checks"] if check["what"] == "backend acme-chip/chip"]
    assert 1 < len(found) < 50
    assert len(found[0]) < 1000
    assert run(["doctor"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_local_plugin_has_its_probe_too(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    folder = world.local("acme-chip", source="raise SystemExit('imported')")
    text = (folder / "llmasos.toml").read_text().replace("provides = []\n", "")
    (folder / "llmasos.toml").write_text(text + PROBE)
    (folder / "here.py").write_text("def lines(): return ['here']")
    _, checks = report(capsys, 0, "--plugin", str(folder))
    assert checks["backend acme-chip/chip"]["detail"] == "here"
