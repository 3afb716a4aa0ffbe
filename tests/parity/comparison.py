"""Two runs of one task, document by document: lm-evaluation-harness (or its golden values) and ours."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Metrics that are a function of sums of log-probabilities: with real weights equal to this relative difference.
PERPLEXITIES = frozenset({"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"})
RELATIVE = 1e-4
#: Largest difference of a request's log-likelihood in nats, both sides computing in float32; of a rolling one, whose
#: thousands of tokens add up, the same for each window of this many tokens.
NATS = 1e-4
WINDOW = 128


@dataclass(frozen=True, slots=True)
class Row:
    """A score: theirs and ours."""

    metric: str
    theirs: float
    ours: float
    their_stderr: float | None
    our_stderr: float | None


@dataclass(frozen=True, slots=True)
class Doubt:
    """A log-likelihood on which both sides differ by more than ``NATS``: float64 has to say who is how far off."""

    index: int
    number: int
    theirs: float
    ours: float

    @property
    def where(self) -> str:
        return f"document {self.index}, request {self.number}"


@dataclass
class Comparison:
    """What was compared and everything that was not as it must be."""

    task: str
    documents: int = 0
    prompts: int = 0
    ids: int = 0
    requests: int = 0
    rows: list[Row] = field(default_factory=list)
    largest_nats: float = 0.0
    doubts: list[Doubt] = field(default_factory=list)
    #: What float64 said about them.
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def require(self, condition: bool, problem: str) -> None:
        """Note ``problem`` unless the condition holds."""
        if not condition:
            self.problems.append(problem)


def digest(value: Any) -> str:
    """sha256 over JSON without spaces, as the lm-eval side makes it."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def asked(sample: Mapping[str, Any]) -> list[list[str]]:
    """The texts of each request of one of our samples, as lm-eval has them in ``arguments``."""
    out = []
    for request in sample["requests"]:
        context = sample["prompts"][request["prompt"]]
        out.append([context, request["continuation"]] if request["kind"] == "loglikelihood" else [context])
    return out


def compare(
    task: str,
    theirs: Mapping[str, Any],
    samples: Iterable[Mapping[str, Any]],
    scores: Sequence[Mapping[str, Any]],
    *,
    exact: bool,
) -> Comparison:
    """Compare our first documents with theirs; scores only when all of theirs were run.

    ``exact``: answers came from the pseudo-model, so everything must be equal to the last bit.
    """
    result = Comparison(task)
    documents = theirs["documents"]
    for sample in samples:
        if result.documents == len(documents):
            result.problems.append(f"more documents than the {len(documents)} of lm-eval")
            break
        _compare_document(result, sample, documents[result.documents], exact)
        result.documents += 1
    result.require(result.documents > 0, "no documents")
    if result.documents == len(documents):
        compare_scores(result, theirs, scores, exact=exact)
    return result


def _compare_document(
    result: Comparison, sample: Mapping[str, Any], document: Mapping[str, Any], exact: bool
) -> None:
    where = f"document {sample['index']}"
    responses = sample["responses"]
    prompts_equal = digest(asked(sample)).startswith(document["prompts"])
    result.require(prompts_equal, f"{where}: other prompts")
    result.prompts += prompts_equal
    ids = [response["ids_digest"] for response in responses]
    ids_equal = len(ids) == len(document["ids"]) and all(map(str.startswith, ids, document["ids"]))
    result.require(ids_equal, f"{where}: other token ids")
    result.ids += ids_equal
    if len(responses) != len(document["responses"]):
        result.problems.append(
            f"{where}: {len(responses)} requests, lm-eval makes {len(document['responses'])}"
        )
        return
    result.requests += len(responses)
    for number, (response, answer) in enumerate(zip(responses, document["responses"], strict=True)):
        _compare_response(result, sample["index"], number, response, answer, exact)
    items = {f"{metric},{filter_name}": value for metric, filter_name, value in sample["items"]}
    known = document["metrics"]
    result.require(items.keys() == known.keys(), f"{where}: items {sorted(items)} and {sorted(known)}")
    for name in items.keys() & known.keys():
        if exact or name.split(",")[0] not in PERPLEXITIES:
            result.require(items[name] == known[name], f"{where}: {name} is {items[name]}")


def _compare_response(
    result: Comparison, index: int, number: int, response: Mapping[str, Any], answer: Any, exact: bool
) -> None:
    at = f"document {index}, request {number}"
    if isinstance(answer, str):
        result.require(text_matches(response["text"], answer), f"{at}: other text")
        return
    rolling = not isinstance(answer, list)
    nats, greedy = (answer, None) if rolling else answer
    difference = abs(response["logprob"] - nats)
    result.largest_nats = max(result.largest_nats, difference)
    if greedy is not None:
        result.require(response["is_greedy"] == bool(greedy), f"{at}: greedy flag")
    allowed = 0.0 if exact else NATS * max(1, response["tokens"] / WINDOW) if rolling else NATS
    if difference > allowed and not exact and not rolling:
        result.doubts.append(Doubt(index, number, nats, response["logprob"]))
    else:
        result.require(difference <= allowed, f"{at}: differs by {difference:.2e} nats")


def settle(result: Comparison, judged: Sequence[Sequence[float]]) -> list[str]:
    """Judge the doubts by what float64 says, in their order: one line each. ``judged``: float64's nats, and how far the
    harness's float32 is from them at worst, over batch sizes.

    Where a sentence is so badly conditioned that the harness's own batch size moves its score, ours may be as far off
    (twice, since that is a sample of its noise); where it does not, we are wrong.
    """
    lines = []
    for doubt, (nats, noise) in zip(result.doubts, judged, strict=True):
        theirs, ours = abs(doubt.theirs - nats), abs(doubt.ours - nats)
        line = (
            f"{doubt.where}: from float64 lm-eval is {theirs:.1e} off (by batch size up to {noise:.1e}), "
            f"llmasos {ours:.1e}"
        )
        result.require(ours <= max(NATS, 2 * noise), line)
        lines.append(line)
    return lines


def text_matches(text: str, answer: str) -> bool:
    """Whether a text is the one lm-eval wrote; golden files keep ``sha256:`` and a digest's beginning."""
    if answer.startswith("sha256:"):
        return hashlib.sha256(text.encode()).hexdigest().startswith(answer.removeprefix("sha256:"))
    return text == answer


def compare_scores(
    result: Comparison, theirs: Mapping[str, Any], scores: Sequence[Mapping[str, Any]], *, exact: bool
) -> None:
    """Compare values and standard errors, of a task or of a group."""
    ours = {f"{score['metric']},{score['filter']}": score for score in scores}
    known = theirs["results"]
    result.require(ours.keys() == known.keys(), f"metrics {sorted(ours)} and {sorted(known)}")
    for name in sorted(ours.keys() & known.keys()):
        row = Row(name, known[name], ours[name]["value"], theirs["stderr"][name], ours[name]["stderr"])
        result.rows.append(row)
        # With real weights a perplexity, and what is bootstrapped from it, is as exact as the log-likelihoods are.
        close = not exact and name.split(",")[0] in PERPLEXITIES
        result.require(_equal(row.ours, row.theirs, close), f"{name}: {row.ours} and {row.theirs}")
        # What lm-eval gives no standard error for is ours to give.
        if row.their_stderr is not None:
            result.require(
                _equal(row.our_stderr, row.their_stderr, close),
                f"stderr of {name}: {row.our_stderr} and {row.their_stderr}",
            )


def _equal(ours: Any, theirs: float, close: bool) -> bool:
    if not isinstance(ours, float | int):
        return False
    return math.isclose(ours, theirs, rel_tol=RELATIVE) if close else ours == theirs
