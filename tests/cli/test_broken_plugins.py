"""Whatever plugin is installed, listing, explaining, the doctor and an unrelated evaluation work, and the broken plugin is
named in one line; naming it on purpose is an error that says which plugin, which version, why and what to do.

Real subprocesses of the real command line; the plugins are installed distributions (``llmasos.testing.tmp``).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from llmasos.testing.checkpoints import write_checkpoint
from llmasos.testing.tmp import environment, install_plugin

FIXTURES = Path(__file__).parents[1] / "fixtures" / "plugins"

TASK = """\
task: tiny_choice
dataset_path: json
dataset_kwargs: {data_files: {test: tiny_choice.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: METRIC}]
"""

DOCUMENTS = [
    {"question": "one and one is", "choices": ["two", "three"], "answer": 0},
    {"question": "water is", "choices": ["dry", "wet"], "answer": 1},
]


class Broken(NamedTuple):
    """A fixture that cannot be used: its folder, the state after it was tried, and what its line must say."""

    folder: str
    state: str
    says: str

    @property
    def id(self) -> str:
        return self.folder.replace("_", "-")


#: Known to be broken from the manifest, before anything is imported.
AT_ONCE = [
    Broken("bad_manifest", "invalid", "unknown key `sumary`"),
    Broken("missing_package", "incompatible", "llmasos-there-is-no-such-distribution"),
    Broken("old_api", "incompatible", "needs llmasos API >=0.1,<0.9"),
]
#: Found out when something first needs them; every evaluation does.
ON_LOADING = [
    Broken("default_argument", "quarantined", "a default value"),
    Broken("misspelt_hook", "quarantined", "did you mean `llmasos_eval_started`"),
    Broken("promises_more", "quarantined", "the metric `promised`"),
    Broken("raises_at_import", "quarantined", "written for another machine"),
    Broken("system_exit", "quarantined", "sys.exit(3)"),
]
#: Loads, and raises when it is asked about a model.
IN_USE = [Broken("raises_in_use", "enabled", "KeyError")]
BROKEN = [*AT_ONCE, *ON_LOADING, *IN_USE]
#: Slow, heavy or ambiguous, but nothing an unrelated evaluation needs to hear about.
FINE = ["good", "collides", "slow", "heavy_import"]


class World:
    """A temporary environment with some fixtures installed, a tiny model and a tiny task."""

    def __init__(self, root: Path, fixtures: Sequence[str]) -> None:
        self.root = root
        for name in fixtures:
            install_plugin(FIXTURES / name, root / "site")
        self.env = environment(root, [root / "site"])

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """``llmasos ...`` as the user would, never with a traceback."""
        done = subprocess.run(
            [sys.executable, "-m", "llmasos", *arguments],
            cwd=self.root,
            env={**self.env, "OMP_NUM_THREADS": "1", **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if arguments[:2] != ("plugin", "info") and "LLMASOS_STRICT" not in variables:
            assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
        return done

    def eval(self, *flags: str, metric: str = "acc", **variables: str) -> subprocess.CompletedProcess[str]:
        (self.root / "tiny_choice.yaml").write_text(TASK.replace("METRIC", metric), encoding="utf-8")
        (self.root / "tiny_choice.jsonl").write_text("\n".join(map(json.dumps, DOCUMENTS)), encoding="utf-8")
        return self.run(*flags, "eval", str(self.model), "tiny_choice.yaml", "--output", "runs", **variables)

    @property
    def model(self) -> Path:
        return self.root / "tiny-llama"


@pytest.fixture
def world(tmp_path: Path, tiny_llama: Path) -> Callable[..., World]:
    def make(*fixtures: str) -> World:
        (tmp_path / "tiny-llama").symlink_to(tiny_llama)
        return World(tmp_path, fixtures)

    return make


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("models") / "tiny-llama")


def naming(text: str, plugin_id: str) -> list[str]:
    return [line for line in text.splitlines() if plugin_id in line]


def assert_scored(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    assert any(line.startswith("tiny_choice") and "acc" in line for line in done.stdout.splitlines()), (
        done.stdout
    )


@pytest.mark.parametrize("plugin", BROKEN, ids=lambda plugin: plugin.folder)
def test_a_broken_plugin_alone(world: Callable[..., World], plugin: Broken) -> None:
    here = world(plugin.folder)

    listed = here.run("plugin", "list")
    assert listed.returncode == 0
    assert len(naming(listed.stdout, plugin.id)) == 1
    assert listed.stderr == ""

    info = here.run("plugin", "info", plugin.id)
    assert info.returncode == 0
    assert plugin.id in info.stdout

    doctor = here.run("doctor")
    assert doctor.returncode == 0, doctor.stdout
    assert len(naming(doctor.stdout, f"plugin {plugin.id} 1.0.0")) == 1

    scored = here.eval()
    assert_scored(scored)
    lines = naming(scored.stderr, plugin.id)
    assert len(lines) == 1, scored.stderr
    assert lines[0].startswith("warning: ")
    assert "1.0.0" in lines[0]
    assert plugin.says in lines[0]

    # What the evaluation found out is remembered and explained, in one line and in full.
    rows = json.loads(here.run("plugin", "list", "--json").stdout)["plugins"]
    (row,) = [row for row in rows if row["id"] == plugin.id]
    assert row["state"] == plugin.state
    if plugin.state != "enabled":
        assert plugin.says in row["reason"]
        told = naming(here.run("doctor").stdout, f"plugin {plugin.id} 1.0.0")
        assert len(told) == 1
        assert told[0].startswith("warn")
        assert "hint: " in told[0]
    if plugin.state == "quarantined":
        assert "it failed with" in here.run("plugin", "info", plugin.id).stdout


def test_all_broken_plugins_together(world: Callable[..., World]) -> None:
    here = world(*(plugin.folder for plugin in BROKEN), *FINE)
    for _ in range(2):  # before and after the evaluation has met them
        listed = here.run("plugin", "list")
        doctor = here.run("doctor")
        assert listed.returncode == doctor.returncode == 0
        for plugin in BROKEN:
            rows = [line for line in listed.stdout.splitlines() if line.split()[:1] == [plugin.id]]
            assert len(rows) == 1, listed.stdout
            assert here.run("plugin", "info", plugin.id).returncode == 0
        scored = here.eval()
        assert_scored(scored)
        warnings = [line for line in scored.stderr.splitlines() if line.startswith("warning: ")]
        for plugin in BROKEN:
            assert len(naming("\n".join(warnings), plugin.id)) == 1, scored.stderr
        assert len(warnings) == len(BROKEN), scored.stderr
    assert "provided by 2 plugins" in here.run("doctor").stdout


@pytest.mark.parametrize("folder", FINE)
def test_a_fine_plugin_is_not_talked_about(world: Callable[..., World], folder: str) -> None:
    here = world(folder)
    assert_scored(scored := here.eval())
    assert naming(scored.stderr, folder.replace("_", "-")) == []
    assert here.run("plugin", "info", folder.replace("_", "-")).returncode == 0


@pytest.mark.parametrize("plugin", [*ON_LOADING, *IN_USE], ids=lambda plugin: plugin.folder)
def test_naming_what_a_broken_plugin_offers_is_an_error(world: Callable[..., World], plugin: Broken) -> None:
    here = world(plugin.folder)
    for _ in range(2):  # the second time from quarantine
        named = here.run(f"{plugin.id}-hello")
        assert named.returncode == 3, named.stderr
        error = [line for line in named.stderr.splitlines() if line.startswith("error: ")]
        assert len(error) == 1
        assert plugin.id in error[0]
        assert "1.0.0" in error[0]
        if plugin in ON_LOADING:
            assert plugin.says in error[0]
        assert any(line.startswith("hint: ") for line in named.stderr.splitlines()), named.stderr


@pytest.mark.parametrize("plugin", AT_ONCE[1:], ids=lambda plugin: plugin.folder)
def test_naming_a_metric_of_an_incompatible_plugin_is_an_error(
    world: Callable[..., World], plugin: Broken
) -> None:
    here = world(plugin.folder)
    done = here.eval(metric=f"{plugin.id}/{plugin.id}-metric")
    assert done.returncode == 3, done.stderr
    error = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert f"{plugin.id} 1.0.0" in error[0]
    assert plugin.says in error[0]
    assert any(line.startswith("hint: ") for line in done.stderr.splitlines())


@pytest.mark.parametrize("plugin", [*AT_ONCE, *ON_LOADING], ids=lambda plugin: plugin.folder)
def test_a_broken_local_plugin_is_an_error(world: Callable[..., World], plugin: Broken) -> None:
    """``--plugin DIR`` names the plugin, so its problem ends the run instead of being skipped."""
    here = world()
    for _ in range(2):  # it is tried again each time: the user says so
        done = here.eval("--plugin", str(FIXTURES / plugin.folder))
        assert done.returncode == 3, done.stderr
        error = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(error) == 1, done.stderr
        assert plugin.folder in error[0] or plugin.id in error[0]
        assert plugin.says in error[0]
        assert any(line.startswith("hint: ") for line in done.stderr.splitlines()), done.stderr
        assert "tiny_choice" not in done.stdout


def test_a_good_local_plugin_works_without_packaging(world: Callable[..., World]) -> None:
    here = world()
    done = here.run("--plugin", str(FIXTURES / "good"), "fixture-hello")
    assert (done.returncode, done.stdout) == (0, "hello from good\n"), done.stderr
    assert_scored(here.eval("--plugin", str(FIXTURES / "good")))


def test_two_providers_of_a_name_make_it_ambiguous(world: Callable[..., World]) -> None:
    here = world("good", "collides")
    bare = here.run("fixture-hello")
    assert bare.returncode == 3
    for full in ("good/fixture-hello", "collides/fixture-hello"):
        assert full in bare.stderr
    assert here.run("collides/fixture-hello").stdout == "hello from collides\n"
    assert here.run("good/fixture-hello").stdout == "hello from good\n"
    # A task that asks for the metric by its bare name is stopped; nothing is chosen silently.
    scored = here.eval(metric="fixture_match")
    assert scored.returncode == 3, scored.stderr
    assert "good/fixture_match" in scored.stderr
    assert "collides/fixture_match" in scored.stderr
    # Without the other one the bare name means something again.
    assert here.run("plugin", "disable", "collides").returncode == 0
    assert here.run("fixture-hello").stdout == "hello from good\n"


def test_slow_plugins_are_pointed_out_when_asked(world: Callable[..., World]) -> None:
    scored = world("slow").eval("--trace-plugins")
    assert_scored(scored)
    (line,) = [line for line in naming(scored.stderr, "slow") if "SLOW" in line]
    assert "1.0.0" in line


@pytest.mark.parametrize(
    ("folder", "says"), [("heavy_import", "torch"), ("default_argument", "default value")]
)
def test_check_reports_what_a_run_forgives(world: Callable[..., World], folder: str, says: str) -> None:
    done = world(folder).run("plugin", "check", folder.replace("_", "-"))
    assert done.returncode == 3
    assert any(line.startswith("FAIL") and says in line for line in done.stdout.splitlines()), done.stdout
    assert "fix: " in done.stdout


def test_check_passes_the_good_plugin(world: Callable[..., World]) -> None:
    done = world("good").run("plugin", "check", "good")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_no_plugins_ignores_all_of_them(world: Callable[..., World], how: str) -> None:
    here = world(*(plugin.folder for plugin in BROKEN), "collides")
    flags = ["--no-plugins"] if how == "flag" else []
    variables = {} if how == "flag" else {"LLMASOS_NO_PLUGINS": "1"}
    for arguments in (["--help"], ["--version"], ["plugin", "list"], ["doctor"]):
        done = here.run(*flags, *arguments, **variables)
        assert done.returncode == 0, done.stderr
        assert not any(naming(done.stdout + done.stderr, plugin.id) for plugin in BROKEN)
    scored = here.eval(*flags, **variables)
    assert scored.returncode == 5, scored.stderr  # nothing is left that could evaluate or find a model
    assert "hint: " in scored.stderr
    assert not any(naming(scored.stderr, plugin.id) for plugin in BROKEN)
    local = here.run(*flags, "--plugin", str(FIXTURES / "good"), "fixture-hello", **variables)
    assert local.stdout == "hello from good\n", local.stderr


def test_help_works_and_imports_none_of_them(world: Callable[..., World]) -> None:
    """The fixtures that raise at import would show; so would torch."""
    here = world(*(plugin.folder for plugin in BROKEN), *FINE)
    done = here.run("--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    assert "raises-at-import-hello" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "llmasos.cli.main" in imported
    assert not imported & {"torch", *(f"{plugin.folder}.plugin" for plugin in BROKEN)}


def test_strict_makes_it_an_error(world: Callable[..., World]) -> None:
    done = world("raises_at_import").eval(LLMASOS_STRICT="1")
    assert done.returncode == 3, done.stderr
    assert "raises-at-import 1.0.0" in done.stderr


def test_disabling_ends_the_warnings(world: Callable[..., World]) -> None:
    here = world("raises_at_import", "old_api", "bad_manifest")
    done = here.run("plugin", "disable", "raises-at-import", "old-api")
    assert done.returncode == 0, done.stderr
    scored = here.eval()
    assert_scored(scored)
    assert naming(scored.stderr, "raises-at-import") == naming(scored.stderr, "old-api") == []
