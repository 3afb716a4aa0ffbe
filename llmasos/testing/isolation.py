"""Keeping tests to themselves: no network, no leaked environment variables, a Hub that sees only what was asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmasos.hub import Hub

#: Variables that change while tests run and are nobody's leak: pytest's own note of the current test, and what numeric
#: libraries set when they are imported for the first time.
IGNORED_VARIABLES = frozenset(
    {"PYTEST_CURRENT_TEST", "KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK", "TORCHINDUCTOR_CACHE_DIR"}
)


class NetworkBlocked(RuntimeError):
    """Something tried to leave this machine during a test that forbids it."""


class NetworkGuard:
    """What ``no_network`` gives: ``attempts`` lists every address that was refused, also when the error was swallowed."""

    def __init__(self) -> None:
        self.attempts: list[str] = []

    def refuse(self, address: object) -> NetworkBlocked:
        """Note the attempt and make its error."""
        self.attempts.append(str(address))
        return NetworkBlocked(
            f"a test that forbids the network tried to reach {address}\n"
            "hint: give the test local files, or mark it as one that needs the network and leave the fixture out"
        )


def is_local(address: object) -> bool:
    """Whether a socket address stays on this machine: a Unix socket, the loopback network, or the name localhost."""
    if isinstance(address, str | bytes):
        return True  # AF_UNIX: a path
    if not isinstance(address, tuple) or not address:
        return False
    host = address[0].decode() if isinstance(address[0], bytes) else str(address[0])
    return is_local_host(host)


def is_local_host(host: str) -> bool:
    """Whether a host name or number is this machine."""
    import ipaddress

    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


@contextmanager
def blocked_network() -> Iterator[NetworkGuard]:
    """Refuse every connection and look-up that leaves this machine while the body runs. Subprocesses are not covered."""
    import socket

    guard = NetworkGuard()
    originals = {name: getattr(socket.socket, name) for name in ("connect", "connect_ex", "sendto")}
    # socket.socket inherits these from a C type: what is set on the class hides them, and deleting it shows them again.
    own = {name for name in originals if name in vars(socket.socket)}
    look_up = socket.getaddrinfo

    def guarded(name: str) -> Any:
        original = originals[name]

        def call(self: socket.socket, *arguments: Any) -> Any:
            address = arguments[-1] if arguments else None
            if self.family != getattr(socket, "AF_UNIX", None) and not is_local(address):
                raise guard.refuse(address)
            return original(self, *arguments)

        return call

    def guarded_look_up(host: bytes | str | None, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host or ""
        if not is_local_host(name):
            raise guard.refuse(name)
        return look_up(host, *arguments, **options)

    for name in originals:
        setattr(socket.socket, name, guarded(name))
    socket.getaddrinfo = guarded_look_up
    try:
        yield guard
    finally:
        socket.getaddrinfo = look_up
        for name, original in originals.items():
            if name in own:
                setattr(socket.socket, name, original)
            else:
                delattr(socket.socket, name)


def changed_variables(
    before: Mapping[str, str], after: Mapping[str, str], ignored: Iterable[str] = ()
) -> list[str]:
    """What happened to the environment variables, one line each; nothing for those that may change."""
    skipped = IGNORED_VARIABLES | set(ignored)
    lines = []
    for name in sorted(set(before) | set(after)):
        if name in skipped or before.get(name) == after.get(name):
            continue
        # Values may be secrets: names are enough to find the culprit.
        lines.append(
            f"{name} was {'set' if name not in before else 'removed' if name not in after else 'changed'}"
        )
    return lines


def restore_variables(before: Mapping[str, str]) -> None:
    """Make the environment what it was."""
    for name in set(os.environ) - set(before):
        del os.environ[name]
    for name, value in before.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def isolated_hub(
    root: Path, *, plugins: Iterable[Path | str] = (), installed: Iterable[str] = (), **options: Any
) -> Hub:
    """A Hub with cache, configuration and data under ``root`` that sees the built-ins, ``plugins`` (folders) and ``installed`` (ids).

    Other plugins of the environment are not looked at, and nothing is fetched. ``options`` are those of ``llmasos.Hub``.
    """
    from llmasos.hub import Hub
    from llmasos.kernel.inventory import Inventory

    cache, config = root / "cache", root / "config"
    builtin = [record.id for record in Inventory(cache, config) if record.distribution == "llmasos"]
    settings: dict[str, Any] = {"offline": True, "data_dir": root / "data", **options}
    return Hub(
        cache_dir=cache,
        config_dir=config,
        only=[*builtin, *installed],
        plugins=[Path(p) for p in plugins],
        **settings,
    )
