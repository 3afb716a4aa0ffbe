"""What `hf upload` sends to a server, and what it does not send twice: Xet with its memory, LFS in parts."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from llmasos_registry.server.db.engine import utcnow
from llmasos_registry.server.db.tables_store import xet_accounts
from llmasos_registry.server.hub.xet_index import drop_idle

pytest.importorskip("hf_xet", reason="the client sends Xet only with it")

HF = Path(sys.executable).parent / "hf"


class Client:
    """The `hf` command of this environment, against one server, with a home of its own."""

    def __init__(self, server: Any, user: str, home: Path, *, xet: bool = True) -> None:
        self.server, self.user = server, user
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "LLMASOS_"))} | {
            "HF_ENDPOINT": server.url,
            "HF_TOKEN": server.user(user),
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_XET": "0" if xet else "1",
        }

    def run(self, *words: str) -> list[str]:
        """Run a command; `METHOD PATH STATUS` of the requests that it made."""
        before = len(self.server.requests())
        done = subprocess.run(
            [HF, *words], env=self.environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        made: list[str] = self.server.requests()[before:]
        return made

    def upload(self, repo: str, folder: Path) -> list[str]:
        """Upload a folder into a repository of the user."""
        return self.run("upload", f"{self.user}/{repo}", str(folder), ".")

    def check(self, repo: str, folder: Path, target: Path) -> None:
        """Download it, let the client verify the checksums, and compare the bytes."""
        self.run("download", f"{self.user}/{repo}", "--local-dir", str(target))
        self.run("cache", "verify", f"{self.user}/{repo}", "--local-dir", str(target))
        for path in folder.rglob("*"):
            if path.is_file():
                assert (target / path.relative_to(folder)).read_bytes() == path.read_bytes(), path


def sent(requests: list[str], part: str) -> int:
    """How many requests with this in their path were answered with 200."""
    return sum(part in line and line.endswith(" 200") for line in requests)


def peak_memory(server: Any) -> int:
    """The most memory that the server process has held, in bytes."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) << 10


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Any]) -> Iterator[Any]:
    server = start_server(max_inline=100_000, multipart_chunk=1 << 20)
    yield server
    server.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Text, floats (which Xet groups by bytes), noise, a sparse file."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    noise = random.Random(str(tmp_path))
    (folder / "README.md").write_text("# A model\n")
    (folder / "sub" / "config.json").write_text("{}")
    floats = b"".join(noise.randbytes(3) + b"\x3f" for _ in range(200_000))
    (folder / "floats.bin").write_bytes(floats)
    (folder / "noise.safetensors").write_bytes(noise.randbytes(3_500_000))
    (folder / "zeros.bin").write_bytes(noise.randbytes(16) + bytes(1_000_001))
    (folder / "long.txt").write_bytes(b"a line of text\n" * 20_000 + noise.randbytes(8).hex().encode())
    return folder


def test_xet_uploads_and_what_the_client_remembers(server: Any, folder: Path, tmp_path: Path) -> None:
    ann = Client(server, "ann", tmp_path / "home")
    first = ann.upload("one", folder)
    assert sent(first, "/v1/xorbs/") == 1
    assert sent(first, "/v1/shards") == 1
    assert sent(first, "/commit/main") == 1
    assert sent(first, "info/lfs") == 0
    assert sent(ann.upload("one", folder), "/commit/main") == 0
    # To another repository nothing is sent but the list of what its files are made of.
    second = ann.upload("two", folder)
    assert (sent(second, "/v1/xorbs/"), sent(second, "/commit/main")) == (0, 1)
    ann.check("two", folder, tmp_path / "two")
    # A changed file is made of old blobs and a new xorb.
    path = folder / "noise.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:1_000_000] + b"something else" * 1000 + data[1_000_000:] + data[:500_000])
    third = ann.upload("two", folder)
    assert (sent(third, "/v1/xorbs/"), sent(third, "/commit/main")) == (1, 1)
    ann.check("two", folder, tmp_path / "changed")
    assert not os.listdir(server.data / "staging" / "xet")


def test_a_memory_that_is_no_longer_true_never_fails_an_upload(
    server: Any, folder: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    carol = Client(server, "carol", home)
    carol.upload("one", folder)
    # Another account with the same home: what carol sent is not his to name, and his client does not try.
    dave = Client(server, "dave", home)
    assert sent(dave.upload("one", folder), "/v1/xorbs/") == 1
    dave.check("one", folder, tmp_path / "dave")
    # The sweep drops what idle accounts sent; the blobs may be gone too.
    with server.db.write() as conn:
        conn.execute(xet_accounts.update().values(active_at=utcnow() - timedelta(days=2)))
        drop_idle(conn, utcnow() - timedelta(days=1))
    assert sent(carol.upload("two", folder), "/v1/xorbs/") == 1
    carol.check("two", folder, tmp_path / "carol")
    # Sent and not yet built into files, then lost.
    assert sent(carol.upload("three", folder), "/v1/xorbs/") == 0


def test_a_large_xet_upload_takes_little_memory(server: Any, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    with open(folder / "large.safetensors", "wb") as file:
        for _ in range(150):
            file.write(os.urandom(1 << 20))
    erin = Client(server, "erin", tmp_path / "home")
    before = peak_memory(server)
    assert sent(erin.upload("large", folder), "/v1/xorbs/") == 3
    assert peak_memory(server) - before < 100 << 20
    erin.check("large", folder, tmp_path / "back")


def test_lfs_uploads_in_parts(server: Any, folder: Path, tmp_path: Path) -> None:
    frank = Client(server, "frank", tmp_path / "home", xet=False)
    first = frank.upload("one", folder)
    # 3.5 MB in four parts; zeros, floats and the long text are smaller than a part.
    assert sent(first, "PUT /api/lfs/parts") == 4
    assert sent(first, "PUT /api/lfs/put") == 3
    assert sent(first, "POST /api/lfs/complete") == 1
    assert sent(first, "POST /api/lfs/verify") == 4
    assert sent(first, "/api/xet/") == 0
    assert not any("claim" in line for line in server.log)
    assert sent(frank.upload("one", folder), "/commit/main") == 0
    second = frank.upload("two", folder)
    assert sent(second, "PUT ") == 0
    frank.check("two", folder, tmp_path / "two")
    # Somebody else who cannot read frank's files has to send them.
    grace = Client(server, "grace", tmp_path / "grace", xet=False)
    frank.run("repos", "create", "frank/secret", "--private")
    (folder / "noise.safetensors").write_bytes(os.urandom(10_000))
    frank.upload("secret", folder)
    assert sent(grace.upload("one", folder), "PUT /api/lfs/put") == 1
    grace.check("one", folder, tmp_path / "graces")
