"""A client that publishes one thing after another to a registry that dies now and then; started by test_kill.

    python publishing_client.py wheels|models URL NAME LEDGER STOP      (token on stdin)

It goes on until the file STOP appears, and tries each publication until it is acknowledged. What was acknowledged, and what
it consists of, is appended to LEDGER, one JSON object a line. What it publishes is a function of NAME and a number.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from twine.package import PackageFile
from twine.repository import Repository

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from registry_wheels import filename, wheel

#: Seconds a publication may take to be acknowledged, restarts of the server included.
PATIENCE = 120.0


def noise(name: str, number: int, size: int) -> bytes:
    """Bytes that nothing compresses, always the same."""
    return random.Random(f"{name} {number}").randbytes(size)


def weights(content: bytes) -> bytes:
    """A safetensors file of one tensor."""
    tensor = {"dtype": "U8", "shape": [len(content)], "data_offsets": [0, len(content)]}
    header = json.dumps({"tensor": tensor}).encode().ljust(120)
    return len(header).to_bytes(8, "little") + header + content


def insist(attempt: Callable[[], None], recoverable: Callable[[Exception], bool]) -> int:
    """Try until it works; how often. Raises what is not the fault of a server that went away."""
    end = time.monotonic() + PATIENCE
    tries = 0
    while True:
        tries += 1
        try:
            attempt()
            return tries
        except Exception as error:
            if not recoverable(error) or time.monotonic() > end:
                raise
            time.sleep(0.05)


def unreachable(error: Exception) -> bool:
    """Whether there was no answer, or the answer of a server that is starting or ending."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return int(status) >= 500
    module = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError | EOFError) or module in {
        "httpx",
        "httpx2",
        "httpcore",
        "urllib3",
        "requests",
        "hf_xet",
    }


class Wheels:
    """Publishes versions of one plugin with twine."""

    def __init__(self, url: str, token: str, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.url, self.token = f"{url}/legacy/", token

    def publish(self, number: int) -> dict[str, Any]:
        """One more version."""
        version = f"1.{number}.0"
        content = wheel(self.name, version)
        file = self.folder / filename(self.name, version)
        file.write_bytes(content)
        tries = insist(lambda: self._upload(file), unreachable)
        file.unlink()
        return {
            "kind": "wheel",
            "name": self.name,
            "version": version,
            "file": file.name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "tries": tries,
        }

    def _upload(self, file: Path) -> None:
        # A session of its own each time: a connection to a server that died is of no use.
        repository = Repository(self.url, "__token__", self.token, disable_progress_bar=True)
        try:
            answer = repository.upload(PackageFile.from_filename(str(file), None))
            answer.raise_for_status()
        finally:
            repository.close()


class Models:
    """Publishes versions of one model with huggingface_hub: a commit of a small and a large file, then a release."""

    def __init__(self, url: str, token: str, name: str, folder: Path) -> None:
        self.repo = f"admin/{name}"
        self.url, self.headers = url, {"Authorization": f"Bearer {token}"}
        self.api = HfApi(endpoint=url, token=token)
        insist(lambda: self._create(), self._recoverable)

    def _create(self) -> None:
        self.api.create_repo(self.repo, exist_ok=True)

    @staticmethod
    def _recoverable(error: Exception) -> bool:
        # hf_xet raises RuntimeError for all that it meets.
        return unreachable(error) or isinstance(error, RuntimeError)

    def publish(self, number: int) -> dict[str, Any]:
        """One more version."""
        version = f"1.{number}.0"
        files = {
            "README.md": f"---\nlicense: apache-2.0\n---\n# version {version}\n".encode(),
            "notes.txt": noise(self.repo, -number - 1, 700),
            "model.safetensors": weights(noise(self.repo, number, 3_000_000)),
        }
        commits: list[str] = []

        def commit() -> None:
            operations = [CommitOperationAdd(path, content) for path, content in files.items()]
            done = self.api.create_commit(self.repo, operations, commit_message=f"version {version}")
            commits.append(done.oid)

        tries = insist(commit, self._recoverable)
        insist(lambda: self._release(version, commits[-1]), unreachable)
        return {
            "kind": "model",
            "name": self.repo,
            "version": version,
            "commit": commits[-1],
            "files": {path: hashlib.sha256(content).hexdigest() for path, content in files.items()},
            "tries": tries,
        }

    def _release(self, version: str, commit: str) -> None:
        answer = requests.post(
            f"{self.url}/v1/models/{self.repo}/releases",
            json={"version": version, "revision": commit},
            headers=self.headers,
            timeout=30,
        )
        answer.raise_for_status()


def main() -> int:
    """Publish until told to stop."""
    kind, url, name, ledger, stop = sys.argv[1:]
    token = sys.stdin.readline().strip()
    folder = Path(ledger).with_suffix(".files")
    folder.mkdir()
    makers: dict[str, Callable[..., Wheels | Models]] = {"wheels": Wheels, "models": Models}
    publisher = makers[kind](url, token, name, folder)
    number = 0
    with open(ledger, "a", encoding="utf-8") as book:
        while not Path(stop).exists():
            try:
                entry = publisher.publish(number)
            except (HfHubHTTPError, requests.HTTPError) as error:
                body = error.response.text if error.response is not None else ""
                raise SystemExit(f"{name} number {number} was refused: {error} {body}") from error
            book.write(json.dumps(entry) + "\n")
            book.flush()
            number += 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
