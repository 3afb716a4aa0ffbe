"""Uploads as Hub clients make them, byte by byte: commit lines, LFS batches, Xet xorbs and shards."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import lz4.frame

from llmasos_registry.server.hub.xet_format import chunk_hash, hash_text, xorb_hash

NDJSON = {"Content-Type": "application/x-ndjson"}


def sha256(data: bytes) -> str:
    """Hex sha256."""
    return hashlib.sha256(data).hexdigest()


def make_repo(app: Any, token: str, name: str, *, private: bool = False, kind: str = "model") -> None:
    """`owner/name`, empty."""
    owner, _, short = name.partition("/")
    body = {"name": short, "organization": owner, "type": kind, "private": private}
    answer = app.post("/api/repos/create", token, json=body)
    assert answer.status_code == 200, answer.text


def line(key: str, **value: Any) -> bytes:
    """One line of a commit."""
    return json.dumps({"key": key, "value": value}).encode() + b"\n"


def header(summary: str = "a commit", **value: Any) -> bytes:
    """The first line of a commit."""
    return line("header", **{"summary": summary, "description": ""} | value)


def file(path: str, data: bytes) -> bytes:
    """A file inside the commit, keys in the order of the clients: the content comes first."""
    return line("file", content=base64.b64encode(data).decode(), path=path, encoding="base64")


def large(path: str, data: bytes, **value: Any) -> bytes:
    """A file uploaded before."""
    return line("lfsFile", **{"path": path, "algo": "sha256", "oid": sha256(data), "size": len(data)} | value)


def commit(app: Any, token: str, name: str, *lines: bytes, kind: str = "models", branch: str = "main") -> Any:
    """The answer to a commit of these lines; a header is put before them when there is none."""
    if not lines or b'"header"' not in lines[0]:
        lines = (header(), *lines)
    path = f"/api/{kind}/{name}/commit/{branch}"
    return app.post(path, token, content=b"".join(lines), headers=NDJSON)


def paths(app: Any, token: str, name: str, kind: str = "models") -> dict[str, Any]:
    """The files of the head of main, by path."""
    answer = app.get(f"/api/{kind}/{name}/tree/main?recursive=true", token)
    assert answer.status_code == 200, answer.text
    return {entry["path"]: entry for entry in answer.json() if entry["type"] == "file"}


def batch(app: Any, token: str | None, name: str, *objects: bytes, operation: str = "upload") -> Any:
    """The answer to an LFS batch for these contents."""
    body = {
        "operation": operation,
        "transfers": ["basic", "multipart"],
        "objects": [{"oid": sha256(data), "size": len(data)} for data in objects],
        "hash_algo": "sha256",
    }
    return app.post(f"/{name}.git/info/lfs/objects/batch", token, json=body)


def actions(app: Any, token: str, name: str, data: bytes) -> dict[str, Any]:
    """What a batch wants done for one object; empty when it is there."""
    answer = batch(app, token, name, data)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["objects"][0].get("actions", {})
    return found


def local(address: str) -> str:
    """An address without its host, for the application in this process."""
    parts = urlsplit(address)
    return f"{parts.path}?{parts.query}"


def put(app: Any, address: str, data: bytes) -> Any:
    """PUT as clients do: without a token."""
    return app.call("PUT", local(address), content=data)


def send(app: Any, token: str, name: str, data: bytes) -> None:
    """An LFS upload of one object, in one piece."""
    found = actions(app, token, name, data)
    if found:
        answer = put(app, found["upload"]["href"], data)
        assert answer.status_code == 200, answer.text


def grouped(data: bytes) -> bytes:
    """Bytes grouped by their position in four."""
    return b"".join(data[position::4] for position in range(4))


def chunk(data: bytes, scheme: int = 0) -> bytes:
    """One chunk of a xorb: plain, LZ4, or grouped and LZ4."""
    packed = data if scheme == 0 else lz4.frame.compress(grouped(data) if scheme == 2 else data)
    return raw_chunk(packed, scheme, len(data))


def raw_chunk(packed: bytes, scheme: int, length: int, version: int = 0) -> bytes:
    """A chunk whose header may lie."""
    sizes = (len(packed).to_bytes(3, "little"), length.to_bytes(3, "little"))
    return bytes([version]) + sizes[0] + bytes([scheme]) + sizes[1] + packed


def xorb_name(chunks: Sequence[bytes]) -> str:
    """The hash of a xorb with these chunks."""
    return hash_text(xorb_hash([chunk_hash(c) for c in chunks], [len(c) for c in chunks]))


def raw_hash(text: str) -> bytes:
    """The bytes of a hash in text."""
    return struct.pack("<4Q", *(int(text[i : i + 16], 16) for i in range(0, 64, 16)))


#: A term: (xorb, first chunk, stop, bytes).
Term = tuple[str, int, int, int]
SHARD_TAG = b"HFRepoMetaData\0" + bytes.fromhex("556967456a7b815783a5bdd95ccdd14aa9")
BOOKEND = b"\xff" * 32 + bytes(16)


def shard(*files: tuple[str, Sequence[Term]], end: bytes = BOOKEND * 2) -> bytes:
    """A shard as clients send it: (claimed sha256, terms) for each file, with verification entries, without a footer."""
    out = [SHARD_TAG, struct.pack("<QQ", 2, 0)]
    for claimed, terms in files:
        out += [bytes(32), struct.pack("<II8x", 1 << 31 | 1 << 30, len(terms))]
        for name, first, stop, length in terms:
            out += [raw_hash(name), struct.pack("<IIII", 0, length, first, stop)]
        out += [bytes(48) * len(terms), raw_hash(claimed), bytes(16)]
    return b"".join([*out, end])


class Xet:
    """The Xet service as one account's client sees it, for one repository."""

    def __init__(self, app: Any, token: str, name: str) -> None:
        self.app = app
        answer = app.get(f"/api/models/{name}/xet-write-token/main", token)
        assert answer.status_code == 200, answer.text
        self.token = answer.json()["accessToken"]
        self.path = urlsplit(answer.json()["casUrl"]).path

    def post(self, path: str, body: bytes, token: str | None = None) -> Any:
        """POST below the service's address."""
        return self.app.post(self.path + path, token or self.token, content=body)

    def xorb(self, chunks: Sequence[bytes], scheme: int = 0) -> str:
        """Send a xorb; its name."""
        name = xorb_name(chunks)
        answer = self.post(f"/v1/xorbs/default/{name}", b"".join(chunk(c, scheme) for c in chunks))
        assert answer.status_code == 200, answer.text
        return name

    def shard(self, *files: tuple[str, Sequence[Term]]) -> Any:
        """The answer to a shard of these files."""
        return self.post("/v1/shards", shard(*files))
