"""How far a record has been verified: self-reported, spot-checked (how many, by whom), fully re-run, refuted, or altered."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmasos.api import HubAPI, LlmasosError, Signed
from llmasos_evals.records.attestation import read_attestation
from llmasos_evals.records.reading import Run
from llmasos_evals.records.record import record_digest
from llmasos_evals.records.signing import described, in_words, read_signature

#: What is said of a run that another harness computed.
IMPORTED = "{} was computed by another harness and imported: nothing about it can be verified here"
#: More attestations than this beside one record are not looked at.
MAX_ATTESTATIONS = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """One attestation that is about this record and whose signature, if any, holds."""

    path: Path
    attestation: dict[str, Any]
    signed: Signed | None
    #: Why it says nothing about who else looked; None for one signed with a key that was not revoked and is not the one that
    #: signed the record.
    discounted: str | None

    @property
    def independent(self) -> bool:
        """Whether somebody else stands behind it."""
        return self.discounted is None


@dataclass(slots=True)
class Standing:
    """A record's signature and attestations. ``remarks`` are lines about files that do not count, and why.

    ``altered``: its digest or its signature does not fit it, so nothing that others said was about what stands there now.
    """

    imported: bool
    signed: Signed | None
    altered: bool = False
    findings: list[Finding] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        """``imported``, ``altered``, ``refuted``, ``fully re-run``, ``spot-checked`` or ``self-reported``.

        A confirmation counts when somebody else signed it; a refutation always, since anybody can check it.
        """
        if self.imported:
            return "imported"
        if self.altered:
            return "altered"
        if any(finding.attestation["verdict"] == "refuted" for finding in self.findings):
            return "refuted"
        kinds = {finding.attestation["kind"] for finding in self.findings if finding.independent}
        if "full" in kinds:
            return "fully re-run"
        return "spot-checked" if kinds else "self-reported"

    def in_words(self) -> str:
        """The state, and who found what."""
        if self.altered:
            return "altered: it is not what was written or signed, and no attestation counts"
        parts = [self.state + (f", signed by {in_words(self.signed)}" if self.signed else ", not signed")]
        for finding in self.findings:
            found = finding.attestation
            how = "all" if found["kind"] == "full" else f"{found['sample']} of {found['documents']}"
            parts.append(
                f"{found['verdict']} by {in_words(finding.signed)} on {found['when'][:10]}: {how} documents computed again, "
                f"{found['agreed']} agreed, {len(found['refuted'])} did not"
                + (f", {found['undecided']} undecided" if found["undecided"] else "")
                + (f" (does not change the state: {finding.discounted})" if finding.discounted else "")
            )
        return "\n          ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "state": self.state,
            "signed": described(self.signed),
            "attestations": [
                {
                    "file": finding.path.name,
                    "signed": described(finding.signed),
                    "independent": finding.independent,
                    **{
                        name: finding.attestation[name]
                        for name in (
                            "verdict",
                            "kind",
                            "documents",
                            "sample",
                            "agreed",
                            "undecided",
                            "when",
                            "detection",
                        )
                    },
                    "refuted": len(finding.attestation["refuted"]),
                }
                for finding in self.findings
            ],
            "remarks": list(self.remarks),
        }


def standing_of(run: Run, hub: HubAPI) -> Standing:
    """What is known of a run. Files that do not hold count as if they were not there, with a remark each."""
    if run.imported:
        return Standing(imported=True, signed=None)
    standing = Standing(imported=False, signed=None)
    if record_digest(run.record) != run.record["digest"]:
        standing.remarks.append(
            f"{run.path}: its digest does not fit its content; it was changed after it was written"
        )
        standing.altered = True
    try:
        standing.signed = read_signature(hub, run.path, run.record)
    except LlmasosError as error:
        standing.remarks.append(f"{run.path}: its signature does not hold: {error.message}")
        standing.altered = True
    for path in sorted(run.folder.glob("attestation-*.json"))[:MAX_ATTESTATIONS]:
        try:
            found = read_attestation(path)
            if found["record"] != run.record["digest"]:
                standing.remarks.append(f"{path} is about another record")
                continue
            signed = read_signature(hub, path, found)
        except LlmasosError as error:
            standing.remarks.append(f"{path} does not count: {error.message}")
            continue
        standing.findings.append(Finding(path, found, signed, _discount(signed, standing.signed)))
    return standing


def _discount(signed: Signed | None, publisher: Signed | None) -> str | None:
    """Why an attestation is nobody else's."""
    if signed is None:
        return "nobody signed it"
    if signed.revoked:
        return "its key was revoked"
    return "the record's own signer made it" if publisher and signed.keyid == publisher.keyid else None
