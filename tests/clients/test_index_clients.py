"""The package index with the tools people have: twine, uv publish, pip, uv, and two independent readers of the API."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from registries import Server
from wheelsmith import make_wheel

pytest.importorskip("twine", reason="needs twine")
uv = pytest.importorskip("uv", reason="needs uv")

TOKEN_FREE = ("PIP_", "UV_", "TWINE_", "LLMASOS_", "HF_", "PYTHON")


@dataclass
class Desk:
    """A user's machine: an empty home, a folder of wheels, and the registry that the tools are pointed at."""

    registry: Server
    home: Path
    token: str
    wheels: Path

    def run(self, *command: str | Path, code: int = 0, **variables: str) -> str:
        """Run a tool; what it printed, on both streams."""
        environ = {k: v for k, v in os.environ.items() if not k.upper().startswith(TOKEN_FREE)}
        environ |= {
            "HOME": str(self.home),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_CACHE_DIR": str(self.home / "pip-cache"),
            "UV_NO_CONFIG": "1",
            "UV_CACHE_DIR": str(self.home / "uv-cache"),
            "UV_PYTHON_DOWNLOADS": "never",
            "NO_COLOR": "1",
            "COLUMNS": "300",
            **variables,
        }
        done = subprocess.run(
            [str(part) for part in command],
            env=environ,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        text = done.stdout + done.stderr
        assert done.returncode == code, text
        assert self.token not in text, "tokens are not printed"
        return text

    @property
    def index(self) -> str:
        return f"{self.registry.url}/simple/"

    def twine(self, *wheels: Path, code: int = 0, token: str | None = None) -> str:
        """``twine upload``; the token is in the environment."""
        return self.run(
            sys.executable, "-m", "twine", "upload", "--disable-progress-bar", "--verbose",
            "--repository-url", f"{self.registry.url}/legacy/", *wheels,
            code=code, TWINE_USERNAME="__token__", TWINE_PASSWORD=token or self.token,
        )  # fmt: skip

    def uv(self, *arguments: str | Path, code: int = 0, **variables: str) -> str:
        """uv."""
        return self.run(uv.find_uv_bin(), *arguments, code=code, **variables)

    def uv_publish(self, *arguments: str | Path, code: int = 0) -> str:
        """``uv publish``."""
        return self.uv(
            "publish",
            "--publish-url",
            f"{self.registry.url}/legacy/",
            *arguments,
            code=code,
            UV_PUBLISH_TOKEN=self.token,
        )

    def environment(self, name: str) -> Path:
        """A fresh virtual environment without pip; its folder."""
        self.uv("venv", "--quiet", "--no-project", "--python", sys.executable, self.home / name)
        return self.home / name

    def pip(self, venv: Path, *arguments: str | Path, code: int = 0) -> str:
        """pip, for another environment than its own."""
        python = venv / "bin" / "python"
        return self.run(sys.executable, "-m", "pip", "--python", python, *arguments, code=code)

    def installed(self, venv: Path) -> dict[str, str]:
        """{distribution: version}."""
        lines = self.uv("pip", "freeze", "--quiet", "--python", venv).split()
        return dict(line.split("==") for line in lines if "==" in line)

    def wheel(self, name: str, version: str, *requires: str) -> Path:
        """A wheel that requires others."""
        return make_wheel(
            self.wheels, name, version, metadata=[f"Requires-Dist: {line}" for line in requires]
        )

    def requests_of(self, work: Callable[[], object]) -> list[str]:
        """`METHOD PATH STATUS` of what a piece of work asked the registry for."""
        before = len(self._seen())
        work()
        return self._seen()[before:-1]

    def _seen(self) -> list[str]:
        """The log up to a request of our own, which is the last line once it is there."""
        mark = f"/simple/mark-{os.urandom(6).hex()}/"
        httpx2.get(self.registry.url + mark)
        for _ in range(500):
            seen = self.registry.requests()
            if any(mark in line for line in seen):
                return seen
            threading.Event().wait(0.01)
        raise AssertionError("the server's log does not show the request")


@pytest.fixture(scope="module")
def desk(registry: Server, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    home = tmp_path_factory.mktemp("home")
    wheels = home / "wheels"
    wheels.mkdir()
    return Desk(registry, home, registry.user("ann"), wheels)


@pytest.fixture(scope="module")
def published(desk: Desk) -> Desk:
    """An application and three versions of the library that it needs; 2.0 is too new for it, 1.2 wants another Python."""
    newest = make_wheel(desk.wheels, "acme-lib", "1.2", metadata=["Requires-Python: >=3.99"])
    libraries = [desk.wheel("acme-lib", version) for version in ("1.0", "1.1", "2.0")]
    desk.twine(desk.wheel("acme-app", "1.0", "acme-lib>=1,<2"), *libraries, newest)
    return desk


def check_resolution_first(seen: Sequence[str], wheels: set[str]) -> None:
    """No wheel is fetched before the last page and the last metadata; only what is installed is fetched."""
    gets = [line.split(" ")[1] for line in seen]
    fetched = [index for index, path in enumerate(gets) if path.endswith(".whl")]
    asked = [index for index, path in enumerate(gets) if path.endswith((".metadata", "/"))]
    assert {gets[index].rpartition("/")[2] for index in fetched} == wheels
    assert any(path.endswith(".metadata") for path in gets)
    assert max(asked) < min(fetched), seen


def test_steps_1_to_3_twine_uploads_once(desk: Desk) -> None:
    wheels = [desk.wheel("once", version) for version in ("1.0", "1.1", "2.0")]
    assert (
        len(
            [
                line
                for line in desk.requests_of(lambda: desk.twine(*wheels))
                if line.startswith("POST /legacy/ 200")
            ]
        )
        == 3
    )
    again = desk.requests_of(lambda: desk.twine(*wheels))
    assert again == ["POST /legacy/ 200"] * 3, "the same files again are no error"
    changed = make_wheel(desk.wheels, "once", "1.0", files={"once/__init__.py": "changed = True\n"})
    assert "File already exists" in desk.twine(changed, code=1)


def test_step_4_uv_publishes_and_skips(desk: Desk) -> None:
    wheel = desk.wheel("twice", "1.0")
    desk.uv_publish(wheel)
    assert desk.requests_of(lambda: desk.uv_publish(wheel)) == ["POST /legacy/ 200"]
    skipped = desk.requests_of(lambda: desk.uv_publish("--check-url", desk.index, wheel))
    assert skipped == ["GET /simple/twice/ 200"], "not sent at all"
    changed = make_wheel(desk.wheels, "twice", "1.0", files={"twice/__init__.py": "changed = True\n"})
    assert "already exists" in desk.uv_publish(changed, code=2)
    assert "do not match" in desk.uv_publish("--check-url", desk.index, changed, code=2)


def test_step_5_pip_installs_after_resolving(published: Desk) -> None:
    venv = published.environment("pip")
    seen = published.requests_of(
        lambda: published.pip(venv, "install", "--index-url", published.index, "acme-app")
    )
    check_resolution_first(seen, {"acme_app-1.0-py3-none-any.whl", "acme_lib-1.1-py3-none-any.whl"})
    assert published.installed(venv) == {"acme-app": "1.0", "acme-lib": "1.1"}


def test_step_6_uv_installs_after_resolving(published: Desk) -> None:
    venv = published.environment("uv")
    options = ("--python", venv, "--default-index", published.index)
    seen = published.requests_of(lambda: published.uv("pip", "install", *options, "acme-app"))
    check_resolution_first(seen, {"acme_app-1.0-py3-none-any.whl", "acme_lib-1.1-py3-none-any.whl"})
    assert published.installed(venv) == {"acme-app": "1.0", "acme-lib": "1.1"}


def test_step_7_a_lock_installs_by_pip_and_by_uv(published: Desk) -> None:
    lock = published.home / "pylock.toml"
    wanted = published.home / "wanted.in"
    wanted.write_text("acme-app\n", encoding="utf-8")
    published.uv(
        "pip",
        "compile",
        "--quiet",
        "--format",
        "pylock.toml",
        "--default-index",
        published.index,
        "-o",
        lock,
        wanted,
    )
    assert f"{published.registry.url}/files/" in lock.read_text(encoding="utf-8")
    by_uv, by_pip = published.environment("lock-uv"), published.environment("lock-pip")
    published.uv("pip", "sync", "--python", by_uv, "--preview-features", "pylock", lock)
    published.pip(by_pip, "install", "--no-index", "-r", lock)
    assert published.installed(by_uv) == published.installed(by_pip) == {"acme-app": "1.0", "acme-lib": "1.1"}


def test_step_8_a_yanked_version_is_left_out_unless_pinned(desk: Desk) -> None:
    desk.twine(desk.wheel("shaky", "1.0"))
    answer = httpx2.post(
        f"{desk.registry.url}/v1/plugins/shaky/versions/1.0/yank",
        json={"reason": "loses data"},
        headers={"Authorization": f"Bearer {desk.token}"},
    )
    assert answer.status_code == 200
    venv = desk.environment("yank")
    index = ("--index-url", desk.index)
    assert "No matching distribution" in desk.pip(venv, "install", *index, "shaky>=1", code=1)
    assert "yanked" in desk.uv(
        "pip", "install", "--python", venv, "--default-index", desk.index, "shaky>=1", code=1
    )
    said = desk.pip(venv, "install", *index, "shaky==1.0")
    assert "loses data" in said
    desk.uv("pip", "uninstall", "--python", venv, "shaky")
    assert "loses data" in desk.uv(
        "pip", "install", "--python", venv, "--default-index", desk.index, "shaky==1.0"
    )


def test_step_9_upload_times_are_obeyed(published: Desk) -> None:
    venv = published.environment("times")
    asked = ("--index-url", published.index, "--no-deps", "--dry-run", "acme-lib")
    told = published.pip(venv, "install", "--uploaded-prior-to", "2020-01-01T00:00:00Z", *asked, code=1)
    assert "No matching distribution" in told
    assert "acme-lib-1" in published.pip(
        venv, "install", "--uploaded-prior-to", "2999-01-01T00:00:00Z", *asked[:-1], "acme-lib<2"
    )
    index = ("--default-index", published.index, "--python", str(venv), "--dry-run")
    published.uv("pip", "install", *index, "--exclude-newer", "2020-01-01T00:00:00Z", "acme-lib", code=1)
    published.uv("pip", "install", *index, "--exclude-newer", "2999-01-01T00:00:00Z", "acme-lib")


def test_step_10_a_quarantined_project_cannot_be_installed(desk: Desk) -> None:
    desk.twine(desk.wheel("sick", "1.0"))
    answer = httpx2.patch(
        f"{desk.registry.url}/v1/plugins/sick",
        json={"status": "quarantined", "status_reason": "malware"},
        headers={"Authorization": f"Bearer {desk.registry.admin_token}"},
    )
    assert answer.status_code == 200
    venv = desk.environment("sick")
    desk.pip(venv, "install", "--index-url", desk.index, "sick==1.0", code=1)
    desk.uv("pip", "install", "--python", venv, "--default-index", desk.index, "sick==1.0", code=1)
    assert desk.installed(venv) == {}


def test_wrong_tokens_are_refused_in_words(desk: Desk) -> None:
    wheel = desk.wheel("nobody", "1.0")
    assert "401" in desk.twine(wheel, code=1, token="llma_wrong")
    reader = desk.registry.user("reader", ("read",))
    assert "403" in desk.twine(wheel, code=1, token=reader)
    assert "scope `publish`" in desk.twine(wheel, code=1, token=reader)


def test_private_projects_install_with_a_token_in_the_address(desk: Desk) -> None:
    headers = {"Authorization": f"Bearer {desk.token}"}
    made = httpx2.post(
        f"{desk.registry.url}/v1/plugins", json={"name": "hidden", "private": True}, headers=headers
    )
    assert made.status_code == 201
    desk.twine(desk.wheel("hidden", "1.0"))
    venv = desk.environment("private")
    desk.pip(venv, "install", "--index-url", desk.index, "hidden", code=1)
    address = desk.index.replace("://", f"://__token__:{desk.token}@")
    # The token is in the address of this request only: it is not in those of the files that the page names.
    desk.uv("pip", "install", "--python", venv, "hidden", UV_DEFAULT_INDEX=address)
    assert desk.installed(venv) == {"hidden": "1.0"}


def test_an_independent_reader_of_pages(published: Desk) -> None:
    pypi_simple = pytest.importorskip("pypi_simple")
    for accept in (pypi_simple.ACCEPT_JSON_ONLY, pypi_simple.ACCEPT_HTML_ONLY):
        with pypi_simple.PyPISimple(published.index, accept=accept) as client:
            page = client.get_project_page("acme-lib")
            assert {package.version for package in page.packages} == {"1.0", "1.1", "1.2", "2.0"}
            package = next(item for item in page.packages if item.version == "1.1")
            assert package.has_metadata
            assert page.repository_version == "1.4"
            metadata = client.get_package_metadata(package)
            assert "Name: acme-lib" in metadata
            target = published.home / package.filename
            client.download_package(package, target, verify=True)
            assert target.read_bytes() == (published.wheels / package.filename).read_bytes()
            assert "acme-lib" in client.get_index_page().projects


def test_another_independent_reader_of_pages(published: Desk) -> None:
    pytest.importorskip("simple_repository")
    code = """
import asyncio, sys, httpx
from simple_repository.components.http import HttpRepository
async def main():
    async with httpx.AsyncClient() as client:
        source = HttpRepository(sys.argv[1], http_client=client)
        page = await source.get_project_page("acme-lib")
        names = await source.get_project_list()
        print(page.meta.api_version, sorted(f.filename for f in page.files), page.versions)
        print([f.dist_info_metadata for f in page.files][0], [f.size for f in page.files][0], "acme-app" in {p.normalized_name for p in names.projects})
asyncio.run(main())
"""
    said = published.run(sys.executable, "-c", code, published.index)
    assert "acme_lib-1.1-py3-none-any.whl" in said
    assert "sha256" in said
    assert "True" in said
