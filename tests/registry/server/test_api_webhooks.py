"""Webhooks: which addresses are never reached, and that events arrive, signed, once a process leads, after failures too."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import anyio
import pytest
import sqlalchemy as sa
from registries import InProcess, Server
from registry_seeds import CARD_TEXT, seed_project, seed_repo

from llmasos_registry.server.accounts.audit import emit
from llmasos_registry.server.api import webhook_delivery
from llmasos_registry.server.api.webhook_delivery import Deliverer, wants
from llmasos_registry.server.api.webhook_target import (
    Undelivered,
    chosen_address,
    is_public,
    read_target,
    resolve,
    send,
)
from llmasos_registry.server.db.tables_api import events, webhook_deliveries
from llmasos_registry.server.failures import Failure


class Receiver:
    """An HTTP server that keeps what it gets; answers with ``status``."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(receiver.status)
                self.send_header("Location", receiver.url + "elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def trusted(make_app: Any) -> InProcess:
    """A registry on a trusted network: hooks may lead to this machine."""
    found: InProcess = make_app(webhook_private=True)
    return found


#: Forms under which an address inside can be written; the port is a canary's.
INSIDE = [
    "http://127.0.0.1:{}/",
    "http://localhost:{}/",
    "http://LOCALHOST.:{}/",
    "http://127.1:{}/",
    "http://127.0.1:{}/",
    "http://2130706433:{}/",
    "http://0x7f000001:{}/",
    "http://0x7f.0.0.1:{}/",
    "http://0177.0.0.1:{}/",
    "http://017700000001:{}/",
    "http://127.0.0.1.:{}/",
    "http://0:{}/",
    "http://0.0.0.0:{}/",
    "http://[::1]:{}/",
    "http://[0:0:0:0:0:0:0:1]:{}/",
    "http://[::]:{}/",
    "http://[::ffff:127.0.0.1]:{}/",
    "http://[::ffff:7f00:1]:{}/",
    "http://[::127.0.0.1]:{}/",
    "http://[64:ff9b::7f00:1]:{}/",
    "http://[2002:7f00:1::]:{}/",
    "http://[2001:0:7f00:1::]:{}/",
    "http://[fe80::1%25lo]:{}/",
    "http://[fe80::5efe:7f00:1]:{}/",
    "http://example.org@127.0.0.1:{}/",
    "http://127.0.0.1:{}#@example.org/",
    "http://127.0.0.1:{}\\@example.org/",
    "http://example.org\\@127.0.0.1:{}/",
    "http://user:pass@localhost:{}/",
    "http://127%2E0%2E0%2E1:{}/",
    "http://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3:{}/",
    "http://127\u30020\u30020\u30021:{}/",
    "http:///127.0.0.1:{}/",
    "http:127.0.0.1:{}/",
    "//127.0.0.1:{}/",
    "file:///etc/passwd?{}",
    "gopher://127.0.0.1:{}/",
    "ftp://127.0.0.1:{}/",
    " http://127.0.0.1:{}/",
    "http://127.0.0.1:{}/\r\nX: y",
    "http://169.254.169.254/?{}",
    "http://[fd00:ec2::254]/?{}",
    "http://10.0.0.1/?{}",
    "http://192.168.1.1/?{}",
    "http://100.64.0.1/?{}",
    "http://168.63.129.16/?{}",
    "http://224.0.0.1/?{}",
    "http://255.255.255.255/?{}",
]


@pytest.mark.parametrize("form", INSIDE)
def test_addresses_inside_are_never_reached(form: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as canary:
        canary.settimeout(0)
        url = form.format(canary.getsockname()[1])
        # Also on the ports that are open to hooks: the rule for ports is not what stops these.
        for text in (url, url.replace(f":{canary.getsockname()[1]}", "")):
            with pytest.raises((Failure, Undelivered)):
                chosen_address(read_target(text), private=False)
            with pytest.raises((Failure, Undelivered)):
                send(read_target(text), b"{}", {}, timeout=1)
        with pytest.raises(BlockingIOError):
            canary.accept()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *[(a, True) for a in ("93.184.216.34", "8.8.8.8", "2606:2800:220:1::1")],
        *[
            (a, False)
            for a in (
                *("10.1.2.3", "172.16.0.1", "192.168.0.1", "127.0.0.1", "0.1.2.3", "169.254.169.254"),
                *("100.64.0.1", "192.0.2.1", "198.18.0.1", "203.0.113.9", "224.0.0.1", "240.0.0.1"),
                *("::1", "::", "fe80::1", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1", "fe80::1%eth0"),
                *("::ffff:8.8.8.8", "2002:808:808::1", "64:ff9b::808:808", "64:ff9b:1::1", "2001::1", "x"),
            )
        ],
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    "answers",
    [["93.184.216.34", "127.0.0.1"], ["127.0.0.1"], [], ["::ffff:10.0.0.1"]],
)
def test_one_bad_address_of_a_name_is_enough(answers: list[str]) -> None:
    target = read_target("https://hooks.example.org/x")
    with pytest.raises(Undelivered):
        chosen_address(target, private=False, resolver=lambda host, port: answers)


def test_the_checked_address_is_the_one_connected_to(receiver: Receiver) -> None:
    port = int(receiver.url.rstrip("/").rpartition(":")[2])
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    target = read_target(f"http://rebinding.example:{port}/hook?a=1", private=True)
    assert send(target, b"{}", {}, private=True, resolver=rebinding) == 200
    assert asked == ["rebinding.example"]
    assert receiver.got[0][0]["host"] == f"rebinding.example:{port}"


@pytest.mark.parametrize(
    "url", ["https://example.org:22/", "http://example.org:8080/", "https://example.org:0/"]
)
def test_ports(url: str) -> None:
    with pytest.raises(Failure, match="port"):
        read_target(url)


def test_a_trusted_network_still_hides_its_link(receiver: Receiver) -> None:
    target = read_target("http://metadata.example/", private=True)
    for address in ("169.254.169.254", "0.0.0.0", "224.0.0.1"):
        with pytest.raises(Undelivered):
            chosen_address(target, private=True, resolver=lambda host, port, a=address: [a])
    assert chosen_address(read_target(receiver.url, private=True), private=True) == "127.0.0.1"


def test_names_that_do_not_resolve() -> None:
    with pytest.raises(Undelivered):
        resolve("does-not-exist.invalid", 80)


def test_a_slow_answer_is_cut() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            peer, _ = server.accept()
            with peer:
                try:
                    while True:
                        peer.sendall(b"H")
                        stop.wait(0.05)
                        if stop.is_set():
                            return
                except OSError:
                    pass

        stop = threading.Event()
        thread = threading.Thread(target=drip)
        thread.start()
        target = read_target(f"http://127.0.0.1:{server.getsockname()[1]}/", private=True)
        with pytest.raises(Undelivered, match="no answer within"):
            send(target, b"{}", {}, private=True, timeout=0.3)
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500]
)
def test_answers_that_are_none(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(answer)

        thread = threading.Thread(target=talk)
        thread.start()
        target = read_target(f"http://127.0.0.1:{server.getsockname()[1]}/", private=True)
        with pytest.raises(Undelivered):
            send(target, b"{}", {}, private=True, timeout=5)
        thread.join()


@pytest.mark.parametrize(
    ("patterns", "event", "expected"),
    [
        (["*"], "model.release", True),
        (["model.*"], "model.release", True),
        (["model.release"], "model.release", True),
        (["model.*"], "models.release", False),
        (["model.yank", "dataset.*"], "model.release", False),
        (["model.*", "x.y"], "model.branch.delete", True),
        (["model.branch.delete"], "model.branch.delete", True),
    ],
)
def test_patterns(patterns: list[str], event: str, expected: bool) -> None:
    assert wants(patterns, event) is expected


def hook(app: InProcess, token: str, url: str, *names: str, **more: Any) -> Any:
    body = {"url": url, "events": list(names) or ["*"], **more}
    answer = app.post("/v1/webhooks", token, json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def step(app: InProcess, deliverer: Deliverer | None = None) -> bool:
    return anyio.run((deliverer or Deliverer(app.registry)).step)


def test_events_arrive_signed(trusted: InProcess, receiver: Receiver) -> None:
    app, ann = trusted, trusted.user("ann")
    made = hook(app, ann, receiver.url, "model.*")
    seed_repo(app, "ann/tiny", {"README.md": CARD_TEXT})
    app.post("/v1/models/ann/tiny/releases", ann, json={"version": "1.0.0"})
    seed_project(app, "ann", "llmasos-acme", {"1.0.0": b"x"})
    app.post("/v1/plugins/llmasos-acme/versions/1.0.0/yank", ann, json={})
    step(app)
    kinds = [json.loads(body)["type"] for _, body in receiver.got]
    assert sorted(kinds) == ["model.commit", "model.release"]
    headers, body = next(item for item in receiver.got if b"model.release" in item[1])
    sent = json.loads(body)
    assert sent["data"]["subject"] == sent["data"]["id"] == "ann/tiny"
    assert sent["data"]["version"] == "1.0.0"
    # As the specification of Standard Webhooks says, computed here.
    key = base64.b64decode(made["secret"].removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert headers["content-type"] == "application/json"
    # Nothing twice.
    step(app)
    assert len(receiver.got) == 2
    deliveries = app.get(f"/v1/webhooks/{made['id']}/deliveries", ann).json()["deliveries"]
    assert {(d["event"], d["attempts"], d["status"]) for d in deliveries} == {
        ("model.commit", 1, 200),
        ("model.release", 1, 200),
    }
    assert all(d["done_at"] and d["error"] is None for d in deliveries)


def test_only_the_owner_hears(trusted: InProcess, receiver: Receiver) -> None:
    app = trusted
    ann, bob = app.user("ann"), app.user("bob")
    chief = app.user("chief", ["admin"], admin=True)
    app.org("acme", {"ann": "owner", "bob": "maintainer"})
    hook(app, bob, receiver.url + "bob")
    hook(app, ann, receiver.url + "acme", account="acme")
    hook(app, chief, receiver.url + "all", everything=True)
    seed_repo(app, "acme/secret", {"README.md": CARD_TEXT}, private=True)
    seed_repo(app, "ann/own", {"README.md": CARD_TEXT})
    seed_project(app, "bob", "llmasos-bob", {"1.0.0": b"x"})
    with app.db.write() as conn:
        emit(conn, "plugin.publish", "llmasos-bob", {"version": "1.0.0"})
        emit(conn, "advisory.publish", "x_LLMASOS-2026-1", {})
    while step(app):
        pass
    with app.db.read() as conn:
        rows = conn.execute(
            sa.select(webhook_deliveries.c.webhook_id, events.c.subject).join(
                events, events.c.id == webhook_deliveries.c.event_id
            )
        ).all()
    heard: dict[int, set[str]] = {}
    for number, subject in rows:
        heard.setdefault(number, set()).add(subject)
    assert heard == {
        1: {"llmasos-bob", "x_LLMASOS-2026-1"},
        2: {"acme/secret", "x_LLMASOS-2026-1"},
        3: {"acme/secret", "ann/own", "llmasos-bob", "x_LLMASOS-2026-1"},
    }


def test_failures_are_tried_again_with_pauses(
    trusted: InProcess, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, ann = trusted, trusted.user("ann")
    made = hook(app, ann, receiver.url)
    seed_repo(app, "ann/tiny", {"README.md": CARD_TEXT})
    import time

    now = time.time() + 1
    path = f"/v1/webhooks/{made['id']}/deliveries"
    monkeypatch.setattr(webhook_delivery, "LEASE", 0.0)
    receiver.status = 503
    for number, pause in enumerate((10, 60), 1):
        step(app, Deliverer(app.registry, clock=lambda at=now: at))
        step(app, Deliverer(app.registry, clock=lambda at=now + pause - 1: at))
        (delivery,) = app.get(path, ann).json()["deliveries"]
        assert (delivery["attempts"], delivery["status"], delivery["done_at"]) == (number, 503, None)
        now += pause
    receiver.status = 302
    step(app, Deliverer(app.registry, clock=lambda: now))
    (delivery,) = app.get(path, ann).json()["deliveries"]
    assert delivery["error"] == "redirects are not followed"
    assert len(receiver.got) == 3
    # Another process, later: nothing was lost with the first.
    receiver.status = 204
    step(app, Deliverer(app.registry, clock=lambda: now + 300))
    (delivery,) = app.get(path, ann).json()["deliveries"]
    assert (delivery["attempts"], delivery["status"], delivery["error"]) == (4, 204, None)
    assert delivery["done_at"]
    identities = {headers["webhook-id"] for headers, _ in receiver.got}
    assert len(identities) == 1


def test_it_gives_up_in_the_end(
    trusted: InProcess, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, ann = trusted, trusted.user("ann")
    made = hook(app, ann, receiver.url)
    seed_repo(app, "ann/tiny", {"README.md": CARD_TEXT})
    receiver.status = 500
    monkeypatch.setattr(webhook_delivery, "PAUSES", (0, 0))
    deliverer = Deliverer(app.registry)
    for _ in range(6):
        step(app, deliverer)
    (delivery,) = app.get(f"/v1/webhooks/{made['id']}/deliveries", ann).json()["deliveries"]
    assert (delivery["attempts"], delivery["next_at"]) == (3, None)
    assert delivery["done_at"]


def test_one_process_delivers(trusted: InProcess, receiver: Receiver) -> None:
    app, ann = trusted, trusted.user("ann")
    hook(app, ann, receiver.url)
    now = 1e9
    first = Deliverer(app.registry, clock=lambda: now)
    second = Deliverer(app.registry, clock=lambda: now)
    assert first.lead()
    assert not second.lead()
    now += webhook_delivery.LEASE / 2 + 1
    assert first.lead()
    now += webhook_delivery.LEASE / 2 + 1
    assert not second.lead()
    # The first died; nobody renews.
    now += webhook_delivery.LEASE + 1
    assert second.lead()
    assert not first.lead()
    # The second ends as it should: the first need not wait.
    second.release()
    assert first.lead()


def test_without_hooks_nothing_is_written(trusted: InProcess) -> None:
    app = trusted
    app.user("ann")
    deliverer = Deliverer(app.registry)
    assert not deliverer.lead()
    seed_repo(app, "ann/tiny", {"README.md": CARD_TEXT})
    assert not step(app, deliverer)
    with app.db.read() as conn:
        assert not conn.execute(sa.select(events.c.handled)).scalars().all()[0]


def test_hooks_hear_nothing_of_the_past_and_disabled_accounts_nothing(
    trusted: InProcess, receiver: Receiver
) -> None:
    app, ann = trusted, trusted.user("ann")
    seed_repo(app, "ann/before", {"README.md": CARD_TEXT})
    hook(app, ann, receiver.url)
    step(app)
    assert receiver.got == []
    from llmasos_registry.server.db.tables_accounts import accounts

    with app.db.write() as conn:
        conn.execute(accounts.update().values(disabled=True))
    seed_repo(app, "ann/after", {"README.md": CARD_TEXT})
    step(app)
    assert receiver.got == []


def test_hooks_are_the_owners_business(trusted: InProcess, receiver: Receiver) -> None:
    app = trusted
    ann, bob = app.user("ann"), app.user("bob")
    app.org("acme", {"ann": "owner", "bob": "maintainer"})
    made = hook(app, ann, receiver.url, account="acme")
    assert "secret" not in app.get("/v1/webhooks", ann, params={"account": "acme"}).json()["webhooks"][0]
    body = {"url": receiver.url, "events": ["*"]}
    assert app.post("/v1/webhooks", bob, json={**body, "account": "acme"}).status_code == 403
    assert app.post("/v1/webhooks", ann, json={**body, "everything": True}).status_code == 403
    assert app.post("/v1/webhooks", json=body).status_code == 401
    restricted = app.user("ann", projects=["acme/x"])
    assert app.post("/v1/webhooks", restricted, json=body).status_code == 403
    assert app.get("/v1/webhooks", bob, params={"account": "acme"}).status_code == 403
    one = f"/v1/webhooks/{made['id']}"
    for method, path in (("DELETE", one), ("GET", f"{one}/deliveries"), ("POST", f"{one}/test")):
        assert app.call(method, path, bob).status_code == 404
        assert app.call(method, path.replace(str(made["id"]), "999"), ann).status_code == 404
        assert app.call(method, path.replace(str(made["id"]), "x"), ann).status_code == 404
    assert app.post(f"{one}/test", ann).json() == {"status": 200, "error": None}
    assert json.loads(receiver.got[0][1])["type"] == "ping"
    assert app.delete(one, ann).status_code == 204
    assert app.get("/v1/webhooks", ann, params={"account": "acme"}).json() == {"webhooks": []}


def test_registered_addresses_are_checked(app: InProcess) -> None:
    ann = app.user("ann")
    for url in ("http://127.0.0.1:9/", "ftp://example.org/", "https://u:p@example.org/", "x" * 2001):
        assert app.post("/v1/webhooks", ann, json={"url": url, "events": ["*"]}).status_code == 400
    for names in ([], ["Model.*"], ["model"], ["a..c"], ["*"] * 51):
        body = {"url": "https://example.org/", "events": names}
        assert app.post("/v1/webhooks", ann, json=body).status_code == 400
    # A name may lead inside later, so the answer to a test says no more than that.
    made = hook(app, ann, "http://localhost/")
    assert app.post(f"/v1/webhooks/{made['id']}/test", ann).json() == {
        "status": None,
        "error": "the address is not one of the public internet",
    }
    for _ in range(19):
        hook(app, ann, "https://example.org/")
    body = {"url": "https://example.org/", "events": ["*"]}
    assert app.post("/v1/webhooks", ann, json=body).status_code == 409


def test_secrets_are_not_logged(trusted: InProcess, receiver: Receiver) -> None:
    app, ann = trusted, trusted.user("ann")
    made = hook(app, ann, receiver.url + "T0K3N")
    lines = json.dumps(app.get("/v1/audit", ann).json())
    assert "webhook.create" in lines
    assert "T0K3N" not in lines
    assert made["secret"] not in lines


def test_a_running_server_delivers(start_server: Any, receiver: Receiver) -> None:
    server: Server = start_server(webhook_private="true")
    token = server.user("ann")
    import httpx2

    with httpx2.Client(base_url=server.url, headers={"Authorization": f"Bearer {token}"}) as client:
        made = client.post("/v1/webhooks", json={"url": receiver.url, "events": ["model.*"]})
        assert made.status_code == 201, made.text
        # Noted by a process that ends at once; told by the one after it.
        done = client.post("/api/repos/create", json={"name": "hooked", "type": "model"})
        assert done.status_code == 200, done.text
    server.restart()
    deadline = threading.Event()
    for _ in range(200):
        if receiver.got:
            break
        deadline.wait(0.05)
    server.stop()
    assert b"ann/hooked" in receiver.got[0][1]
