"""A record for people: what was scored, the table with intervals, and what others found when they verified it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

COLUMNS = ("task", "version", "shots", "metric", "filter", "value", "95 % interval", "stderr", "unit", "n")


def show_record(state: Any, path: Path) -> bool:
    """`llmasos eval show RUN`: the record and its verification state, as a table or as JSON. Raises InputError.

    False for a record that is not what was written or signed.
    """
    from llmasos_evals.records.checks import lacking
    from llmasos_evals.records.reading import open_run
    from llmasos_evals.records.standing import standing_of

    run = open_run(path)
    standing = standing_of(run, state.hub)
    for remark in [*standing.remarks, *lacking(run)]:
        state.output.warn(remark)

    def human() -> str:
        return "\n".join(
            [
                *heading(run.record, standing.in_words()),
                "",
                state.output.table(COLUMNS, list(rows(run.record))),
            ]
        )

    state.output.emit({"record": run.record, "verification": standing.as_json()}, human)
    return not standing.altered


def heading(record: Mapping[str, Any], state: str) -> list[str]:
    """What stands above the table."""
    model = record["model"]
    lines = [f"model     {model['ref']}" + (f" at {model['revision']}" if model.get("revision") else "")]
    details = [model.get("architecture"), model.get("dtype"), model.get("device"), record["scorer"]["name"]]
    lines.append(
        f"computed  {', '.join(str(part) for part in details if part)}, {record['timings']['started']}"
    )
    lines.append(f"record    {record['digest']}")
    if record.get("rescored_from"):
        lines.append(f"rescored  from {record['rescored_from']}")
    lines.append(f"state     {state}")
    return lines


def rows(record: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Rows of the table: groups with their members below them, then tasks that belong to no group."""
    tasks = {task["name"]: task for task in record["tasks"]}
    groups = {group["name"]: group for group in record["groups"]}
    inner = {member for group in groups.values() for member in group["members"]}

    def below(name: str, above: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
        entry = groups.get(name) or tasks.get(name)
        if entry is None or name in above:
            return  # a record of a stranger may name what is not there, or itself
        label, shots = "- " * len(above) + str(entry["alias"]), entry.get("num_fewshot", "")
        for place, score in enumerate(entry["scores"] or [None]):
            head = (label, entry["version"], shots) if place == 0 else ("", "", "")
            yield (*head, *_cells(score))
        for member in entry.get("members", ()):
            yield from below(member, (*above, name))

    for name in [
        *(group for group in groups if group not in inner),
        *(task for task in tasks if task not in inner),
    ]:
        yield from below(name, ())


def _cells(score: Mapping[str, Any] | None) -> tuple[Any, ...]:
    if score is None:
        return ("",) * 7
    low, high = bounds(score)
    interval = "" if low is None or high is None else f"{shown(low)} to {shown(high)}"
    stderr = score["stderr"]
    return (
        score["metric"],
        score["filter"],
        shown(score["value"]),
        interval,
        "" if stderr is None else shown(stderr),
        score.get("unit") or "",
        score["n"],
    )


def bounds(score: Mapping[str, Any]) -> tuple[Any, Any]:
    """The interval of a score, no further than its metric goes: one from a standard error knows no bounds."""
    low, high = score.get("ci_low"), score.get("ci_high")
    least, most = score.get("range") or (None, None)
    if least is not None and isinstance(low, float | int):
        low = max(low, least)
    if most is not None and isinstance(high, float | int):
        high = min(high, most)
    return low, high


def shown(value: Any) -> str:
    """A number with four decimals; large ones with as many digits as tell something."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return str(value)
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.6g}"
