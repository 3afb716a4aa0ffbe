"""The pytest plugin as a plugin author meets it: fixtures, the environment guard and --llmasos-conformance."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmasos.errors import UnknownName
from llmasos.testing.isolation import NetworkBlocked, NetworkGuard, changed_variables, is_local
from llmasos.testing.tmp import PluginBuilder, environment, install_plugin, manifest, toml_text

pytest_plugins = ["pytester"]

FIXTURES = Path(__file__).parents[1] / "fixtures" / "plugins"

#: An address nobody has (RFC 5737).
NOWHERE = ("192.0.2.1", 80)

SOURCE = """\
from llmasos.api import MetricDef, hookimpl


@hookimpl
def llmasos_metrics():
    yield MetricDef(name="demo", factory="acme_demo.parts:Metric", higher_is_better=True)
"""
PROVIDES = [{"kind": "metric", "name": "demo", "summary": "A metric"}]


# ---- hub and tmp_plugin -----------------------------------------------------------------------------------------------


def test_hub_sees_builtins_and_nothing_else(
    hub: Callable[..., Any], tmp_plugin: PluginBuilder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(tmp_plugin.install(FIXTURES / "good")))
    ids = [record.id for record in hub().inventory]
    assert "llmasos-transformer" in ids
    assert "good" not in ids
    asked = hub(installed=["good"])
    assert asked.get("metric", "fixture_match").__name__ == "Match"
    assert asked.offline
    assert tmp_path in asked.cache_dir.parents


def test_hub_takes_local_plugins_and_forgets_them(hub: Callable[..., Any], tmp_plugin: PluginBuilder) -> None:
    folder = tmp_plugin(
        "acme-demo", SOURCE, files={"parts.py": "class Metric:\n    pass\n"}, provides=PROVIDES
    )
    one = hub(plugins=[folder])
    assert one.get("metric", "acme-demo/demo").__module__ == "acme_demo.parts"
    one.close()
    assert "acme_demo" not in sys.modules
    with pytest.raises(UnknownName):
        hub().get("metric", "demo")


def test_tmp_plugin_is_found_as_an_installed_distribution(tmp_plugin: PluginBuilder) -> None:
    folder = tmp_plugin("acme-demo", SOURCE, provides=PROVIDES)
    tmp_plugin.install(folder, version="3.2.1", distribution="Acme.Demo")
    done = subprocess.run(
        [sys.executable, "-m", "llmasos", "plugin", "list", "--json"],
        env=tmp_plugin.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    (row,) = [row for row in json.loads(done.stdout)["plugins"] if row["id"] == "acme-demo"]
    assert (row["version"], row["distribution"], row["state"]) == ("3.2.1", "Acme.Demo", "enabled")


def test_an_installed_distribution_has_a_complete_record(tmp_path: Path) -> None:
    from importlib.metadata import PathDistribution

    info = install_plugin(FIXTURES / "good", tmp_path, version="2.0")
    found = PathDistribution(info)
    assert found.version == "2.0"
    assert [point.value for point in found.entry_points] == ["good:llmasos.toml"]
    files = {str(path) for path in found.files or ()}
    on_disk = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == on_disk
    for path in found.files or ():
        if path.hash is not None:
            assert path.size == len(path.read_binary())


def test_toml_text_is_read_back() -> None:
    import tomllib

    table = manifest(
        "acme-demo",
        summary='quotes " and \\ and \u00e9 and \x7f',
        hooks=["eval_started"],
        provides=[{"kind": "metric", "name": "a", "summary": "x", "matches": {"files": ["*.a"]}}, *PROVIDES],
        settings={
            "cache_mb": {"type": "int", "default": 5, "help": "h"},
            "on": {"type": "bool", "default": True, "help": "h"},
        },
        requires={"python": ">=3.11"},
    )
    assert tomllib.loads(toml_text(table)) == table


def test_environment_is_free_of_the_users_settings(tmp_path: Path) -> None:
    found = environment(
        tmp_path, [tmp_path / "site"], {"LLMASOS_STRICT": "1", "PYTHONPATH": "/x", "HOME": "/h"}
    )
    assert "LLMASOS_STRICT" not in found
    assert found["PYTHONPATH"] == f"{tmp_path / 'site'}{os.pathsep}/x"
    assert found["HOME"] == "/h"


# ---- no_network -------------------------------------------------------------------------------------------------------


def test_no_network_refuses_addresses(no_network: NetworkGuard) -> None:
    with socket.socket() as one, pytest.raises(NetworkBlocked, match=r"192\.0\.2\.1"):
        one.connect(NOWHERE)
    with socket.socket() as one, pytest.raises(NetworkBlocked):
        one.connect_ex(NOWHERE)
    with socket.socket(type=socket.SOCK_DGRAM) as one, pytest.raises(NetworkBlocked):
        one.sendto(b"x", NOWHERE)
    with socket.socket(socket.AF_INET6) as one, pytest.raises(NetworkBlocked):
        one.connect(("2001:db8::1", 80, 0, 0))
    assert len(no_network.attempts) == 4


def test_no_network_refuses_names_and_says_what_to_do(no_network: NetworkGuard) -> None:
    with pytest.raises(NetworkBlocked, match="hint: "):
        urllib.request.urlopen("http://example.invalid/", timeout=1)
    assert no_network.attempts == ["example.invalid"]


def test_no_network_notes_what_was_swallowed(no_network: NetworkGuard) -> None:
    try:
        socket.create_connection(("example.invalid", 80), timeout=1)
    except Exception:
        swallowed = True
    assert swallowed
    assert no_network.attempts


def test_no_network_leaves_this_machine_alone(no_network: NetworkGuard, tmp_path: Path) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    address = f"http://localhost:{server.server_port}/there-is-no-such-file"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(address, timeout=10)
    thread.join()
    server.server_close()
    left, right = socket.socketpair()
    left.sendall(b"x")
    assert right.recv(1) == b"x"
    left.close()
    right.close()
    assert no_network.attempts == []


def test_no_network_is_undone() -> None:
    from llmasos.testing.isolation import blocked_network

    before = (socket.getaddrinfo, socket.socket.connect, set(vars(socket.socket)))
    with blocked_network():
        assert socket.getaddrinfo is not before[0]
    assert (socket.getaddrinfo, socket.socket.connect, set(vars(socket.socket))) == before


@pytest.mark.parametrize(
    ("address", "local"),
    [
        (("127.0.0.1", 1), True),
        (("127.8.8.8", 1), True),
        (("::1", 1, 0, 0), True),
        (("localhost", 1), True),
        ("/run/socket", True),
        (("0.0.0.0", 1), False),
        (("10.0.0.1", 1), False),
        (("localhost.example.org", 1), False),
        ((), False),
    ],
)
def test_what_is_local(address: object, local: bool) -> None:
    assert is_local(address) is local


# ---- import_budget ----------------------------------------------------------------------------------------------------


def test_import_budget_gives_the_modules(import_budget: Callable[..., list[str]]) -> None:
    assert "sqlite3" in import_budget("import sqlite3")
    assert "sqlite3" not in import_budget("pass", forbid=["sqlite3"], budget=500)
    with pytest.raises(AssertionError, match="imports sqlite3"):
        import_budget("import sqlite3.dbapi2", forbid=["sqlite3"])
    with pytest.raises(AssertionError, match="more than its budget of 3"):
        import_budget("pass", budget=3)
    with pytest.raises(AssertionError, match=r"ended with 1\nboom"):
        import_budget("raise SystemExit('boom')")


def test_import_budget_runs_the_command_line(import_budget: Callable[..., list[str]]) -> None:
    import_budget(["plugin", "list"])  # fills the index
    modules = import_budget(["plugin", "list"], forbid=["torch", "pydantic", "llmasos_transformer"])
    assert "llmasos.cli.plugin" in modules


def test_the_pytest_plugin_itself_is_cheap(import_budget: Callable[..., list[str]]) -> None:
    """It is imported by every pytest in the environment, whatever is tested."""
    alone = import_budget("import pytest")
    modules = import_budget(
        "import llmasos.testing.pytest_plugin",
        forbid=["torch", "pydantic", "click", "numpy", "yaml", "llmasos.kernel", "llmasos.contracts"],
    )
    assert len(set(modules) - set(alone)) <= 3


# ---- the guard on environment variables -------------------------------------------------------------------------------


LEAKY = """
import os
import pytest


def test_leaks():
    os.environ["ACME_LEAK"] = "secret-value"


def test_is_clean():
    assert "ACME_LEAK" not in os.environ


def test_removes():
    del os.environ["ACME_KEEP"]


def test_uses_monkeypatch(monkeypatch):
    monkeypatch.setenv("ACME_LEAK", "1")
    monkeypatch.delenv("ACME_KEEP")


def test_allowed():
    os.environ["ACME_ALLOWED"] = "1"
"""


def test_env_guard(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_KEEP", "1")
    pytester.makeini("[pytest]\nllmasos_env_guard = true\nllmasos_env_allow = ACME_ALLOWED")
    pytester.makepyfile(LEAKY)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=5, errors=2)
    result.stdout.fnmatch_lines(
        [
            "*the test leaves environment variables behind: ACME_LEAK was set",
            "hint: use monkeypatch.setenv*",
            "*the test leaves environment variables behind: ACME_KEEP was removed",
        ]
    )
    assert "secret-value" not in "\n".join(line for line in result.outlines if "behind" in line)


def test_env_guard_is_off_by_default(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_KEEP", "1")
    pytester.makepyfile("import os\n\n\ndef test_leaks():\n    os.environ['ACME_LEAK'] = '1'\n")
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_changed_variables() -> None:
    before = {"A": "1", "B": "1", "C": "1", "PYTEST_CURRENT_TEST": "x"}
    after = {"A": "2", "C": "1", "D": "1", "E": "1"}
    assert changed_variables(before, after, ["E"]) == ["A was changed", "B was removed", "D was set"]


# ---- --llmasos-conformance --------------------------------------------------------------------------------------------


@pytest.fixture
def author(pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A plugin author's repository: nothing in it but the plugin."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    pytester.makeini("[pytest]")
    return pytester


def test_conformance_of_a_folder(author: pytest.Pytester) -> None:
    import shutil

    shutil.copytree(FIXTURES / "good", author.path / "good")
    (author.path / "sample").mkdir()
    (author.path / "sample" / "fixture_bytes.txt").touch()
    result = author.runpytest_subprocess(
        "-v", "--llmasos-conformance", "good", "--llmasos-sample", "sample", "-p", "no:cacheprovider"
    )
    outcomes = result.parseoutcomes()
    assert outcomes.get("failed", 0) == 0, result.stdout.str()
    assert outcomes["passed"] >= 50
    result.stdout.fnmatch_lines(
        [
            "*good::plugin.manifest PASSED*",
            "*good::tokenizer good/fixture-bytes on sample: tokenizer.round_trip PASSED*",
            "*good::backend good/fixture: backend.devices PASSED*",
            "*good::op good/fixture.linear cpu float32: op.definition PASSED*",
            "*good::op good/fixture.rms_norm cpu bfloat16: op.reference PASSED*",
        ]
    )


def test_conformance_of_an_installed_plugin_from_settings(author: pytest.Pytester, tmp_path: Path) -> None:
    install_plugin(FIXTURES / "heavy_import", tmp_path / "site")
    author.makeini("[pytest]\nllmasos_conformance = heavy-import")
    author.makepyfile("def test_own():\n    pass\n")
    result = author.runpytest_subprocess("-p", "no:cacheprovider", "-k", "own or import")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "BROKEN  plugin.light_import",
            "  rule: importing the module pulls in nothing heavy",
            "  seen: *torch*",
            "  fix:  import heavy packages where they are used",
        ]
    )
    assert "Traceback" not in result.stdout.str()


def test_conformance_without_a_sample_says_so(author: pytest.Pytester, tmp_path: Path) -> None:
    result = author.runpytest_subprocess(
        "-rs", "--llmasos-conformance", str(FIXTURES / "good"), "-k", "sample", "-p", "no:cacheprovider"
    )
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*no sample was given: give --llmasos-sample PATH or set llmasos_samples*"])


def test_conformance_of_a_plugin_that_cannot_be_loaded(author: pytest.Pytester) -> None:
    result = author.runpytest_subprocess(
        "--llmasos-conformance",
        str(FIXTURES / "raises_at_import"),
        "-p",
        "no:cacheprovider",
        "-k",
        "loads or hooks",
    )
    result.assert_outcomes(failed=1, skipped=1)
    result.stdout.fnmatch_lines(["BROKEN  plugin.loads", "*written for another machine*"])
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--llmasos-conformance", "there-is-no-such-plugin"],
            "no plugin `there-is-no-such-plugin` is installed",
        ),
        (["--llmasos-conformance", "./nowhere"], "is not a folder"),
        (["--llmasos-conformance", str(FIXTURES / "good"), "--llmasos-sample", "nowhere"], "does not exist"),
    ],
)
def test_conformance_of_nothing_is_a_usage_error(
    author: pytest.Pytester, arguments: list[str], says: str
) -> None:
    result = author.runpytest_subprocess(*arguments, "-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert says in result.stderr.str()
