"""Dependency confusion: an upstream package of a local or reserved name is never chosen, whatever its version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from registries import Server
from test_index_clients import Desk
from wheelsmith import make_wheel


def test_an_upstream_package_never_replaces_a_local_one(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    """Two real servers; the second one has the first as its upstream, as a private registry has PyPI."""
    public = start_server()
    company = start_server(upstream_index=f"{public.url}/simple/")
    homes = {}
    for name in ("public", "company"):
        (tmp_path / name / "wheels").mkdir(parents=True)
        homes[name] = tmp_path / name
    mallory = Desk(public, homes["public"], public.user("mallory"), homes["public"] / "wheels")
    ours = Desk(company, homes["company"], company.user("ann"), homes["company"] / "wheels")
    # The company publishes first; the attacker then takes the same names in public, with higher versions.
    ours.twine(ours.wheel("acme-core", "1.0", "helper"), ours.wheel("llmasos-acme", "1.0", "acme-core"))
    asked_before = len(public.requests())
    mallory.twine(
        mallory.wheel("acme-core", "99.0"), mallory.wheel("llmasos-acme", "99.0"), mallory.wheel("llmasos-new", "99.0"),
        mallory.wheel("helper", "1.5"),
    )  # fmt: skip
    for installer in ("pip", "uv"):
        venv = ours.environment(installer)
        if installer == "pip":
            ours.pip(venv, "install", "--index-url", ours.index, "llmasos-acme")
            assert "No matching distribution" in ours.pip(
                venv, "install", "--index-url", ours.index, "llmasos-new", code=1
            )
        else:
            ours.uv("pip", "install", "--python", venv, "--default-index", ours.index, "llmasos-acme")
            ours.uv("pip", "install", "--python", venv, "--default-index", ours.index, "llmasos-new", code=1)
        assert ours.installed(venv) == {"acme-core": "1.0", "llmasos-acme": "1.0", "helper": "1.5"}
    mallory._seen()
    asked = [line.split(" ")[1] for line in public.requests()[asked_before:] if line.startswith("GET")]
    assert [path for path in asked if "acme" in path or "llmasos" in path] == [], "not even asked"
    assert sorted({path for path in asked if "helper" in path and path.startswith("/simple")}) == [
        "/simple/helper/"
    ]
    # And the other way round: nobody of the company takes a public name for all others by accident.
    taken = make_wheel(ours.wheels, "helper", "2.0")
    assert "exists at the upstream" in ours.twine(taken, code=1)
