"""``llmasos plugin``: works whatever is installed, and imports plugins only to check them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llmasos.cli.main import run
from llmasos.testing.sources import plugin_source

if TYPE_CHECKING:
    from world import World

METRIC = [("metric", "wer")]


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    monkeypatch.setenv("LLMASOS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LLMASOS_CONFIG", str(tmp_path / "config"))


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code = run(["plugin", *arguments, "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def row(capsys: pytest.CaptureFixture[str], plugin_id: str) -> Any:
    return next(item for item in as_json(capsys, "list")["plugins"] if item["id"] == plugin_id)


def test_list_has_one_line_each_and_imports_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.add("acme-good", provides=METRIC, source="raise SystemExit('imported')")
    world.add("acme-old", api="<1")
    world.add("acme-typo", sumary="x")
    assert run(["plugin", "list"]) == 0
    captured = capsys.readouterr()
    lines = {line.split()[0]: line for line in captured.out.splitlines() if line.startswith("acme-")}
    assert set(lines) == {"acme-good", "acme-old", "acme-typo"}
    assert "1.0.0" in lines["acme-good"]
    assert "enabled" in lines["acme-good"]
    assert "incompatible" in lines["acme-old"]
    assert "needs llmasos API <1" in lines["acme-old"]
    assert "invalid" in lines["acme-typo"]
    assert "did you mean `summary`" in lines["acme-typo"]
    assert captured.err == ""
    assert "acme_good.plugin" not in sys.modules


def test_list_as_json(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.add("acme-good", provides=[*METRIC, ("task", "t")], hooks={"eval_failed": "pass"})
    assert row(capsys, "acme-good") == {
        "id": "acme-good",
        "version": "1.0.0",
        "distribution": "acme-good",
        "state": "enabled",
        "reason": None,
        "summary": "Throw-away plugin acme-good",
        "hooks": ["eval_failed"],
        "provides": {"metric": ["wer"], "task": ["t"]},
    }


def test_list_without_plugins(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--no-plugins", "plugin", "list"]) == 0
    assert capsys.readouterr().out == "no plugins (switched off by --no-plugins)\n"
    assert run(["--no-plugins", "plugin", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"plugins": []}


def test_info(world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    world.add(
        "acme-good",
        provides=METRIC,
        source="raise SystemExit('imported')",
        settings={"cache_mb": {"type": "int", "default": 5, "help": "Memory"}},
        permissions={"network": ["models.example"], "subprocess": True},
    )
    monkeypatch.setenv("LLMASOS_ACME_GOOD_CACHE_MB", "7")
    assert run(["plugin", "info", "acme-good"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "acme-good 1.0.0",
        "Apache-2.0",
        "models.example",
        "acme-good/wer",
        "ok: needs llmasos API",
        "LLMASOS_ACME_GOOD_CACHE_MB",
    ):
        assert words in shown
    assert any(line.split()[:2] == ["cache_mb", "7"] for line in shown.splitlines())
    value = as_json(capsys, "info", "acme-good")
    assert value["manifest"]["id"] == "acme-good"
    assert value["path"] == str(world.site / "acme_good")
    assert value["failure"] is None


def test_info_of_something_unknown(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.add("acme-good")
    assert run(["plugin", "info", "acme-god"]) == 5
    assert "error: no plugin `acme-god` is installed, did you mean `acme-good`?" in capsys.readouterr().err


def test_info_of_an_invalid_plugin(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.add("acme-typo", sumary="x")
    assert run(["plugin", "info", "acme-typo"]) == 0
    assert "invalid: " in capsys.readouterr().out


def test_info_shows_why_it_is_in_quarantine_and_retry_forgets(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.add("acme-bad", provides=[("command", "broken")], source="1 / 0")
    assert run(["broken"]) == 3
    capsys.readouterr()
    assert row(capsys, "acme-bad")["state"] == "quarantined"
    assert run(["plugin", "info", "acme-bad"]) == 0
    shown = capsys.readouterr().out
    assert "quarantined: ZeroDivisionError: division by zero" in shown
    assert "Traceback (most recent call last)" in shown
    assert run(["plugin", "enable", "acme-bad"]) == 0
    assert "stays in quarantine; add --retry" in capsys.readouterr().err
    assert run(["plugin", "enable", "--retry", "acme-bad"]) == 0
    capsys.readouterr()
    assert row(capsys, "acme-bad")["state"] == "enabled"


def test_disable_and_enable(world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    world.add("acme-good", provides=[("command", "hello")], source="raise SystemExit('imported')")
    assert run(["plugin", "disable", "acme-good"]) == 0
    assert capsys.readouterr().out == "disabled acme-good\n"
    assert row(capsys, "acme-good")["state"] == "disabled"
    assert json.loads((tmp_path / "config" / "plugins.json").read_text()) == {"disabled": ["acme-good"]}
    assert run(["--help"]) == 0
    assert "hello" not in capsys.readouterr().out
    assert run(["plugin", "enable", "acme-good"]) == 0
    assert capsys.readouterr().out == "enabled acme-good\n"
    assert row(capsys, "acme-good")["state"] == "enabled"
    assert run(["plugin", "disable", "acme-god"]) == 5


def test_an_uninstalled_plugin_can_be_taken_off_the_list(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "plugins.json").write_text('{"disabled": ["gone"]}')
    assert run(["plugin", "enable", "gone"]) == 0
    assert json.loads((tmp_path / "config" / "plugins.json").read_text()) == {"disabled": []}


def test_a_configuration_folder_that_cannot_be_written(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world.add("acme-good")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "plugins.json").write_text('{"disabled": []}')
    from llmasos.kernel import atomic

    def refuse(path: Path, data: bytes) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(atomic, "write_atomic", refuse)
    assert run(["plugin", "disable", "acme-good"]) == 2
    assert "hint: set LLMASOS_CONFIG" in capsys.readouterr().err


# ---- check ----


def findings(capsys: pytest.CaptureFixture[str], plugin: str, code: int) -> dict[str, Any]:
    assert run(["plugin", "check", plugin, "--json"]) == code
    value = json.loads(capsys.readouterr().out)
    assert value["passed"] == (code == 0)
    return {item["rule"]: item for item in value["findings"] if not item["ok"]}


def test_a_good_plugin_passes(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.add("acme-good", provides=METRIC, hooks={"eval_failed": "pass"})
    assert run(["plugin", "check", "acme-good"]) == 0
    shown = capsys.readouterr().out
    assert "FAIL" not in shown
    assert shown.endswith("acme-good 1.0.0 passes\n")
    assert "acme_good.plugin" not in sys.modules


@pytest.mark.parametrize(
    ("source", "rule", "observation"),
    [
        ("1 / 0", "loads", "importing acme_bad.plugin failed: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "loads", "SystemExit: 3"),
        ("import os; os._exit(7)", "loads", "the process ended with 7"),
        ("import yaml\n" + plugin_source(METRIC), "light import", "imports yaml"),
        ("print('hi')\n" + plugin_source(METRIC), "silence", "prints 'hi'"),
        (
            "import os; os.environ['ACME'] = '1'\n" + plugin_source(METRIC),
            "process state",
            "changes os.environ",
        ),
        ("import sys; sys.path.append('/x')\n" + plugin_source(METRIC), "process state", "changes sys.path"),
        (
            "import warnings; warnings.simplefilter('error')\n" + plugin_source(METRIC),
            "process state",
            "changes warning filters",
        ),
        ("", "hooks", "promises `metrics` but acme_bad.plugin does not implement llmasos_metrics"),
        (plugin_source([*METRIC, ("metric", "cer")]), "hooks", "delivered but not promised"),
        (
            plugin_source(METRIC).replace("llmasos_metrics", "llmasos_metrcs"),
            "hooks",
            "did you mean `llmasos_metrics`",
        ),
        (
            plugin_source(METRIC).replace("json:dumps", "acme_bad.lost:x"),
            "factory",
            "no module lost in acme_bad",
        ),
        (plugin_source(METRIC).replace("json:dumps", "json:dmups"), "factory", "no dmups in"),
        (
            "import time\nend = time.process_time() + 0.6\nwhile time.process_time() < end: pass\n"
            + plugin_source(METRIC),
            "import time",
            "ms of CPU time (at most 500)",
        ),
    ],
)
def test_a_bad_guest_is_told_rule_observation_and_fix(
    world: World, capsys: pytest.CaptureFixture[str], source: str, rule: str, observation: str
) -> None:
    world.add("acme-bad", provides=METRIC, source=source)
    found = findings(capsys, "acme-bad", 3)
    assert set(found) == {rule}
    assert observation in found[rule]["observation"]
    assert found[rule]["fix"]
    assert run(["plugin", "check", "acme-bad"]) == 3
    shown = capsys.readouterr().out
    assert f"FAIL  {rule}: " in shown
    assert "      fix: " in shown
    # Checking does not put anything in quarantine.
    assert row(capsys, "acme-bad")["state"] == "enabled"


def test_an_invalid_or_incompatible_plugin_is_not_imported(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    trap = f"open({str(world.root / 'imported')!r}, 'w')"
    world.add("acme-typo", sumary="x", source=trap)
    world.add("acme-old", api="<1", source=trap)
    assert set(findings(capsys, "acme-typo", 3)) == {"manifest"}
    assert set(findings(capsys, "acme-old", 3)) == {"requirements"}
    assert not (world.root / "imported").exists()


def test_a_local_plugin_cannot_be_switched(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(world.local("acme-local", provides=METRIC))
    for verb in ("disable", "enable"):
        assert run(["--plugin", folder, "plugin", verb, "acme-local"]) == 2
        assert "hint: leave out --plugin" in capsys.readouterr().err
    assert not (world.config / "plugins.json").exists()


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("class Wer:\n    pass\n", None),
        ("try:\n    from math import tau as Wer\nexcept ImportError:\n    Wer = None\n", None),
        ("from math import *\n", None),
        ("def __getattr__(name):\n    return 1\n", None),
        ("class Werr:\n    pass\n", "did you mean `Werr`?"),
        ("class Wer:\npass\n", "words.py, line 2: expected an indented block"),
    ],
)
def test_what_a_factory_names_is_looked_for_without_importing_it(
    world: World, capsys: pytest.CaptureFixture[str], code: str, problem: str | None
) -> None:
    folder = world.local(
        "acme-local",
        provides=METRIC,
        source=plugin_source(METRIC).replace("json:dumps", "acme_local.words:Wer"),
    )
    (folder / "words.py").write_text(f"{code}open({str(world.root / 'imported')!r}, 'w')\n")
    found = findings(capsys, str(folder), 0 if problem is None else 3)
    assert set(found) == (set() if problem is None else {"factory"})
    assert problem is None or problem in found["factory"]["observation"]
    assert not (world.root / "imported").exists()


def test_a_folder_can_be_checked(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    folder = world.local("acme-local", provides=METRIC)
    assert findings(capsys, str(folder), 0) == {}
    (folder / "llmasos.toml").write_text("id = ")
    assert set(findings(capsys, str(folder), 3)) == {"manifest"}


def test_a_task_file_that_is_missing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    source = plugin_source([("task", "quiz")]).replace("json:dumps", "acme_quiz:quiz.yaml")
    world.add("acme-quiz", provides=[("task", "quiz")], source=source)
    assert "no file quiz.yaml in acme_quiz" in findings(capsys, "acme-quiz", 3)["factory"]["observation"]
    world.file("acme-quiz", "quiz.yaml").write_text("")
    assert findings(capsys, "acme-quiz", 0) == {}


@pytest.mark.parametrize(
    ("name", "problem"), [("lines", None), ("line", "no line in"), ("", "no module nowhere")]
)
def test_what_a_probe_names_is_looked_for(
    world: World, capsys: pytest.CaptureFixture[str], name: str, problem: str | None
) -> None:
    folder = world.local("acme-chip", provides=METRIC)
    (folder / "here.py").write_text("def lines(): return 1 / 0\n")
    probe = f"acme_chip.here:{name}" if name else "acme_chip.nowhere:lines"
    with open(folder / "llmasos.toml", "a") as file:
        file.write(f'probe = "{probe}"\n')
    found = findings(capsys, str(folder), 0 if problem is None else 3)
    assert problem is None or problem in found["factory"]["observation"]
