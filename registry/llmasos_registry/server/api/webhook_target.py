"""Sending to addresses that strangers name: resolved once, checked, and connected to exactly what was checked.

Nothing inside the operator's network can be reached this way: not by names that lead there, not by numbers written in
odd forms, not by IPv6 forms that carry an IPv4 address, not by redirects, which are not followed.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from llmasos_registry.server.failures import Failure, bad_request

#: Seconds for a whole delivery, from the connection to the end of the answer's head.
TIMEOUT = 10.0
#: Where the web is spoken to strangers.
PORTS = (80, 443)
LONGEST = 2000

Resolve = Callable[[str, int], list[str]]
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_HOST = re.compile(
    r"(?=.{1,253}\.?$)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\.?"
)
_PATH = re.compile(r"/[\x21-\x7e]*")
#: IPv6 prefixes whose addresses carry an IPv4 address: mapped, compatible, translated, 6to4, Teredo, NAT64.
_CARRIERS = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "::/96",
        "::ffff:0:0/96",
        "::ffff:0:0:0/96",
        "2002::/16",
        "2001::/32",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
    )
)
#: Addresses that look public, and answer only inside a cloud.
_INSIDE = frozenset({ipaddress.ip_address("168.63.129.16"), ipaddress.ip_address("192.0.0.192")})


class Undelivered(Exception):
    """Nothing came back that counts; the message may be shown to the hook's owner."""


@dataclass(frozen=True, slots=True)
class Target:
    """An address to send to, taken apart and checked as text."""

    secure: bool
    host: str
    port: int
    path: str


def read_target(url: str, *, private: bool = False) -> Target:
    """The parts of a hook's URL. ``private``: any port, for a trusted network. Raises Failure 400 naming the rule."""
    if len(url) > LONGEST or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise _refused(f"it has at most {LONGEST} printable ASCII characters, without spaces and backslashes")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _refused("it cannot be read") from None
    if parts.scheme not in ("http", "https"):
        raise _refused("it begins with https:// or http://")
    if "@" in parts.netloc:
        raise _refused("it has no user name and no password")
    if parts.fragment or url.endswith("#"):
        raise _refused("it has no part after #")
    port = port if port is not None else 443 if parts.scheme == "https" else 80
    if port == 0 or (not private and port not in PORTS):
        raise _refused(f"its port is {' or '.join(map(str, PORTS))}")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not _PATH.fullmatch(path):
        raise _refused("its path cannot be read")
    return Target(parts.scheme == "https", _host(host), port, path)


def _host(host: str) -> str:
    """A name, or an address in its usual form. ``127.1``, ``0x7f.1`` and ``2130706433`` are addresses to resolvers."""
    if ":" in host:
        if "%" in host:
            raise _refused("its address has no zone")
        with suppress(ValueError):
            return str(ipaddress.IPv6Address(host))
        raise _refused("its host is no address")
    last = host.rstrip(".").rpartition(".")[2].lower()
    if last.isdecimal() or re.fullmatch(r"0x[0-9a-f]*", last):
        with suppress(ValueError):
            return str(ipaddress.IPv4Address(host))
        raise _refused("an address is written as four decimal numbers")
    if not _HOST.fullmatch(host):
        raise _refused("its host is no name")
    return host.rstrip(".").lower()


def _refused(rule: str) -> Failure:
    return bad_request(f"The address of a webhook is refused: {rule}")


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, as the system resolves it. Raises Undelivered."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Undelivered("the name cannot be resolved") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(text: str) -> bool:
    """Whether an address is one host of the public internet, and hides no other address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False  # with a zone, for example
    return _is_single(address) and address.is_global and address not in _INSIDE


def is_reachable(text: str) -> bool:
    """The rule of a trusted network: private addresses too, but none of a link (cloud metadata) and none of many hosts."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return (address.is_loopback or _is_single(address)) and not address.is_link_local


def _is_single(address: _Address) -> bool:
    if (
        isinstance(address, ipaddress.IPv6Address)
        and (
            any(address in net for net in _CARRIERS)
            or address.is_site_local
            # ISATAP carries an IPv4 address in its last half.
            or address.packed[8:12] in (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")
        )
    ):
        return False
    return not (address.is_multicast or address.is_unspecified or address.is_reserved)


def chosen_address(target: Target, *, private: bool, resolver: Resolve = resolve) -> str:
    """The address to connect to. Raises Undelivered when any address of the name must not be reached."""
    found = resolver(target.host, target.port)
    allowed = is_reachable if private else is_public
    # One bad address is enough: a name that leads here and there is a trick, not a mistake.
    if not found or not all(allowed(address) for address in found):
        raise Undelivered("the address is not one of the public internet")
    return found[0]


def send(
    target: Target,
    body: bytes,
    headers: Mapping[str, str],
    *,
    private: bool = False,
    timeout: float = TIMEOUT,
    resolver: Resolve = resolve,
) -> int:
    """POST, and the status of the answer; its body is not read. Blocks at most ``timeout`` seconds, resolving apart.

    Raises Undelivered.
    """
    address = chosen_address(target, private=private, resolver=resolver)
    late = Undelivered(f"no answer within {timeout:g} seconds")
    try:
        plain = socket.create_connection((address, target.port), timeout)
    except TimeoutError:
        raise late from None
    except OSError:
        raise Undelivered("no connection") from None
    # A socket's own timeout is for one read; an answer of one byte a second would go on for hours.
    lever, cut = plain.dup(), threading.Event()
    deadline = threading.Timer(timeout, _cut, (lever, cut))
    deadline.start()
    connection = http.client.HTTPConnection(target.host, target.port, timeout=timeout)
    connection.sock = plain
    try:
        if target.secure:
            context = ssl.create_default_context()
            connection.sock = context.wrap_socket(plain, server_hostname=target.host)
        connection.request("POST", target.path, body, {**headers, "Host": _host_header(target)})
        return connection.getresponse().status
    except ssl.SSLCertVerificationError as error:
        raise Undelivered(f"its certificate is not valid: {error.verify_message}") from None
    except TimeoutError:
        raise late from None
    except (OSError, http.client.HTTPException, ValueError):
        broken = Undelivered("the connection broke, or the answer is no HTTP")
        raise (late if cut.is_set() else broken) from None
    finally:
        deadline.cancel()
        connection.close()
        plain.close()
        lever.close()


def _cut(lever: socket.socket, done: threading.Event) -> None:
    done.set()
    with suppress(OSError):
        lever.shutdown(socket.SHUT_RDWR)


def _host_header(target: Target) -> str:
    name = f"[{target.host}]" if ":" in target.host else target.host
    usual = 443 if target.secure else 80
    return name if target.port == usual else f"{name}:{target.port}"
