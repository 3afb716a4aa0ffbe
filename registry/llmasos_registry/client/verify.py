"""The one place where the client decides whether what a registry sent may be used.

Everything that is installed or pulled passes a Verifier: digests, publishers' signatures, pinned keys, serials. Metadata
of the whole repository (TUF) goes behind the same methods later, so no caller compares a digest or a signature itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from llmasos.errors import RunError
from llmasos_registry.client.connection import Connection, RegistryNotFound, path_segment
from llmasos_registry.client.trust import PublishedKey, Publisher, Trust, TrustChanged
from llmasos_registry.signatures.errors import SignatureRefused
from llmasos_registry.signatures.keys import PublicKey
from llmasos_registry.signatures.model_bundle import verify_model
from llmasos_registry.signatures.model_files import file_sha256
from llmasos_registry.signatures.wheel_statement import check_wheel


class DigestMismatch(RunError):
    """A file is not the one that was named; the message has both digests."""


class Signed(NamedTuple):
    """Who signed a thing."""

    publisher: str
    keyid: str


class KeySource(Protocol):
    """Where the keys of an account are asked for: a registry, or a bundle carried over.

    ``current`` says whether an answer is all there is now. A bundle may be older than what was pinned, so a key that it
    lacks is no news.
    """

    @property
    def current(self) -> bool:
        """Whether a key that is missing in an answer is gone."""

    def __call__(self, account: str) -> Sequence[PublishedKey]:
        """All keys of the account, revoked ones too; empty when it has none. Raises RegistryError."""


class _RegistryKeys:
    current = True

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[str, list[PublishedKey]] = {}

    def __call__(self, account: str) -> Sequence[PublishedKey]:
        if account not in self._known:
            try:
                answer = self._connection.get(f"/v1/publishers/{path_segment(account)}/keys")
            except RegistryNotFound:
                answer = {"keys": []}
            rows = answer.get("keys", []) if isinstance(answer, dict) else []
            self._known[account] = [PublishedKey.from_answer(row) for row in rows if isinstance(row, dict)]
        return self._known[account]


class _CarriedKeys:
    current = False

    def __init__(self, accounts: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        self._accounts = accounts

    def __call__(self, account: str) -> Sequence[PublishedKey]:
        return [PublishedKey.from_answer(row) for row in self._accounts.get(account, ())]


def registry_keys(connection: Connection) -> KeySource:
    """The keys that a registry states, each account asked for once."""
    return _RegistryKeys(connection)


def carried_keys(accounts: Mapping[str, Sequence[Mapping[str, Any]]]) -> KeySource:
    """The keys that a bundle carries: account -> rows with ``keyid``, ``pem`` and ``revoked_at``, as the registry gave them."""
    return _CarriedKeys(accounts)


class Verifier:
    """Checks for one registry and one user.

    ``registry`` is the address under which trust is pinned, also when the files come from a bundle. ``allow_unsigned``
    lets a publisher's thing without a signature pass although keys of that publisher are known. With ``pin`` False keys and
    publishers are compared but nothing new is trusted: that is for a plan which the user has not accepted yet. ``note`` is
    told once what was pinned on first contact.
    """

    def __init__(
        self,
        registry: str,
        config_dir: Path,
        keys: KeySource,
        *,
        allow_unsigned: bool = False,
        pin: bool = True,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.trust = Trust(config_dir, registry)
        self._keys = keys
        self._allow_unsigned = allow_unsigned
        self._pins = pin
        self._note = note

    def verify_file(
        self, path: Path, sha256: str, *, name: str | None = None, size: int | None = None
    ) -> None:
        """The file has this digest (hex), and this size in bytes when given. Raises DigestMismatch naming both sides.

        ``name`` is what the message calls the file, else its path.
        """
        shown = name or str(path)
        if size is not None and (found_size := path.stat().st_size) != size:
            raise DigestMismatch(
                f"{shown} has {found_size} bytes, expected {size}",
                hint="fetch it again; nothing was installed",
            )
        self.verify_digest(file_sha256(path), sha256, name=shown)

    def verify_digest(self, found: str, expected: str, *, name: str) -> None:
        """As ``verify_file`` for a digest that was computed while the bytes came in."""
        if found != expected.lower():
            raise DigestMismatch(
                f"{name}: expected sha256 {expected}, found {found}",
                hint="the file was changed on its way or at the registry; nothing was installed",
            )

    def verify_wheel(
        self,
        *,
        filename: str,
        sha256: str,
        project: str,
        publisher: str,
        version: str | None = None,
        envelopes: Sequence[Mapping[str, Any]] = (),
        locked_keyid: str | None = None,
    ) -> Signed | None:
        """Who signed the wheel ``filename`` with the digest ``sha256`` (checked by ``verify_file`` before or after).

        ``publisher`` is the account that owns the project at the registry. ``locked_keyid`` is the key that a lock recorded:
        it verifies what was locked even when it was revoked since. None when it is unsigned and the publisher has no keys.
        Raises SignatureRefused, TrustChanged. Pins keys and publisher when all is well.
        """
        subject = f"plugin:{project}"

        def check(keys: Sequence[PublicKey]) -> str:
            refusal: SignatureRefused | None = None
            for envelope in envelopes:
                try:
                    return check_wheel(envelope, keys, filename, sha256, project, version, publisher)
                except SignatureRefused as error:
                    refusal = error
            raise refusal or SignatureRefused(f"{filename} has no signature")

        return self._verified(subject, filename, publisher, bool(envelopes), check, locked_keyid)

    def check_library(self, project: str, filename: str) -> None:
        """A wheel that is said to have no publisher, as libraries of the index behind a registry have none, never had one.

        Raises TrustChanged where one is pinned: leaving the publisher out must not be a way around the signature.
        """
        pinned = self.trust.owner(f"plugin:{project}")
        if pinned is not None:
            raise TrustChanged(
                f"{filename}: the publisher of plugin:{project} is pinned as {pinned}, and now it is said to have none",
                hint="its signature was left out; ask whoever runs the registry or made the bundle",
            )

    def verify_model(
        self,
        model: Path | Mapping[str, str],
        *,
        model_id: str,
        publisher: str,
        bundle: bytes | None,
        version: str | None = None,
        kind: str = "model",
        locked_keyid: str | None = None,
    ) -> Signed | None:
        """Who signed exactly these files: a folder, or path -> SHA-256 of *all* files of the repository at one commit.

        ``bundle`` is the content of ``model.sig``, None when there is none; ``kind`` is ``model`` or ``dataset``. A mapping
        says nothing about bytes: check each file with ``verify_file`` as it arrives. Returns and raises as ``verify_wheel``.
        """

        def check(keys: Sequence[PublicKey]) -> str:
            return verify_model(model, bundle or b"", keys, name=model_id, version=version)

        return self._verified(
            f"{kind}:{model_id}", model_id, publisher, bundle is not None, check, locked_keyid
        )

    def check_serial(self, serial: int, subject: str | None = None) -> None:
        """The registry (or ``plugin:name``, ``model:org/name``, ``dataset:org/name``) did not go back. Pins the highest.

        Raises RolledBack naming both numbers.
        """
        self.trust.check_serial(serial, subject)

    def publisher(self, account: str) -> Publisher:
        """The keys in force for an account: pinned, or published when this is the first contact. Raises TrustChanged."""
        return self.trust.examine(account, self._keys(account), current=self._keys.current)

    def _verified(
        self,
        subject: str,
        shown: str,
        account: str,
        signed: bool,
        check: Callable[[Sequence[PublicKey]], str],
        locked_keyid: str | None,
    ) -> Signed | None:
        self.trust.check_owner(subject, account)
        publisher = self.publisher(account)
        if not signed:
            if publisher.keys and not self._allow_unsigned:
                raise SignatureRefused(
                    f"{shown} is not signed, but its publisher {account} has keys: "
                    f"expected a signature by {' or '.join(key.keyid for key in publisher.keys)}",
                    hint="the signature was removed, or the publisher forgot it; ask, or pass --allow-unsigned",
                )
            self._pin(publisher, subject)
            return None
        keys = publisher.active()
        if locked_keyid is not None and (locked := publisher.find(locked_keyid)) is not None:
            keys.append(locked)
        try:
            keyid = check(keys)
        except SignatureRefused as refusal:
            raise self._explained(refusal, shown, publisher) from refusal
        self._pin(publisher, subject)
        return Signed(account, keyid)

    def _explained(self, refusal: SignatureRefused, shown: str, publisher: Publisher) -> SignatureRefused:
        """The refusal with what it is about, and that a key was revoked when that is why."""
        revoked = [key.keyid for key in publisher.keys if key.revoked and key.keyid in refusal.message]
        text = refusal.message if shown in refusal.message else f"{shown}: {refusal.message}"
        if revoked:
            text += f"; {' and '.join(revoked)} was revoked by {publisher.account}"
        return SignatureRefused(text, hint=refusal.hint or "nothing was installed")

    def _pin(self, publisher: Publisher, subject: str) -> None:
        if not self._pins:
            return
        before = self.trust.publisher(publisher.account)
        if before != publisher or self.trust.owner(subject) != publisher.account:
            self.trust.pin(publisher, subject)
        if before is None and publisher.keys and self._note is not None:
            names = ", ".join(key.keyid for key in publisher.keys if not key.revoked)
            self._note(f"pinned the keys of {publisher.account} on first contact: {names}")
