"""A small server with the routes of the Hugging Face Hub that fetching a model needs, on the loopback address."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Commits (newest last) with their files; ``branches`` maps names to commits. Large files are served as LFS files are."""

    commits: Mapping[str, Mapping[str, bytes]]
    branches: Mapping[str, str]
    tags: tuple[str, ...] = ("license:apache-2.0",)
    gated: bool = False

    def commit(self, revision: str) -> str | None:
        """The commit a branch or a commit id names."""
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class HubServer:
    """Repositories by name, and what was asked for."""

    repositories: dict[str, Repository]
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""

    def fetched(self) -> set[str]:
        """Names of the files whose content was asked for."""
        return {
            path.split("/resolve/")[1].split("/", 1)[1]
            for verb, path, _ in self.requests
            if verb == "GET" and "/resolve/" in path
        }


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".gguf", ".bin"))


def _handler(server: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, code: object = None, size: object = None) -> None:
            """Silent."""

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            server.requests.append((self.command, path, self.headers.get("authorization")))
            for name, repository in server.repositories.items():
                if path.startswith(f"/api/models/{name}/") or path == f"/api/models/{name}":
                    self._api(
                        name, repository, path.removeprefix(f"/api/models/{name}").strip("/").split("/")
                    )
                    return
                if path.startswith(f"/{name}/resolve/"):
                    self._resolve(repository, path.removeprefix(f"/{name}/resolve/"))
                    return
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def _api(self, name: str, repository: Repository, parts: list[str]) -> None:
            if repository.gated and self.headers.get("authorization") != "Bearer hf_secret":
                self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
                return
            if parts[0] == "refs":
                branches = [
                    {"name": b, "ref": f"refs/heads/{b}", "targetCommit": c}
                    for b, c in repository.branches.items()
                ]
                self._json({"branches": branches, "converts": [], "tags": []})
                return
            commit = repository.commit("/".join(parts[1:2]) or "main")
            if commit is None:
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return
            files = repository.commits[commit]
            if parts[0] == "tree":
                self._json([self._entry(path, content) for path, content in files.items()])
                return
            siblings = [{"rfilename": path} for path in files]
            self._json(
                {
                    "id": name,
                    "sha": commit,
                    "siblings": siblings,
                    "tags": list(repository.tags),
                    "private": False,
                }
            )

        def _entry(self, path: str, content: bytes) -> dict[str, object]:
            entry: dict[str, object] = {
                "type": "file",
                "path": path,
                "size": len(content),
                "oid": git_id(content),
            }
            if is_large(path):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
            return entry

        def _resolve(self, repository: Repository, rest: str) -> None:
            revision, _, path = rest.partition("/")
            commit = repository.commit(revision)
            content = repository.commits.get(commit or "", {}).get(path)
            if content is None:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            etag = hashlib.sha256(content).hexdigest() if is_large(path) else git_id(content)
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": str(commit), "Accept-Ranges": "bytes"}
            if is_large(path):
                headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
            self._send(200, content, headers)

        def _json(self, value: object) -> None:
            self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    return Handler


@contextmanager
def hub_server(repositories: dict[str, Repository]) -> Iterator[HubServer]:
    """Serve while the block runs."""
    hub = HubServer(repositories)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
