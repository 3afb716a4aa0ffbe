"""Wheels on this disk, each under its digest and checked before it gets its name: digest, signature, structure.

Nothing that failed a check is ever seen by the program that installs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmasos.errors import PluginError, RunError
from llmasos.kernel.manifest import Manifest
from llmasos_registry.client.connection import RegistryNotFound
from llmasos_registry.client.locked import LockedWheel
from llmasos_registry.client.sources import Signatures, Source
from llmasos_registry.client.verify import Signed, Verifier
from llmasos_registry.wheel.archive import WheelFacts, read_wheel
from llmasos_registry.wheel.hosting import check_hosted
from llmasos_registry.wheel.plugin import read_plugin
from llmasos_registry.wheel.refusal import LIMITS


class WheelMismatch(PluginError):
    """A wheel is sound but is not what was announced."""


@dataclass(frozen=True, slots=True)
class CheckedWheel:
    """A wheel that passed: where it lies, what is in it, who signed it. ``manifest`` is None for a library."""

    path: Path
    wheel: LockedWheel
    facts: WheelFacts
    manifest: Manifest | None
    publisher: str | None
    signed: Signed | None


class Wheelhouse:
    """The folder of checked wheels: ``<sha256>/<file name>``."""

    def __init__(self, folder: Path, verifier: Verifier) -> None:
        self._folder = folder
        self._verifier = verifier

    def place(self, wheel: LockedWheel) -> Path:
        """Where a wheel lies once it is here."""
        return self._folder / wheel.sha256[:2] / wheel.sha256 / wheel.filename

    def fetch(
        self,
        name: str,
        version: str,
        wheel: LockedWheel,
        source: Source,
        signatures: Signatures,
        *,
        locked_keyid: str | None = None,
        read: Callable[[int], None] | None = None,
    ) -> CheckedWheel:
        """The wheel, from here or from the source, checked. ``read`` is told how many bytes came in.

        Raises DigestMismatch, SignatureRefused, TrustChanged, WheelRefused, WheelMismatch, and what the source raises.
        """
        place = self.place(wheel)
        signed = None
        if signatures.publisher is not None:
            signed = self._verifier.verify_wheel(
                filename=wheel.filename,
                sha256=wheel.sha256,
                project=name,
                publisher=signatures.publisher,
                version=version,
                envelopes=signatures.envelopes,
                locked_keyid=locked_keyid,
            )
        else:
            self._verifier.check_library(name, wheel.filename)
        if locked_keyid is not None and (signed is None or signed.keyid != locked_keyid):
            found = "no signature" if signed is None else signed.keyid
            raise WheelMismatch(f"{wheel.filename}: the lock names the key {locked_keyid}, found {found}")
        if place.is_file():
            with suppress(RunError):  # damaged on this disk: fetched again
                self._verifier.verify_file(place, wheel.sha256, name=wheel.filename)
                return self._checked(place, name, version, wheel, signatures, signed)
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = place.parent / f".{os.getpid()}.{os.urandom(4).hex()}.part"
        try:
            try:
                self._download(scratch, wheel, source, read)
            except RegistryNotFound as error:
                raise RegistryNotFound(
                    f"{wheel.filename}: expected a file with sha256 {wheel.sha256}, and there is none: {error.message}",
                    hint=error.hint or "it was deleted, or replaced by another; nothing was installed",
                ) from error
            checked = self._checked(scratch, name, version, wheel, signatures, signed)
            os.replace(scratch, place)
        finally:
            scratch.unlink(missing_ok=True)
        return CheckedWheel(place, wheel, checked.facts, checked.manifest, checked.publisher, checked.signed)

    def _download(
        self, scratch: Path, wheel: LockedWheel, source: Source, read: Callable[[int], None] | None
    ) -> None:
        limit = LIMITS.archive if wheel.size is None else wheel.size
        digest, size = hashlib.sha256(), 0
        with open(scratch, "xb") as file, source.wheel(wheel) as pieces:
            for piece in pieces:
                size += len(piece)
                if size > limit:
                    raise RunError(
                        f"{wheel.filename} is longer than the {limit} bytes that were announced",
                        hint="nothing was installed",
                    )
                digest.update(piece)
                file.write(piece)
                if read is not None:
                    read(len(piece))
            file.flush()
            os.fsync(file.fileno())
        self._verifier.verify_digest(digest.hexdigest(), wheel.sha256, name=wheel.filename)

    def _checked(
        self,
        path: Path,
        name: str,
        version: str,
        wheel: LockedWheel,
        signatures: Signatures,
        signed: Signed | None,
    ) -> CheckedWheel:
        facts = read_wheel(path, filename=wheel.filename)
        if (facts.name, facts.version) != (name, version):
            raise WheelMismatch(
                f"{wheel.filename} holds {facts.name} {facts.version}, expected {name} {version}"
            )
        manifest = read_plugin(facts)
        if signatures.publisher is not None:
            check_hosted(facts)
        return CheckedWheel(path, wheel, facts, manifest, signatures.publisher, signed)
