"""What this user has come to trust, kept between runs: publishers' keys, who publishes what, and how far an index had come.

One file, ``trust.json`` in the configuration folder, mode 0600. The first contact pins (trust on first use, as SSH does);
afterwards a change is reported with both sides and refused until the user accepts it. What can only take trust away, the
revocation of a pinned key, needs nobody's consent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from llmasos.errors import ConfigError, RunError
from llmasos.kernel.atomic import write_atomic
from llmasos_registry.signatures.errors import KeyRefused
from llmasos_registry.signatures.keys import PublicKey, keyid, load_public

TRUST_FILE = "trust.json"
_FORMAT = 1
_MAX_BYTES = 16 << 20


class TrustChanged(RunError):
    """Something that was pinned is different now; the message names both sides, the hint the command that accepts it."""


class RolledBack(RunError):
    """An index is older than one that was seen before."""


class PublishedKey(NamedTuple):
    """One key of an account, as a registry or a bundle states it. ``revoked`` keys verify nothing new."""

    keyid: str
    pem: str
    revoked: bool = False

    @classmethod
    def from_answer(cls, row: Mapping[str, Any]) -> PublishedKey:
        """A row of ``GET /v1/publishers/{account}/keys``. Raises TrustChanged when keyid and key do not fit."""
        pem = row.get("pem")
        try:
            name = keyid(load_public(pem if isinstance(pem, str) else ""))
        except KeyRefused as error:
            raise TrustChanged(
                f"the registry names a publisher's key that cannot be read: {error.message}"
            ) from error
        if row.get("keyid") != name:
            raise TrustChanged(f"the registry calls a key {str(row.get('keyid'))[:80]}, but it is {name}")
        return cls(name, str(pem), row.get("revoked_at") is not None)


class Publisher(NamedTuple):
    """The pinned keys of one account."""

    account: str
    keys: tuple[PublishedKey, ...]

    def active(self) -> list[PublicKey]:
        """Keys that may verify new things."""
        return [load_public(key.pem) for key in self.keys if not key.revoked]

    def find(self, name: str) -> PublicKey | None:
        """The key of this keyid, revoked or not."""
        return next((load_public(key.pem) for key in self.keys if key.keyid == name), None)


class Trust:
    """The pins for one registry, in a file shared by all. Cheap to make; each call reads the file, each change rewrites it."""

    def __init__(self, config_dir: Path, registry: str) -> None:
        self.path = config_dir / TRUST_FILE
        self.registry = registry

    def publishers(self) -> list[Publisher]:
        """All accounts with pinned keys, sorted."""
        table = self._read().get("publishers", {})
        return [_publisher(account, table[account]) for account in sorted(table)]

    def publisher(self, account: str) -> Publisher | None:
        """The pinned keys of an account; None before the first contact."""
        rows = self._read().get("publishers", {}).get(account)
        return None if rows is None else _publisher(account, rows)

    def owner(self, subject: str) -> str | None:
        """The account pinned as publisher of a subject such as ``plugin:llmasos-acme`` or ``model:org/name``."""
        project = self._read().get("subjects", {}).get(subject, {})
        owner = project.get("publisher")
        return owner if isinstance(owner, str) else None

    def serial(self, subject: str | None = None) -> int:
        """The highest serial seen of a subject, or of the registry; 0 before the first contact."""
        table = self._read()
        found = (
            table.get("serial", 0)
            if subject is None
            else table.get("subjects", {}).get(subject, {}).get("serial", 0)
        )
        return found if isinstance(found, int) else 0

    def examine(self, account: str, published: Sequence[PublishedKey], *, current: bool = True) -> Publisher:
        """The keys to use for an account, given what is published now. Writes nothing; see ``pin``.

        Before the first contact: what is published. Afterwards: what is pinned, less what was revoked since. Raises
        TrustChanged when a key appeared, or a pinned one vanished without being revoked. With ``current`` False, as for a bundle
        made some time ago, a key that is missing has not vanished.
        """
        pinned = self.publisher(account)
        now = tuple(sorted(published))
        if pinned is None or not pinned.keys:
            return Publisher(account, now)
        old, new = {key.keyid: key for key in pinned.keys}, {key.keyid: key for key in now}
        appeared = sorted(name for name in new if name not in old and not new[name].revoked)
        vanished = sorted(name for name in old if current and name not in new and not old[name].revoked)
        if appeared or vanished:
            raise TrustChanged(
                f"the keys of the publisher {account} changed: pinned {_names(pinned.keys)}; now {_names(now)}",
                hint="ask the publisher whether that is right, then accept it: "
                f"llmasos registry key pin --accept {account}",
            )
        # A pinned key that was revoked once stays revoked, whatever is said later.
        return Publisher(
            account,
            tuple(
                PublishedKey(name, key.pem, key.revoked or (name in new and new[name].revoked))
                for name, key in sorted(old.items())
            ),
        )

    def pin(self, publisher: Publisher, subject: str | None = None) -> None:
        """Remember an account's keys, and that it publishes ``subject``. Raises ConfigError when that cannot be stored."""
        rows = [key._asdict() for key in publisher.keys]
        with self._change() as table:
            # No keys are no pin: an account that has none yet may get its first one without a report.
            if rows:
                table.setdefault("publishers", {})[publisher.account] = rows
            if subject is not None:
                table.setdefault("subjects", {}).setdefault(subject, {})["publisher"] = publisher.account

    def check_owner(self, subject: str, account: str) -> None:
        """Raise TrustChanged when another account was pinned as publisher of ``subject``."""
        pinned = self.owner(subject)
        if pinned is not None and pinned != account:
            raise TrustChanged(
                f"the publisher of {subject} changed: pinned {pinned}, now {account}",
                hint="ask the old publisher whether that is right, then accept it: "
                f"llmasos registry key pin --accept {account} --for {subject}",
            )

    def check_serial(self, serial: int, subject: str | None = None) -> None:
        """Remember the highest serial; raise RolledBack naming both when ``serial`` is lower than one seen before."""
        seen = self.serial(subject)
        if serial < seen:
            what = f"the registry {self.registry}" if subject is None else f"{subject} at {self.registry}"
            raise RolledBack(
                f"{what} went back: serial {serial}, but {seen} was seen before",
                hint="an old copy is being served, or the registry was restored from a backup; in that case accept it: "
                "llmasos registry key pin --accept-serial",
            )
        if serial == seen:
            return
        with self._change() as table:
            place = table if subject is None else table.setdefault("subjects", {}).setdefault(subject, {})
            place["serial"] = max(serial, place.get("serial", 0))

    def forget_serials(self) -> None:
        """Start over with whatever serials the registry names next."""
        with self._change() as table:
            table.pop("serial", None)
            for project in table.get("subjects", {}).values():
                project.pop("serial", None)

    def _document(self) -> dict[str, Any]:
        try:
            with open(self.path, "rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return {"format": _FORMAT, "registries": {}}
        except OSError as error:
            raise ConfigError(
                f"cannot read the pinned keys in {self.path}: {error.strerror or error}"
            ) from error
        try:
            document = json.loads(data)
            if document["format"] != _FORMAT or not isinstance(document["registries"], dict):
                raise ValueError("it is of another version")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            # Starting afresh would trust whoever answers next.
            raise ConfigError(
                f"the pinned keys in {self.path} cannot be read: {error}",
                hint="restore the file; removing it forgets every pinned key",
            ) from error
        return dict(document)

    def _read(self) -> dict[str, Any]:
        found = self._document()["registries"].get(self.registry, {})
        return found if isinstance(found, dict) else {}

    @contextmanager
    def _change(self) -> Iterator[dict[str, Any]]:
        try:
            os.makedirs(self.path.parent, exist_ok=True)
            with _locked(self.path.with_suffix(".lock")):
                document = self._document()
                yield document["registries"].setdefault(self.registry, {})
                text = json.dumps(document, indent=1, sort_keys=True) + "\n"
                write_atomic(self.path, text.encode(), mode=0o600)
        except OSError as error:
            raise ConfigError(
                f"cannot store pinned keys in {self.path}: {error.strerror or error}",
                hint="set LLMASOS_CONFIG to a folder you may write to",
            ) from error


def pinned_as(config_dir: Path, keyid: str) -> list[tuple[str, bool]]:
    """(account, whether the key was revoked) of every pin of a key, whatever registry it came from. Raises ConfigError."""
    found = []
    registries = Trust(config_dir, "")._document()["registries"]
    for name in sorted(registries):
        for publisher in Trust(config_dir, name).publishers():
            found += [(publisher.account, key.revoked) for key in publisher.keys if key.keyid == keyid]
    return found


def _publisher(account: str, rows: Sequence[Mapping[str, Any]]) -> Publisher:
    keys = tuple(PublishedKey(str(row["keyid"]), str(row["pem"]), bool(row["revoked"])) for row in rows)
    return Publisher(account, keys)


def _names(keys: Sequence[PublishedKey]) -> str:
    names = [f"{key.keyid}{' (revoked)' if key.revoked else ''}" for key in keys]
    return ", ".join(names) or "none"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two runs at once must not lose each other's pins. Where there is no flock the rename alone has to do."""
    with open(path, "a+b") as file:
        with suppress(ImportError):
            import fcntl

            # Released when the file is closed.
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
