"""What can be said of a record without the model: whether it agrees with itself, its samples, and what lies here.

Every function returns lines that name what differs; no line means that everything fits.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from llmasos.api import HubAPI, InputError, LlmasosError, RunError, Signed, canonical_digest, merkle_root
from llmasos_evals.records.reading import Run
from llmasos_evals.records.record import record_digest
from llmasos_evals.records.results import Tally, score_section
from llmasos_evals.records.samples import read_items
from llmasos_evals.records.signing import read_signature
from llmasos_evals.tasks.library import Selection
from llmasos_evals.tasks.task import Score, Task

#: Scores are computed again with the same code; other versions of numpy may sum in another order.
_SAME = 1e-9


def check_digests(record: Mapping[str, Any]) -> list[str]:
    """Digests in the record that are not those of what they are over."""
    expected = {
        "digest": (record["digest"], record_digest(record)),
        "model.digest": (record["model"]["digest"], canonical_digest(record["model"]["files"])),
        "scorer.plan_digest": (record["scorer"]["plan_digest"], canonical_digest(record["scorer"]["plan"])),
        "prompt_digest": (
            record["prompt_digest"],
            merkle_root([task["prompt_digest"] for task in record["tasks"]]),
        ),
        "samples_digest": (
            record["samples_digest"],
            merkle_root([task["samples_digest"] for task in record["tasks"]]),
        ),
    }
    return [_differs(name, stated, found) for name, (stated, found) in expected.items() if stated != found]


def check_signer(hub: HubAPI, run: Run, demanded: str | None) -> tuple[Signed | None, list[str]]:
    """Who signed the record. ``demanded`` is a keyid or the name of a publisher whose signature it must have."""
    try:
        signed = read_signature(hub, run.path, run.record)
    except (RunError, InputError) as error:
        return None, [f"signature: {error.message}"]
    if signed is not None and signed.revoked:
        return signed, [f"signature: the key {signed.keyid} was revoked"]
    if demanded is not None:
        if signed is None:
            return None, [f"signature: there is none, and one by {demanded} is demanded"]
        if demanded not in (signed.keyid, *signed.known_as):
            known = f", known as {', '.join(signed.known_as)}" if signed.known_as else ""
            return signed, [f"signature: by {signed.keyid}{known}, and one by {demanded} is demanded"]
    return signed, []


def refuse_broken_signature(run: Run, hub: HubAPI) -> None:
    """Raise InputError for a record with a signature that does not hold, or by a key that was revoked."""
    _, found = check_signer(hub, run, None)
    if found:
        raise InputError(
            f"{run.path}: {found[0]}",
            hint="ask whoever gave you the record; without the file beside it (.sig) it counts as not signed",
        )


def refuse_touched(run: Run) -> None:
    """Raise InputError for a run of which record or samples were changed after they were written.

    For those who act on what a record says. Samples that did not come along cannot be looked at.
    """
    run.refuse_if_touched()
    found = check_samples(run, [name for name in run.tasks if run.has_samples(name)])
    if found:
        raise InputError(
            f"the samples in {run.folder} are not those of its record: {found[0]}",
            hint="compute the run again, or ask whoever gave you the files",
        )


def refuse_other_values(run: Run, hub: HubAPI) -> None:
    """Raise InputError for a score that its samples do not come to, in a record that was sealed anew after it was changed.

    Scores whose rule only the task's own code knows, and those without samples, cannot be looked at.
    """
    from llmasos_evals.statistics.pairing import agrees
    from llmasos_evals.statistics.signatures import aggregation_for

    for task in run.tasks:
        if not run.has_samples(task):
            continue
        columns: dict[tuple[str, str], list[Any]] = {}
        for sample in run.samples(task):
            for key, value in read_items(sample).items():
                columns.setdefault(key, []).append(value)
        for score in run.task(task)["scores"]:
            aggregation = aggregation_for(score["signature"], hub) if score["signature"] else None
            items = columns.get((score["metric"], score["filter"]), [])
            if aggregation is not None and (
                not items or not agrees(float(aggregation.value(items)), score["value"])
            ):
                raise InputError(
                    f"the samples of {task} in {run.folder} do not give the record's {score['metric']}",
                    hint="the score was changed; `llmasos eval verify` says more",
                )


def lacking(run: Run) -> list[str]:
    """Samples that are not here or cannot be read, as far as the places of their lines tell; whether they are those of the
    record only reading them says."""
    found = []
    absent = [name for name in run.tasks if not run.has_samples(name)]
    if absent:
        more = f" and {len(absent) - 3} more tasks" if len(absent) > 3 else ""
        found.append(
            f"the samples of {', '.join(absent[:3])}{more} are not in {run.folder}: nothing can be verified, compared or looked at"
        )
    for name in run.tasks:
        if name not in absent:
            try:
                run.count(name)
            except LlmasosError as error:
                found.append(error.message)
    return found


def doubts(run: Run, hub: HubAPI, most: int = 10) -> list[str]:
    """In what the samples of a run are not those of its record, for those who show it all the same. Reads all of them.

    Nothing for an imported run, whose record says nothing about its samples.
    """
    missing = lacking(run)
    if run.imported or missing:
        return missing
    found = []
    for name in run.tasks:
        if not _as_written(run, name):
            found += check_samples(run, [name])
    if not found:
        try:
            refuse_other_values(run, hub)
        except LlmasosError as error:
            found = [error.message]
    more = [f"and {len(found) - most} more"] if len(found) > most else []
    return [f"the samples are not those of the record: {line}" for line in found[:most]] + more


def _as_written(run: Run, task: str) -> bool:
    """Whether the lines of a task are, byte for byte, those that the record's digest is over: found without reading JSON."""
    try:
        leaves = [hashlib.sha256(line.rstrip(b"\n")).hexdigest() for line in run.lines(task)]
    except LlmasosError:
        return False
    return merkle_root(leaves) == run.task(task)["samples_digest"]


def check_samples(run: Run, tasks: Sequence[str] | None = None) -> list[str]:
    """Samples that are not those of the record: roots and counts of each task."""
    found = []
    for name in run.tasks if tasks is None else tasks:
        section = run.task(name)
        try:
            tally = Tally()
            for sample in run.samples(name):
                ids = [response["ids_digest"] for response in sample["responses"]]
                if sample["prompt_digest"] != canonical_digest(ids):
                    found.append(
                        f"task {name}: document {sample['index']}: prompt_digest is not over its token ids"
                    )
                tally.add(sample)
            stated = {what: section[what] for what in ("prompt_digest", "samples_digest", "counts")}
            computed = {
                "prompt_digest": tally.prompt_digest,
                "samples_digest": tally.samples_digest,
                "counts": tally.counts(),
            }
        except LlmasosError as error:
            found.append(f"task {name}: {error.message}")
            continue
        except (KeyError, TypeError, ValueError) as error:
            found.append(f"task {name}: its samples cannot be read: {error}")
            continue
        found += [
            _differs(f"task {name}: {what} of the samples", stated[what], computed[what])
            for what in stated
            if stated[what] != computed[what]
        ]
    return found


def check_lock(record: Mapping[str, Any], installed: Iterable[Mapping[str, Any]]) -> list[str]:
    """Plugins of the record that are not here as they were: missing, of another version, or with other code."""
    here = {plugin["id"]: plugin for plugin in installed}
    found = []
    for plugin in [*record["plugins"], *record["rescored_by"]]:
        mine = here.get(plugin["id"])
        if mine is None:
            line = f"plugin {plugin['id']} {plugin['version']} is not installed"
        elif mine["version"] != plugin["version"]:
            line = f"plugin {plugin['id']} is {mine['version']} here, the record has {plugin['version']}"
        elif mine["digest"] != plugin["digest"]:
            line = (
                f"plugin {plugin['id']} {plugin['version']} has other code here: "
                f"{_short(mine['digest'])}, the record has {_short(plugin['digest'])}"
            )
        else:
            continue
        if line not in found:
            found.append(line)
    return found


def check_tasks(record: Mapping[str, Any], selection: Selection) -> list[str]:
    """Tasks, task code and data that are not here as they were."""
    here = {task.name: task for task in selection.tasks}
    found = []
    for section in record["tasks"]:
        task = here.get(section["name"])
        if task is None:
            found.append(
                f"task {section['name']} is not among the tasks that {record['settings']['tasks']} stand for here"
            )
            continue
        for what, mine in (
            ("version", task.version),
            ("code", dict(task.code)),
            ("digest", task.digest),
            ("data_digest", data_digest(task, section)),
        ):
            if mine != section[what]:
                found.append(_differs(f"task {task.name}: {what}", section[what], mine))
    return found


def data_digest(task: Task, section: Mapping[str, Any]) -> str:
    """The digest of a task's data here, over the rows that the record's is over.

    Without examples that is the scored rows. The first records had the few-shot pool in it all the same, and still hold.
    """
    shots = section["num_fewshot"]
    found = task.data_digest(shots)
    if shots or found == section["data_digest"]:
        return found
    with suppress(LlmasosError):  # what cannot be read cannot be what the record is over
        if task.data_digest(1) == section["data_digest"]:
            return task.data_digest(1)
    return found


def check_model(record: Mapping[str, Any], facts: Mapping[str, Any], max_length: int) -> list[str]:
    """A model or tokenizer that is another one than that of the record."""
    model, files = record["model"], dict(facts["files"])
    found = []
    if canonical_digest(files) != model["digest"]:
        found.append(_differs("model.digest (weights)", model["digest"], canonical_digest(files)))
        changed = [name for name in sorted(model["files"]) if files.get(name) != model["files"][name]]
        found += [f"model file {name} is another one or missing" for name in changed[:8]]
    for what, mine in (("format", facts["format"]), ("dtype", facts["dtype"]), ("max_length", max_length)):
        if mine != model[what]:
            found.append(_differs(f"model.{what}", model[what], mine))
    if facts["tokenizer"]["digest"] != record["tokenizer"]["digest"]:
        found.append(
            _differs("tokenizer.digest", record["tokenizer"]["digest"], facts["tokenizer"]["digest"])
        )
    return found


def check_scores(section: Mapping[str, Any], scores: Sequence[Score], where: str) -> list[str]:
    """Scores of a task or group that do not follow from the stored answers."""
    stated = {(score["metric"], score["filter"]): score for score in section["scores"]}
    computed = {(score.metric, score.filter): score_section(score) for score in scores}
    found = [
        f"{where}: {metric} ({pipeline}) is not what the answers come to: there is no such score"
        for metric, pipeline in stated.keys() - computed.keys()
    ]
    found += [
        f"{where}: {metric} ({pipeline}) is missing from the record"
        for metric, pipeline in computed.keys() - stated.keys()
    ]
    for key in stated.keys() & computed.keys():
        for what, value in stated[key].items():
            if not _same(value, computed[key][what]):
                found.append(_differs(f"{where}: {what} of {key[0]} ({key[1]})", value, computed[key][what]))
    return found


def _same(stated: Any, computed: Any) -> bool:
    if isinstance(stated, list) and isinstance(computed, list):
        return len(stated) == len(computed) and all(map(_same, stated, computed))
    if isinstance(stated, float | int) and isinstance(computed, float | int):
        return math.isclose(stated, computed, rel_tol=_SAME, abs_tol=_SAME)
    return bool(stated == computed)


def _differs(what: str, stated: Any, found: Any) -> str:
    return f"{what} is {_short(found)} here, the record has {_short(stated)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:38]}...{text[-38:]}"
