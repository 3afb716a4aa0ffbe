"""Checks of the ``Processor`` contract: a pure function of its options and the documents.

For GlobalProcessor the three steps are run over shards as a cluster would; an Exporter has no decisions to check.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llmasos.contracts.data import Decision, Document, GlobalProcessor, Processor
from llmasos.testing.conformance.check import Observation, broken, check, does_not_apply, kept
from llmasos.testing.conformance.corpus import corpus


@dataclass(frozen=True, slots=True)
class ProcessorSubject:
    """A processor under test: ``build`` makes a new one with the same options each time."""

    build: Callable[[], Any]


def documents() -> list[Document]:
    """The fuzz corpus as documents, some of them longer and some repeated."""
    texts = [*corpus(extra=24), "The mill on the hill has stood there longer than any of the houses. " * 40]
    texts += texts[4:8]
    return [Document(f"d{i:04}", text, {"number": i}) for i, text in enumerate(texts)]


def decide(processor: Any, shards: Sequence[Sequence[Document]]) -> list[Decision]:
    """The decisions over shards, in order, by whichever of the two ways the processor works."""
    if isinstance(processor, Processor):
        return [decision for shard in shards for decision in processor.process(iter(shard))]
    signatures = [processor.signatures(iter(shard)) for shard in shards]
    resolutions = list(processor.resolve(iter(signatures)))
    if len(resolutions) != len(shards):
        raise ValueError(f"resolve gave {len(resolutions)} resolutions for {len(shards)} shards")
    return [
        decision
        for shard, resolution in zip(shards, resolutions, strict=True)
        for decision in processor.apply(iter(shard), resolution)
    ]


def _decides(processor: Any) -> bool:
    return isinstance(processor, Processor | GlobalProcessor)


_EXPORTER = "it exports documents and makes no decisions"


@check(
    "processor.one_decision_each",
    rule="one decision for each document, in order, whatever the text; a dropped one says why in a short stable word",
    fix="yield in the loop over the documents; never raise for a text: drop it with a reason",
)
def one_decision_each(subject: ProcessorSubject) -> Observation:
    processor = subject.build()
    if not _decides(processor):
        return does_not_apply(_EXPORTER)
    given = documents()
    made = decide(processor, [given])
    if [decision.document.id for decision in made] != [document.id for document in given]:
        return broken(
            f"{len(given)} documents gave {len(made)} decisions, or in another order, or with other ids"
        )
    for decision in made:
        if not decision.kept and not re.fullmatch(r"[a-z0-9][a-z0-9_.:-]*", decision.reason):
            return broken(f"{decision.document.id} was dropped with the reason {decision.reason!r}")
    dropped = sum(not decision.kept for decision in made)
    return kept(f"{len(made)} decisions, {dropped} documents dropped")


@check(
    "processor.deterministic",
    rule="the same documents give the same decisions: a second time, and from a processor built again",
    fix="no clock, no unseeded randomness, no state that one pass leaves for the next, no order of a set",
)
def deterministic(subject: ProcessorSubject) -> Observation:
    processor = subject.build()
    if not _decides(processor):
        return does_not_apply(_EXPORTER)
    first = decide(processor, [documents()])
    for what, again in (
        ("a second time", decide(processor, [documents()])),
        ("built again", decide(subject.build(), [documents()])),
    ):
        different = [a.document.id for a, b in zip(first, again, strict=True) if a != b]
        if different:
            return broken(f"{what}, {different[0]} was decided otherwise")
    return kept(f"{len(first)} decisions, three times")


@check(
    "processor.shards_do_not_matter",
    rule="how documents are cut into shards changes no decision",
    fix="look at one document at a time; what must see all of them is a GlobalProcessor",
)
def shards_do_not_matter(subject: ProcessorSubject) -> Observation:
    given = documents()
    processor = subject.build()
    if not _decides(processor):
        return does_not_apply(_EXPORTER)
    whole = decide(processor, [given])
    for cuts in (
        [given[:1], given[1:]],
        [given[:20], given[20:40], given[40:]],
        [[d] for d in given],
        [given, []],
    ):
        parts = decide(subject.build(), cuts)
        different = [a.document.id for a, b in zip(whole, parts, strict=True) if a != b]
        if different:
            return broken(f"in {len(cuts)} shards {different[0]} was decided otherwise")
    return kept(f"{len(given)} documents cut in four ways")


@check(
    "processor.documents_unchanged",
    rule="documents that are given are not changed, nor is what their meta holds",
    fix="make a new Document, with a copy of meta",
)
def documents_unchanged(subject: ProcessorSubject) -> Observation:
    given = documents()
    processor = subject.build()
    if not _decides(processor):
        return does_not_apply(_EXPORTER)
    decide(processor, [given])
    changed = [now.id for now, then in zip(given, documents(), strict=True) if now != then]
    return broken(f"{changed[0]} was changed") if changed else kept(f"{len(given)} documents")


@check(
    "processor.version",
    rule="version is a text that is not empty and the same for the same options",
    fix='set version = "1" and change it whenever the output could change',
)
def version(subject: ProcessorSubject) -> Observation:
    first, second = subject.build().version, subject.build().version
    if not isinstance(first, str) or not first.strip():
        return broken(f"version is {first!r}")
    if first != second:
        return broken(f"version is {first!r} and then {second!r}")
    return kept(first)


CHECKS = (one_decision_each, deterministic, shards_do_not_matter, documents_unchanged, version)
