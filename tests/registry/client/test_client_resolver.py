"""Which versions are chosen, from what, and what is said when nothing fits. The registry is a table here; nothing else is."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from llmasos.errors import UnknownName, UsageError
from llmasos_registry.client.catalogue import RegistryCatalogue, best_wheel, read_project
from llmasos_registry.client.connection import RegistryError, RegistryNotFound
from llmasos_registry.client.environment import Environment, Installed
from llmasos_registry.client.resolver import RequirementsConflict, Solution, resolve, wish

ORIGIN = "http://registry.example"


class Table:
    """The registry's answers, by name; counts the questions."""

    url = ORIGIN

    def __init__(self, projects: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        self.projects = projects
        self.asked: list[str] = []

    def get(self, path: str) -> Any:
        name = path.removeprefix("/v1/plugins/")
        self.asked.append(name)
        if name not in self.projects:
            raise RegistryNotFound(f"no project {name}")
        return {"name": name, "owner": "acme", "serial": 1, "versions": list(self.projects[name])}


def version(
    text: str,
    *requires: str,
    name: str = "acme",
    api: str = ">=1.0,<2",
    manifest: Mapping[str, Any] | None = None,
    plugin: bool = True,
    tag: str = "py3-none-any",
    **fields: Any,
) -> dict[str, Any]:
    filename = f"{name.replace('-', '_')}-{text}-{tag}.whl"
    return {
        "version": text,
        "requires_dist": list(requires),
        "manifest": {"id": name, "api": api, **(manifest or {})} if plugin else None,
        "files": [{"filename": filename, "url": f"/files/{filename}", "sha256": "0" * 64, "size": 1}],
        **fields,
    }


def environment(**installed: str | tuple[str, Sequence[str], bool]) -> Environment:
    found = {}
    for key, value in {"llmasos": "0.1.0", "torch": "2.13.0+cpu", **installed}.items():
        name = key.replace("_", "-")
        number, requires, plugin = (value, (), False) if isinstance(value, str) else value
        found[name] = Installed(
            name,
            number,
            tuple(map(Requirement, requires)),
            (name,) if plugin else (),
            None,
            importlib.metadata.PathDistribution(Path("nowhere")),
        )
    return Environment("python", found, Path("site"))


def solve(
    projects: Mapping[str, Sequence[Mapping[str, Any]]],
    *lines: str,
    here: Environment | None = None,
    upgrade: Sequence[str] = (),
) -> Solution:
    table = Table(projects)
    return resolve(
        [wish(line, "you") for line in lines],
        here or environment(),
        RegistryCatalogue(table),  # type: ignore[arg-type]
        upgrade=upgrade,
    )


def chosen(solution: Solution) -> dict[str, str]:
    return {name: str(one.version) for name, one in solution.plugins.items()}


THREE = {"acme": [version("1.0"), version("1.1"), version("2.0rc1")]}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("acme", "1.1"),
        ("Acme", "1.1"),
        ("acme<1.1", "1.0"),
        ("acme==1.0", "1.0"),
        ("acme>=2.0rc1", "2.0rc1"),
        ("acme==2.0rc1", "2.0rc1"),
    ],
)
def test_the_newest_that_fits(line: str, expected: str) -> None:
    assert chosen(solve(THREE, line)) == {"acme": expected}


def test_yanked_versions_are_taken_only_by_name() -> None:
    projects = {"acme": [version("1.0"), version("1.1", yanked=True, yanked_reason="broken")]}
    assert chosen(solve(projects, "acme")) == {"acme": "1.0"}
    pinned = solve(projects, "acme==1.1")
    assert chosen(pinned) == {"acme": "1.1"}
    assert pinned.warnings == ("acme 1.1 was yanked: broken",)
    with pytest.raises(RequirementsConflict, match=r"1\.1 \(yanked\), 1\.0"):
        solve(projects, "acme>1.0")


def test_a_plugin_that_needs_another_plugin_backtracks_to_versions_that_agree() -> None:
    projects = {
        "acme": [version("1.0", "base>=1"), version("1.1", "base>=2"), version("1.2", "base>=3")],
        "base": [
            version("1.5", name="base"),
            version("2.0", name="base"),
            version("3.0", name="base", api=">=2"),
        ],
        "other": [version("1.0", "base<2", name="other")],
    }
    assert chosen(solve(projects, "acme")) == {"acme": "1.1", "base": "2.0"}
    assert chosen(solve(projects, "acme", "other")) == {"acme": "1.0", "base": "1.5", "other": "1.0"}


def test_an_installed_version_stays_unless_an_upgrade_is_asked_for() -> None:
    here = environment(acme=("1.0", (), True))
    table = Table(THREE)
    solution = resolve([wish("acme", "you")], here, RegistryCatalogue(table))  # type: ignore[arg-type]
    assert solution.plugins["acme"].installed
    assert table.asked == []  # nothing is asked about what stays
    upgraded = solve(THREE, "acme", here=here, upgrade=["acme"])
    assert chosen(upgraded) == {"acme": "1.1"}
    assert upgraded.plugins["acme"].file is not None


def test_an_installed_plugin_is_not_broken_by_another() -> None:
    projects = {
        "acme": [version("1.0", "base<2"), version("2.0", "base>=2")],
        "base": [version("1.0", name="base"), version("2.0", name="base")],
    }
    here = environment(base=("1.0", (), True), mine=("1.0", ["base<2"], True))
    assert chosen(solve(projects, "acme", here=here)) == {"acme": "1.0", "base": "1.0", "mine": "1.0"}
    with pytest.raises(RequirementsConflict) as caught:
        solve(projects, "acme==2.0", here=here)
    assert "acme 2.0 requires base>=2" in caught.value.message
    assert "mine 1.0 requires base<2" in caught.value.message
    assert "base installed is 1.0" in caught.value.message


@pytest.mark.parametrize(
    ("one", "sentence", "fact"),
    [
        (version("1.0", api=">=2"), "acme 1.0 requires llmasos API >=2", "this kernel has API 1.0"),
        (
            version("1.0", manifest={"requires": {"torch": "<2"}}),
            "acme 1.0 requires torch<2",
            "torch installed is 2.13.0+cpu, and is never changed as a side effect",
        ),
        (
            version("1.0", "torch>=3"),
            "acme 1.0 requires torch>=3",
            "torch installed is 2.13.0+cpu, and is never changed as a side effect",
        ),
        (
            version("1.0", "nvidia-cublas-cu12==12.1.3.1"),
            "acme 1.0 requires nvidia-cublas-cu12==12.1.3.1",
            "nvidia-cublas-cu12 is not installed",
        ),
        (version("1.0", "llmasos>=9"), "acme 1.0 requires llmasos>=9", "llmasos installed is 0.1.0"),
        (version("1.0", requires_python=">=4"), "acme 1.0 requires Python >=4", "this is Python 3."),
        (
            version("1.0", manifest={"requires": {"python": "<3"}}),
            "acme 1.0 requires Python <3",
            "this is Python 3.",
        ),
        (version("1.0", tag="cp27-cp27m-win32"), "you requires acme", "1.0 (no wheel for this machine)"),
    ],
)
def test_what_does_not_fit_this_machine_is_explained(one: dict[str, Any], sentence: str, fact: str) -> None:
    with pytest.raises(RequirementsConflict) as caught:
        solve({"acme": [one]}, "acme")
    assert sentence in caught.value.message
    assert fact in caught.value.message
    assert caught.value.hint
    assert int(caught.value.exit_code) == 3


def test_every_version_that_was_tried_is_in_the_explanation() -> None:
    projects = {"acme": [version("1.2", api=">=2"), version("1.1", "torch<2"), version("1.0", "base>=9")]}
    projects["base"] = [version("1.0", name="base")]
    with pytest.raises(RequirementsConflict) as caught:
        solve(projects, "acme")
    for part in (
        "acme 1.2 requires llmasos API >=2",
        "acme 1.1 requires torch<2",
        "acme 1.0 requires base>=9",
    ):
        assert part in caught.value.message


def test_a_model_and_the_user_disagree() -> None:
    table = Table({"acme": [version("2.0"), version("1.0")]})
    with pytest.raises(RequirementsConflict) as caught:
        resolve(
            [wish("acme>=2", "model org/m 1.0"), wish("acme<2", "your command")],
            environment(),
            RegistryCatalogue(table),  # type: ignore[arg-type]
        )
    assert "model org/m 1.0 requires acme>=2" in caught.value.message
    assert "your command requires acme<2" in caught.value.message
    assert f"{ORIGIN} has 2.0, 1.0" in caught.value.message


def test_extras_add_their_requirements() -> None:
    gpu = "base>=1; extra == 'gpu'"
    projects = {
        "acme": [version("1.0", gpu, "lib>=1", "fast>=2; extra == 'gpu'")],
        "base": [version("1.0", name="base")],
    }
    plain, with_gpu = solve(projects, "acme"), solve(projects, "acme[gpu]")
    assert (chosen(plain), plain.libraries) == ({"acme": "1.0"}, ("lib>=1",))
    assert chosen(with_gpu) == {"acme": "1.0", "base": "1.0"}
    assert set(with_gpu.libraries) == {"lib>=1", "fast>=2"}


def test_libraries_are_left_to_the_installer_and_facts_to_nobody() -> None:
    one = version(
        "1.0",
        "click>=8",
        "numpy>=1.26",
        "torch>=2",
        "winlib; sys_platform == 'win32'",
        manifest={"requires": {"packages": ["sentencepiece>=0.2"]}},
    )
    assert solve({"acme": [one]}, "acme", here=environment(numpy="2.0")).libraries == (
        "click>=8",
        "sentencepiece>=0.2",
    )
    # numpy where there is none is a library like others.
    assert "numpy>=1.26" in solve({"acme": [one]}, "acme").libraries


def test_a_missing_device_is_a_warning() -> None:
    one = version("1.0", manifest={"requires": {"devices": ["cuda>=99.0"]}})
    (warning,) = solve({"acme": [one]}, "acme").warnings
    assert warning.startswith("acme 1.0 needs one of the devices cuda>=99.0")


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("acmee", UnknownName, f"no plugin `acmee` at {ORIGIN}"),
        ("library", UsageError, "is no plugin"),
        ("llmasos", UsageError, "does not install itself"),
        ("torch", UsageError, "chosen for the machine"),
        ("./folder", UsageError, "does not name a plugin"),
        ("acme @ https://x.example/a.whl", UsageError, "holds an address"),
        ("acme; python_version>'3'", UsageError, "holds a marker"),
        ("hidden", RequirementsConflict, "in quarantine"),
    ],
)
def test_what_cannot_be_asked_for(line: str, error: type[Exception], message: str) -> None:
    class Quarantined(Table):
        def get(self, path: str) -> Any:
            return super().get(path) | ({"status": "quarantined"} if path.endswith("hidden") else {})

    table = Quarantined(
        {
            **THREE,
            "library": [version("1.0", name="library", plugin=False)],
            "hidden": [version("1.0", name="hidden")],
        }
    )
    with pytest.raises(error, match=message):
        resolve([wish(line, "you")], environment(), RegistryCatalogue(table))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["acme/tiny", "acme/tiny@1.2", "registry://acme/tiny"])
def test_who_asks_for_a_model_here_is_told_how_to_get_it(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        wish(name, "you")
    assert refused.value.hint == f"if it is a model: llmasos model pull '{name}'"


def test_one_question_a_project() -> None:
    table = Table(
        {"acme": [version(f"1.{n}", "base", "lib") for n in range(30)], "base": [version("1.0", name="base")]}
    )
    resolve([wish("acme", "you")], environment(), RegistryCatalogue(table))  # type: ignore[arg-type]
    assert sorted(table.asked) == ["acme", "base", "lib"]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"versions": None},
        {"versions": [version("not a version")]},
        {"versions": [version("1.0", "not ~ a requirement")]},
        {
            "versions": [
                {**version("1.0"), "files": [{"filename": "../a.whl", "url": "x", "sha256": "0" * 64}]}
            ]
        },
        {"versions": [{**version("1.0"), "files": [{"filename": "a.whl", "url": "x", "sha256": "short"}]}]},
        {"owner": None, "versions": [3]},
    ],
)
def test_nonsense_from_a_registry_is_refused(change: dict[str, Any]) -> None:
    answer = {"name": "acme", "owner": "acme", "serial": 1, "versions": [version("1.0")], **change}
    with pytest.raises(RegistryError, match="nonsense about acme"):
        read_project(answer, "acme", ORIGIN)


def test_serials_are_handed_on() -> None:
    heard: list[tuple[int, str]] = []
    RegistryCatalogue(Table(THREE), lambda serial, subject: heard.append((serial, subject))).project("Acme")  # type: ignore[arg-type]
    assert heard == [(1, "plugin:acme")]


def test_the_wheel_that_suits_best() -> None:
    from packaging.tags import sys_tags

    own = next(iter(sys_tags()))
    files = (
        read_project(
            {
                "name": "acme",
                "owner": "a",
                "versions": [
                    {
                        "version": "1.0",
                        "files": [
                            {"filename": f"acme-1.0-{tag}.whl", "url": "u", "sha256": "0" * 64}
                            for tag in ("py3-none-any", str(own), "cp27-cp27m-win32")
                        ]
                        + [{"filename": "acme-1.0.tar.gz", "url": "u", "sha256": "0" * 64}],
                    }
                ],
            },
            "acme",
            ORIGIN,
        )
        .releases[0]
        .files
    )
    best = best_wheel(files)
    assert best is not None
    assert best.filename == f"acme-1.0-{own}.whl"
    assert best_wheel(files[3:]) is None


def test_the_environment_of_this_process() -> None:
    here = Environment.current()
    assert here.installed["llmasos"].plugins
    assert "llmasos" in here.facts()
    assert "llmasos" not in [one.name for one in here.plugins()]
    assert here.api == "1.0"
