"""A server that is killed while four clients publish to it loses nothing that it acknowledged, and shows nothing half.

The clients are twine and huggingface_hub, one of them with Xet and one without; see publishing_client. After every kill the
server is started again on its data, and everything that it then shows is fetched and compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from registries import Server

from llmasos_registry.server.db.engine import Database

SCRIPT = Path(__file__).with_name("publishing_client.py")
SEED = 20_261_122
CLIENTS = (("wheels", "kill-one", {}), ("wheels", "kill-two", {}), ("models", "kill-xet", {}))
CLIENTS += (("models", "kill-lfs", {"HF_HUB_DISABLE_XET": "1"}),)
#: Files above this go through LFS or Xet, as large ones do in a server with default settings.
MAX_INLINE = 10_000


class Publishers:
    """The four clients and what they were told is published."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.stop_file = folder / "stop"
        self.ledgers = [folder / f"{name}.jsonl" for _, name, _ in CLIENTS]
        self.children = []
        for (kind, name, extra), ledger in zip(CLIENTS, self.ledgers, strict=True):
            environ = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | extra
            environ |= {"HF_HOME": str(folder / f"home-{name}"), "HF_HUB_DISABLE_TELEMETRY": "1"}
            command = [sys.executable, str(SCRIPT), kind, server.url, name, str(ledger), str(self.stop_file)]
            log = ledger.with_suffix(".log").open("wb")
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environ)
            log.close()
            assert child.stdin is not None
            child.stdin.write(f"{server.admin_token}\n".encode())
            child.stdin.close()
            self.children.append(child)

    def acknowledged(self) -> list[dict[str, Any]]:
        """Everything so far; a line being written is left for the next time."""
        found = []
        for ledger in self.ledgers:
            lines = ledger.read_text(encoding="utf-8").split("\n") if ledger.exists() else [""]
            found += [json.loads(line) for line in lines[:-1]]
        return found

    def check_alive(self) -> None:
        """Fail with the words of a client that gave up."""
        for child, ledger in zip(self.children, self.ledgers, strict=True):
            if child.poll() not in (None, 0):
                pytest.fail(f"{ledger.stem} gave up:\n{ledger.with_suffix('.log').read_text()[-3000:]}")

    def finish(self) -> None:
        """Let each end the publication it is at."""
        self.stop_file.touch()
        for child in self.children:
            child.wait(150)
        self.check_alive()


@contextmanager
def publishers(server: Server, folder: Path) -> Iterator[Publishers]:
    """Run the clients; none survives the test."""
    started = Publishers(server, folder)
    try:
        yield started
    finally:
        for child in started.children:
            child.kill()
            child.wait()


class Inspector:
    """Fetches what the server shows and compares. What was found right once and cannot change is not fetched again until
    ``forget``."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {server.admin_token}"
        self.known: set[tuple[str, ...]] = set()

    def forget(self) -> None:
        """Look at everything again."""
        self.known.clear()

    def get(self, path: str, **options: Any) -> requests.Response:
        url = path if path.startswith("http") else self.server.url + path
        answer = self.session.get(url, timeout=60, **options)
        assert answer.status_code == 200, f"GET {url}: {answer.status_code} {answer.text[:300]}"
        return answer

    def sha256(self, path: str) -> str:
        return hashlib.sha256(self.get(path).content).hexdigest()

    def unchanged(self, facts: str, other: str, **options: Any) -> tuple[Any, Any]:
        """What ``other`` and ``facts`` say, at a moment when no client published between the two questions."""
        before = self.get(facts).json()
        for _ in range(200):
            said = self.get(other, **options).json()
            after = self.get(facts).json()
            if after["serial"] == before["serial"]:
                return said, after
            before = after
        pytest.fail(f"{facts} never stood still")

    def visible(self, entries: list[dict[str, Any]]) -> None:
        """Whatever is visible is whole, acknowledged or not."""
        for name in {entry["name"] for entry in entries if entry["kind"] == "wheel"}:
            self.project(name)
        for name in {entry["name"] for entry in entries if entry["kind"] == "model"}:
            self.model(name)

    def project(self, name: str) -> None:
        accept = {"Accept": "application/vnd.pypi.simple.v1+json"}
        page, plugin = self.unchanged(f"/v1/plugins/{name}", f"/simple/{name}/", headers=accept)
        listed = {file["filename"]: file["hashes"]["sha256"] for file in page["files"]}
        shown = {
            file["filename"]: file["sha256"] for version in plugin["versions"] for file in version["files"]
        }
        assert listed == shown, f"the page of {name} and its data differ"
        assert sorted(page["versions"]) == sorted(version["version"] for version in plugin["versions"])
        for version in plugin["versions"]:
            assert version["files"], f"{name} {version['version']} has no file"
            assert version["manifest"]["id"] == name
        for file in page["files"]:
            if ("wheel", file["filename"]) in self.known:
                continue
            url = requests.compat.urljoin(f"{self.server.url}/simple/{name}/", file["url"])
            assert self.sha256(url) == file["hashes"]["sha256"], file["filename"]
            assert self.sha256(url + ".metadata") == file["core-metadata"]["sha256"], file["filename"]
            self.known.add(("wheel", file["filename"]))

    def model(self, name: str) -> None:
        refs, model = self.unchanged(f"/v1/models/{name}", f"/api/models/{name}/refs")
        (main,) = [ref["targetCommit"] for ref in refs["branches"] if ref["name"] == "main"]
        releases = model["releases"]
        tags = {ref["name"]: ref["targetCommit"] for ref in refs["tags"]}
        assert tags == {release["version"]: release["commit"] for release in releases}
        for commit in {main, *tags.values()}:
            if ("commit", commit) not in self.known:
                self.commit(name, commit)
                self.known.add(("commit", commit))

    def commit(self, name: str, commit: str) -> None:
        tree = self.get(f"/api/models/{name}/tree/{commit}?recursive=true").json()
        for file in (entry for entry in tree if entry["type"] == "file"):
            content = self.get(f"/{name}/resolve/{commit}/{file['path']}").content
            assert len(content) == file["size"], f"{name} {commit} {file['path']}"
            if "lfs" in file:
                assert hashlib.sha256(content).hexdigest() == file["lfs"]["oid"], file["path"]
            else:
                blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
                assert blob == file["oid"], file["path"]

    def all_acknowledged(self, entries: list[dict[str, Any]]) -> None:
        """What clients were told is published is there, as it was published."""
        wheels = {entry["name"] for entry in entries if entry["kind"] == "wheel"}
        plugins = {name: self.get(f"/v1/plugins/{name}").json()["versions"] for name in wheels}
        for entry in entries:
            self.acknowledged(entry, plugins.get(entry["name"], []))

    def acknowledged(self, entry: dict[str, Any], versions: list[dict[str, Any]]) -> None:
        key = ("acknowledged", entry["name"], entry["version"])
        if key in self.known:
            return
        if entry["kind"] == "wheel":
            files = [file for v in versions if v["version"] == entry["version"] for file in v["files"]]
            assert [(f["filename"], f["sha256"]) for f in files] == [(entry["file"], entry["sha256"])]
            assert self.sha256(files[0]["url"]) == entry["sha256"]
        else:
            found = self.get(f"/v1/models/{entry['name']}/resolve?version=%3D%3D{entry['version']}").json()
            assert (found["commit"], found["sealed"]) == (entry["commit"], True)
            files = {f["path"]: f["sha256"] for f in found["files"] if f["path"] != ".gitattributes"}
            assert files == entry["files"]
            for path, sha256 in files.items():
                assert self.sha256(f"/{entry['name']}/resolve/{entry['version']}/{path}") == sha256
        self.known.add(key)


def publish_and_kill(start_server: Callable[..., Server], folder: Path, kills: int) -> dict[str, Any]:
    """The whole story; what it came to."""
    started = time.monotonic()
    rng = random.Random(SEED)
    server = start_server(max_inline=MAX_INLINE, rate_api=0, rate_files=0)
    inspector = Inspector(server)
    restarts: list[float] = []
    garbage = 0
    with publishers(server, folder) as clients:
        until = time.monotonic() + 90
        while len({entry["name"] for entry in clients.acknowledged()}) < len(CLIENTS):
            clients.check_alive()
            assert time.monotonic() < until, "no client published anything"
            time.sleep(0.05)
        for _ in range(kills):
            time.sleep(rng.uniform(0.01, 0.6))
            server.kill()
            half_written = set((server.data / "tmp").iterdir())
            garbage += len(half_written)
            promised = clients.acknowledged()
            begin = time.monotonic()
            server.start(server.port)
            restarts.append(time.monotonic() - begin)
            assert not half_written & set((server.data / "tmp").iterdir()), "what was half-written is removed"
            inspector.all_acknowledged(rng.sample(promised, min(20, len(promised))))
            inspector.visible(promised)
            clients.check_alive()
        clients.finish()
    entries = clients.acknowledged()
    server.kill()
    server.start(server.port)
    operator(server, "scrub")
    operator(server, "gc")
    inspector.forget()
    inspector.visible(entries)
    inspector.all_acknowledged(entries)
    server.stop()
    with sqlite3.connect(Database.file_of(server.data)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    return {
        "publications": len(entries),
        "repeated": sum(entry["tries"] > 1 for entry in entries),
        "clients": sorted({entry["name"] for entry in entries if entry["tries"] > 1}),
        "garbage": garbage,
        "seconds": round(time.monotonic() - started),
        "restart": f"median {statistics.median(restarts):.2f} s, longest {max(restarts):.2f} s",
    }


def operator(server: Server, *arguments: str) -> str:
    """An operator's command on the running server's folder."""
    command = [sys.executable, "-m", "llmasos", "registry", *arguments, "--data", str(server.data)]
    environ = {**os.environ, "LLMASOS_REGISTRY_GC_GRACE": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_few_kills_lose_nothing(start_server: Callable[..., Server], tmp_path: Path) -> None:
    found = publish_and_kill(start_server, tmp_path, kills=5)
    print(found)
    assert found["publications"] >= 8


@pytest.mark.slow
def test_fifty_kills_lose_nothing(start_server: Callable[..., Server], tmp_path: Path) -> None:
    found = publish_and_kill(start_server, tmp_path, kills=50)
    print(found)
    assert found["publications"] >= 100
    assert found["repeated"] >= 10, "the kills did not hit publications"
    assert found["garbage"] > 0, "no kill hit a file that was being written"
    assert len(found["clients"]) == len(CLIENTS), "every client had to repeat something"
