"""Rate limits, sizes of bodies, patience with slow clients, addresses behind proxies."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from typing import Any

import pytest

from llmasos_registry.server.accounts import limits
from llmasos_registry.server.accounts.caller import Caller
from llmasos_registry.server.accounts.limits import RateLimits
from llmasos_registry.server.app import _patient
from llmasos_registry.server.failures import Failure
from llmasos_registry.server.settings import Settings

# As huggingface_hub reads them.
RATE_LIMIT = re.compile(r'"(?P<name>\w+)"\s*;\s*r\s*=\s*(?P<left>\d+)\s*;\s*t\s*=\s*(?P<reset>\d+)')


def test_what_is_left_is_said_and_too_much_is_refused(make_app: Any) -> None:
    app = make_app(rate_api=3)
    token = app.user("ann", ("read",))
    left = []
    for _ in range(3):
        answer = app.get("/v1/tokens", token)
        found = RATE_LIMIT.fullmatch(answer.headers["RateLimit"])
        assert found
        assert found["name"] == "api"
        assert 0 < int(found["reset"]) <= 301
        assert answer.headers["RateLimit-Policy"] == '"fixed window";"api";q=3;w=300'
        left.append(int(found["left"]))
    assert left == [2, 1, 0]
    refused = app.get("/v1/tokens", token)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 301
    assert RATE_LIMIT.fullmatch(refused.headers["RateLimit"])
    # Another caller has his own count, and health is free.
    assert app.get("/v1/tokens", app.user("bob", ("read",))).status_code == 200
    assert "RateLimit" not in app.get("/healthz").headers


def test_guessing_tokens_is_limited_by_address(make_app: Any) -> None:
    app = make_app(rate_api=2)
    answers = [app.get("/v1/tokens", f"llma_{n}").status_code for n in range(3)]
    assert answers == [401, 401, 429]


def test_a_window_ends() -> None:
    now = [limits.WINDOW * 100.0]
    counts = RateLimits(Settings(data="x", rate_files=1), clock=lambda: now[0])
    stranger = Caller(address="192.0.2.1")
    assert counts.take(stranger, "file")["RateLimit"] == '"file";r=0;t=301'
    with pytest.raises(Failure):
        counts.take(stranger, "file")
    now[0] += limits.WINDOW
    assert counts.take(stranger, "file")


def test_one_network_of_ipv6_is_one_caller_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = RateLimits(Settings(data="x", rate_api=1))
    counts.take(Caller(address="2001:db8::1"), "api")
    with pytest.raises(Failure):
        counts.take(Caller(address="2001:db8::2"), "api")
    monkeypatch.setattr(limits, "COUNTED", 2)
    counts.take(Caller(address="192.0.2.1"), "api")
    counts.take(Caller(address="192.0.2.2"), "api")  # the first of "others"
    with pytest.raises(Failure):
        counts.take(Caller(address="192.0.2.3"), "api")
    assert len(counts._counts) == 3


def test_an_address_is_taken_from_trusted_proxies_only(make_app: Any) -> None:
    # The test client's own address is "testclient".
    header = {"X-Forwarded-For": "203.0.113.9, 198.51.100.1"}
    for trusted, counted in (([], False), (["testclient"], True)):
        app = make_app(rate_api=1, trusted_proxies=trusted)
        app.get("/v1/tokens", headers=header)
        other = app.get("/v1/tokens", headers={"X-Forwarded-For": "203.0.113.9, 198.51.100.2"})
        same = app.get("/v1/tokens", headers=header)
        assert (other.status_code, same.status_code) == ((401, 429) if counted else (429, 429))


def test_a_body_that_is_too_large_is_refused(app: Any) -> None:
    refused = app.post("/v1/tokens", app.user("ann"), content=b"{" + b" " * (1 << 20))
    assert refused.status_code == 413


def test_a_body_without_an_end_is_refused_at_the_limit(registry: Any) -> None:
    token = registry.user("ann")
    sent = 0
    with socket.create_connection(("127.0.0.1", registry.port)) as client:
        client.sendall(
            f"POST /v1/tokens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        client.settimeout(0.02)
        answer = b""
        while not answer and sent < 1 << 26:
            with contextlib.suppress(TimeoutError, ConnectionError):
                client.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
            sent += 65536
            with contextlib.suppress(TimeoutError):
                answer = client.recv(100)
    assert b" 413 " in answer
    assert sent < 1 << 24


def test_a_client_that_stops_in_the_middle_is_given_up() -> None:
    async def silent() -> Any:
        await asyncio.sleep(3600)

    with pytest.raises(Failure) as caught:
        asyncio.run(_patient(silent, 0)())
    assert caught.value.status == 408


def test_a_slow_client_gets_408(start_server: Any) -> None:
    server = start_server(idle_timeout=1)
    token = server.user("ann")
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(
            f"POST /v1/tokens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 9\r\n\r\n{{".encode()
        )
        slow.settimeout(20)
        assert b"408" in slow.recv(100)
    server.stop()
