"""Checks of processors: the built-in ones pass, and each rule is broken by a processor made for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from llmasos.api import Decision, Document, InputError
from llmasos.testing.conformance import assert_conforms, processor
from llmasos.testing.conformance.processor import CHECKS, ProcessorSubject


class Right:
    version = "1"

    def process(self, documents: Iterable[Document]) -> Iterator[Decision]:
        for document in documents:
            yield Decision(
                document, kept=len(document.text) > 3, reason="" if len(document.text) > 3 else "too_short"
            )


class SkipsDropped(Right):
    def process(self, documents: Iterable[Document]) -> Iterator[Decision]:
        return (decision for decision in super().process(documents) if decision.kept)


class NoReason(Right):
    def process(self, documents: Iterable[Document]) -> Iterator[Decision]:
        return (Decision(decision.document, decision.kept) for decision in super().process(documents))


class RaisesOnAccents(Right):
    def process(self, documents: Iterable[Document]) -> Iterator[Decision]:
        for document in documents:
            yield Decision(Document(document.id, document.text.encode("ascii").decode(), document.meta))


class Counts(Right):
    """Every third document of the object's life is dropped."""

    def __init__(self) -> None:
        self.seen = itertools.count()

    def process(self, documents: Iterable[Document]) -> Iterator[Decision]:
        return (Decision(d, kept=next(self.seen) % 3 > 0, reason="third") for d in documents)


class FirstOfShard(Right):
    def process(self, documents: Iterable[Document]) -> Iterator[Decision]:
        return (Decision(d, kept=i > 0, reason="first") for i, d in enumerate(documents))


class WritesMeta(Right):
    def process(self, documents: Iterable[Document]) -> Iterator[Decision]:
        for document in documents:
            document.meta["length"] = len(document.text)
            yield Decision(document)


class NoVersion(Right):
    version = ""


class NewVersion(Right):
    made = itertools.count()

    def __init__(self) -> None:
        self.version = str(next(self.made))


class LosesAResolution:
    version = "1"

    def signatures(self, documents: Iterable[Document]) -> bytes:
        return b"%d" % len(list(documents))

    def resolve(self, shards: Iterable[bytes]) -> Iterator[bytes]:
        return (shard for shard in list(shards)[1:])

    def apply(self, documents: Iterable[Document], resolution: bytes) -> Iterator[Decision]:
        return (Decision(document) for document in documents)


BREAKS: list[tuple[Callable[[], Any], str]] = [
    (SkipsDropped, "processor.one_decision_each"),
    (NoReason, "processor.one_decision_each"),
    (RaisesOnAccents, "processor.one_decision_each"),
    (LosesAResolution, "processor.one_decision_each"),
    (Counts, "processor.deterministic"),
    (FirstOfShard, "processor.shards_do_not_matter"),
    (WritesMeta, "processor.documents_unchanged"),
    (NoVersion, "processor.version"),
    (NewVersion, "processor.version"),
]


@pytest.mark.parametrize(("make", "rule"), BREAKS, ids=lambda value: getattr(value, "__name__", value))
def test_a_wrong_processor_is_found(make: Callable[[], Any], rule: str) -> None:
    (check,) = [item for item in CHECKS if item.name == rule]
    finding = check.run(ProcessorSubject(make))
    assert finding.outcome == "broken", str(finding)


def test_every_check_is_shown_to_fail() -> None:
    assert {rule for _, rule in BREAKS} == {check.name for check in CHECKS}


def test_the_right_processor_passes() -> None:
    findings = assert_conforms(CHECKS, ProcessorSubject(Right))
    assert {finding.outcome for finding in findings} == {"kept"}


def test_the_built_in_processors_pass(hub: Callable[..., Any]) -> None:
    one = hub()
    checked = []
    for provided in one.names("processor"):
        factory = one.get("processor", provided.full_name)
        try:
            factory({}, one)
        except InputError:
            continue  # needs options
        assert_conforms(processor.CHECKS, ProcessorSubject(lambda factory=factory: factory({}, one)))
        checked.append(provided.name)
    assert {"unicode", "gopher", "exact_dedup", "near_dedup"} <= set(checked)
