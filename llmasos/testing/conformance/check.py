"""A check and what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

S = TypeVar("S")

Outcome = Literal["kept", "broken", "does not apply"]


@dataclass(frozen=True, slots=True)
class Observation:
    """What a check saw: one line."""

    outcome: Outcome
    text: str


def kept(text: str) -> Observation:
    """The rule holds; ``text`` says on how much it was tried."""
    return Observation("kept", text)


def broken(text: str) -> Observation:
    """The rule does not hold; ``text`` is the smallest example found."""
    return Observation("broken", text)


def does_not_apply(text: str) -> Observation:
    """The subject makes no promise that the rule is about."""
    return Observation("does not apply", text)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check, with everything its reader needs."""

    check: str
    rule: str
    outcome: Outcome
    observation: str
    fix: str

    def __str__(self) -> str:
        lines = [
            f"{self.outcome.upper()}  {self.check}",
            f"  rule: {self.rule}",
            f"  seen: {self.observation}",
        ]
        if self.outcome == "broken":
            lines.append(f"  fix:  {self.fix}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Check(Generic[S]):
    """One rule of a contract. ``run`` never raises for what the subject does: an exception is a broken rule."""

    name: str
    rule: str
    fix: str
    observe: Callable[[S], Observation]

    def run(self, subject: S) -> Finding:
        """Try the rule on ``subject``."""
        try:
            seen = self.observe(subject)
        except (
            Exception,
            SystemExit,
        ) as error:  # a stranger's code may raise anything; that is what was observed
            seen = broken(f"raised {type(error).__name__}: {' '.join(str(error).split()) or '(no message)'}")
        return Finding(self.name, self.rule, seen.outcome, seen.text, self.fix)


def check(name: str, *, rule: str, fix: str) -> Callable[[Callable[[S], Observation]], Check[S]]:
    """Make a function that observes a subject into a Check."""

    def make(observe: Callable[[S], Observation]) -> Check[S]:
        return Check(name, rule, fix, observe)

    return make


def run_checks(checks: Iterable[Check[S]], subject: S) -> list[Finding]:
    """The finding of each check, in order."""
    return [item.run(subject) for item in checks]


def report(findings: Sequence[Finding]) -> str:
    """All findings for people: the broken ones first, then one line a kept one."""
    bad = [finding for finding in findings if finding.outcome == "broken"]
    rest = [finding for finding in findings if finding.outcome != "broken"]
    lines = [str(finding) for finding in bad]
    lines += [f"{finding.outcome}  {finding.check}: {finding.observation}" for finding in rest]
    return "\n".join(lines)


def assert_conforms(checks: Iterable[Check[S]], subject: S) -> list[Finding]:
    """Run the checks and fail, with rule, observation and fix, when one is broken. Raises AssertionError."""
    findings = run_checks(checks, subject)
    bad = [finding for finding in findings if finding.outcome == "broken"]
    if bad:
        raise AssertionError(f"{len(bad)} of {len(findings)} rules are broken\n" + "\n".join(map(str, bad)))
    return findings
