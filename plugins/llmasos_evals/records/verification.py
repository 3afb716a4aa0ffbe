"""Computing a part of somebody's record again, drawn after the record was there.

First everything that needs no model: the record agrees with itself and its samples, the lock, tasks, data and weights are
those that are here, the scores follow from the stored answers. Then documents are drawn, computed with the record's own
settings, and compared.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmasos.api import EvalRequest, HubAPI, InputError, LoadedModel, Progress, Request
from llmasos_evals.evaluator import HarnessEvaluator, aggregate_runs, plan_tasks, select_tasks
from llmasos_evals.records.attestation import sealed
from llmasos_evals.records.checks import (
    check_digests,
    check_lock,
    check_model,
    check_samples,
    check_scores,
    check_signer,
    check_tasks,
)
from llmasos_evals.records.comparison import Comparison, Gap
from llmasos_evals.records.drawing import SHARES, detection, draw
from llmasos_evals.records.reading import Run, open_run
from llmasos_evals.records.replay import difference, only_these
from llmasos_evals.records.rescoring import scored_again
from llmasos_evals.records.runs import TaskRun
from llmasos_evals.records.tolerance import tolerance_of
from llmasos_evals.scoring.encoding import PairEncoder
from llmasos_evals.scoring.gaps import greedy_gap
from llmasos_evals.scoring.generation import generation_plan
from llmasos_evals.tasks.library import Selection


@dataclass(frozen=True, slots=True)
class Wish:
    """How a verifier wants to verify. ``sample`` None is all of it; ``seed`` None is one that the system draws."""

    sample: int | None = 64
    seed: str | None = None
    #: Keyid or publisher that must have signed the record.
    signed_by: str | None = None
    #: Go on although plugins differ from the record's lock; the attestation says so.
    accept_lock: bool = False


class RecordRefused(InputError):
    """A record that cannot be verified: it contradicts itself, or what it names is not here."""


def verify(run: Run, request: EvalRequest, hub: HubAPI, progress: Progress, wish: Wish) -> dict[str, Any]:
    """The attestation of what came out, not yet written. ``request`` is the record's, with what is local to this machine.

    ``run`` must have been opened with ``fresh``. Raises RecordRefused naming every mismatch, and what a run raises.
    """
    record = run.record
    if run.imported:
        raise RecordRefused(
            f"{run.folder} was computed by another harness and imported",
            hint="only a record of llmasos can be verified",
        )
    remarks = check_digests(record)
    remarks += check_signer(hub, run, wish.signed_by)[1]
    remarks += check_samples(run)
    _refuse(
        run, remarks, "nothing was computed: ask whoever gave you the record for its folder as it was written"
    )
    progress.phase("checking tasks and data")
    differences = check_lock(record, hub.provenance(plugins=_locked(record))["plugins"])
    selection = select_tasks(request, hub)
    remarks = check_tasks(record, selection)
    progress.phase(f"opening {request.model}")
    prepared = hub.prepare_model(
        request.model, device=request.device, dtype=request.dtype, allow_pickle=request.allow_pickle
    )
    remarks += check_model(record, prepared.facts, prepared.max_length)
    if differences and not remarks and not wish.accept_lock:
        _refuse(run, differences, "install those plugins, or go on with your own: --accept-lock")
    _refuse(run, ([] if wish.accept_lock else differences) + remarks, _ELSEWHERE)
    documents = {name: list(run.offsets(name).indices) for name in run.tasks}
    runs = plan_tasks(selection, only_these(request, documents), progress, prepared.tokenizer)
    _refuse(
        run,
        check_answers(run, runs, selection, request, progress),
        "the record was changed after it was computed, or by other code than it names; compute the run again",
    )

    total = sum(len(indices) for indices in documents.values())
    full = wish.sample is None or wish.sample >= total
    seed = wish.seed if wish.seed is not None else secrets.token_hex(32)
    drawn = documents if full else draw(documents, wish.sample or 0, seed)
    loaded: list[LoadedModel] = []

    def model() -> LoadedModel:
        if not loaded:
            loaded.append(prepared.load())
        return loaded[0]

    comparison = Comparison(
        tolerance_of(record["model"]["dtype"]),
        gap=_gaps(runs, model),
        generation={section["name"]: section["generation"] for section in record["tasks"]},
    )
    recomputed = compute_again(run, request, drawn, hub, progress, comparison)
    size = sum(len(indices) for indices in drawn.values())
    return sealed(
        {
            "record": record["digest"],
            "samples_digest": record["samples_digest"],
            "verdict": "refuted" if comparison.refuted else "confirmed",
            "kind": "full" if full else "spot-check",
            "documents": total,
            "sample": size,
            "seed": None if full else {"value": seed, "source": "system" if wish.seed is None else "given"},
            "drawn": {} if full else drawn,
            "agreed": comparison.agreed,
            "undecided": comparison.undecided,
            "refuted": [
                {"task": task, "index": index, "what": what} for task, index, what in comparison.refuted
            ],
            "tolerance": comparison.tolerance.as_json(),
            "largest_difference": comparison.largest,
            "scores_recomputed": True,
            "detection": {
                str(share): detection(total, size - comparison.undecided, share) for share in SHARES
            },
            "differences": differences,
            "engine": recomputed["scorer"]["name"],
            "plugins": recomputed["plugins"],
            "environment": recomputed["environment"],
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )


def check_answers(
    run: Run, runs: Sequence[TaskRun], selection: Selection, request: EvalRequest, progress: Progress
) -> list[str]:
    """Documents whose stored answers are to other questions, metric items and scores that do not follow from the answers."""
    found: list[str] = []
    progress.phase("computing the scores from the stored answers", sum(len(task.planned) for task in runs))
    for task in runs:
        for planned in task.planned:
            stored = run.sample(task.task.name, planned.index)
            reason = difference(planned, stored)
            if reason is None:
                again = scored_again(task, planned, stored)
                task.samples[planned.index] = dict(stored)
                wrong = [name for name in again.keys() | stored.keys() if again.get(name) != stored.get(name)]
                reason = f"{', '.join(sorted(wrong))} do not follow from its answers" if wrong else None
            if reason is not None:
                found.append(f"task {task.task.name}: document {planned.index}: {reason}")
            progress.advance()
    if found:
        return found
    _, scores = aggregate_runs(runs, request.bootstrap, progress, request.compat)
    for name in run.tasks:
        found += check_scores(run.task(name), scores[name], f"task {name}")
    means = selection.aggregate(scores)
    for group in run.record["groups"]:
        found += check_scores(group, means.get(group["name"], []), f"group {group['name']}")
    return found


def compute_again(
    run: Run,
    request: EvalRequest,
    drawn: Mapping[str, Sequence[int]],
    hub: HubAPI,
    progress: Progress,
    comparison: Comparison,
) -> Mapping[str, Any]:
    """Compute the drawn documents and compare them. Returns the record of that computation."""
    names = {name: list(drawn.get(name, ())) for name in run.tasks}
    with tempfile.TemporaryDirectory(prefix="llmasos-verify-") as scratch:
        part = only_these(request, names)
        part = replace(part, output=Path(scratch, "run"), bootstrap=0, cache=False)
        result = HarnessEvaluator().evaluate(part, hub, progress)
        again = open_run(Path(scratch, "run"), fresh=True)
        progress.phase("comparing", sum(len(indices) for indices in drawn.values()))
        for name in again.tasks:
            for sample in again.samples(name):
                comparison.add(name, run.sample(name, sample["index"]), sample)
                progress.advance()
        return result.record


def _gaps(runs: Sequence[TaskRun], model: Callable[[], LoadedModel]) -> Gap:
    """``Comparison.gap`` over the planned documents."""
    planned = {(task.task.name, document.index): document for task in runs for document in task.planned}

    def gap(task: str, index: int, number: int, answer: Mapping[str, Any] | None) -> float | None:
        request, loaded = planned[task, index].requests[number], model()
        encoder = PairEncoder(loaded.tokenizer, loaded.model.max_length)
        if answer is None:
            (row,) = encoder.pairs([request])
            return greedy_gap(loaded, row.ids, row.targets)
        return _generation_gap(request, answer, loaded, encoder)

    return gap


def _generation_gap(
    request: Request, answer: Mapping[str, Any], loaded: LoadedModel, encoder: PairEncoder
) -> float | None:
    """By how much a generated text falls short of greedy decoding; None when text and tokens do not belong together."""
    plan = generation_plan(request.options, where=f"task {request.key[0]}")
    room = encoder.max_length - plan.max_tokens
    (ids,) = encoder.encode([request.context])
    prompt = list(ids[-room:]) or [encoder.require_prefix()]
    output = [int(token) for token in answer.get("output", ())]
    if len(output) > plan.max_tokens or not all(0 <= token < loaded.model.vocab_size for token in output):
        return None
    whole = loaded.tokenizer.decode(output, skip_special_tokens=True)
    if answer["text"] != plan.cut(whole):
        return None
    # It ends because of its length, or of a stop string, or else because the model said so.
    ended = len(output) == plan.max_tokens or any(stop in whole for stop in plan.until)
    stated = loaded.model.config.get("eos_token_id")
    ends = {*loaded.tokenizer.special.stop, *(stated if isinstance(stated, list) else [stated])} - {None}
    return greedy_gap(loaded, [*prompt, *output], len(output), None if ended else ends)


def _locked(record: Mapping[str, Any]) -> list[str]:
    return sorted({plugin["id"] for plugin in [*record["plugins"], *record["rescored_by"]]})


_ELSEWHERE = "a record is verified with the plugins, tasks, data and weights that it names; see docs/how-to/verify-a-record.md"


def _refuse(run: Run, remarks: Sequence[str], hint: str, most: int = 20) -> None:
    """Raise RecordRefused when there is anything to say."""
    if not remarks:
        return
    more = f"\n  and {len(remarks) - most} more" if len(remarks) > most else ""
    lines = "".join(f"\n  {line}" for line in remarks[:most])
    raise RecordRefused(f"{run.path} is refused:{lines}{more}", hint=hint)
