"""Ways around signatures and consent: what a registry or a bundle leaves out, what it says to a terminal, what never ends."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from installing import build_wheel

from llmasos.cli.output import Output, format_table
from llmasos.config import load_config
from llmasos_registry.client.connection import Connection, RegistryError
from llmasos_registry.client.locked import Lock, LockedPackage, LockedPlugin, LockedWheel
from llmasos_registry.client.locking import plan_sync
from llmasos_registry.client.session import Workplace
from llmasos_registry.client.sources import NO_SIGNATURES, Signatures
from llmasos_registry.client.trust import TrustChanged
from llmasos_registry.client.verify import Verifier, carried_keys
from llmasos_registry.client.wheelhouse import Wheelhouse
from llmasos_registry.signatures.errors import SignatureRefused
from llmasos_registry.signatures.keys import generate, keyid, public_pem
from llmasos_registry.signatures.wheel_statement import sign_wheel

REGISTRY = "http://registry.test"


class OneWheel:
    """A source that has one wheel, and says of its publisher what it was told to say."""

    title = "the source"

    def __init__(self, path: Path, signatures: Signatures) -> None:
        self.data = path.read_bytes()
        self.said = signatures
        digest = hashlib.sha256(self.data).hexdigest()
        self.locked = LockedWheel(path.name, f"{REGISTRY}/files/{path.name}", digest, len(self.data))

    def signatures(self, project: str, filename: str) -> Signatures:
        return self.said

    @contextmanager
    def wheel(self, wheel: LockedWheel) -> Iterator[Iterator[bytes]]:
        yield iter([self.data])

    def model_file(self, *_: Any) -> Any:
        raise AssertionError("no model is asked for")


def test_a_pinned_publisher_cannot_be_left_out(tmp_path: Path) -> None:
    key = generate(tmp_path / "key.pem")
    row = {"keyid": keyid(key.public_key()), "pem": public_pem(key.public_key()), "revoked_at": None}
    house = Wheelhouse(tmp_path / "wheels", Verifier(REGISTRY, tmp_path, carried_keys({"acme": [row]})))
    path = build_wheel(tmp_path, "acme-hello")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    envelope = sign_wheel(key, path.name, digest, "acme-hello", "1.0.0", "acme")
    good = OneWheel(path, Signatures("acme", (envelope,)))
    house.fetch("acme-hello", "1.0.0", good.locked, good, good.said)
    evil = OneWheel(
        build_wheel(tmp_path / "evil", "acme-hello", files={"acme_hello/more.py": b"1"}), NO_SIGNATURES
    )
    with pytest.raises(TrustChanged, match="pinned as acme, and now it is said to have none"):
        house.fetch("acme-hello", "1.0.0", evil.locked, evil, evil.said)
    assert not house.place(evil.locked).exists()


def test_a_plan_does_not_take_a_plugin_for_a_library(tmp_path: Path) -> None:
    source = OneWheel(build_wheel(tmp_path, "acme-hello"), NO_SIGNATURES)
    workplace = _workplace(tmp_path, source)
    package = LockedPackage("acme-hello", "1.0.0", (source.locked,))
    plugin = LockedPlugin("acme-hello", "1.0.0", "acme-hello", "for a test", "acme", None, {})
    with pytest.raises(SignatureRefused, match="names no publisher"):
        plan_sync(workplace, Lock(REGISTRY, (package,), (plugin,)), exact=False)


def test_a_lock_of_another_registry_is_said_to_be_one(tmp_path: Path) -> None:
    workplace = _workplace(tmp_path, OneWheel(build_wheel(tmp_path, "acme-hello"), NO_SIGNATURES))
    assert plan_sync(workplace, Lock(REGISTRY), exact=False).warnings == ()
    workplace.registry = "http://elsewhere.test"
    (warning,) = plan_sync(workplace, Lock("http://elsewhere.test"), exact=False).warnings
    assert f"not of {REGISTRY}" in warning


def _workplace(tmp_path: Path, source: OneWheel) -> Workplace:
    config = load_config({"cache_dir": tmp_path / "cache", "config_dir": tmp_path, "registry": REGISTRY})
    return Workplace(config, REGISTRY, source, carried_keys({}))


def test_what_strangers_wrote_does_not_move_the_cursor() -> None:
    """A reason for a yank that rewrites the plan on the screen would be a way to a yes."""
    talk, data = io.StringIO(), io.StringIO()
    output = Output(stdout=data, stderr=talk)
    output.warn("yanked: \x1b[2A\x1b[2K\rall is well\x9b1m\x07\u202e")
    output.error("one\n  two\t3", "\x1b]0;title\x07")
    assert not {"\x1b", "\r", "\x9b", "\x07", "\u202e"} & set(talk.getvalue())
    assert "one\n  two\t3" in talk.getvalue()
    assert "\x1b" not in format_table(["name"], [["\x1b[31mred"]])


def test_an_endless_refusal_is_cut_off() -> None:
    class Endless(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(500)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"x" * 65536)
            except OSError:
                pass

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        with Connection(url) as connection, pytest.raises(RegistryError, match="answered 500"):
            connection.get("/v1/info")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
