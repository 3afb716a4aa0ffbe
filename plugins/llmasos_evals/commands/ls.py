"""``llmasos eval ls``: the tasks, groups and tags there are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from llmasos.api import command_options

COLUMNS = ("name", "kind", "scored by", "shots", "data", "tags")
#: Tags shown in a cell; all of them are in --json.
_TAGS = 3


@click.command()
@click.argument("pattern", required=False)
@click.option(
    "--include",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="DIR",
    help="List the task files of this folder too. May be repeated.",
)
@click.option("--tag", "wanted_tag", metavar="TAG", help="Only tasks with this tag.")
@click.option("--groups", is_flag=True, help="Only groups and tags.")
@command_options
@click.pass_obj
def command(
    state: Any, pattern: str | None, include: tuple[Path, ...], wanted_tag: str | None, groups: bool
) -> None:
    """List tasks, groups and tags.

    PATTERN is a part of the name, or a pattern such as 'blimp_*'. Folders in the setting `include` of the plugin llmasos-evals are listed
    without --include. The first look into a large folder reads its files; later ones take what was found then, and read what changed.
    """
    from llmasos_evals.tasks.names import Names, has_magic, matches

    with state.output.progress() as progress:
        names = Names(include, state.hub, progress)
        part = pattern if pattern is not None and not has_magic(pattern) else wanted_tag
        entries = [names.looked_at(entry) for entry in names.entries(part)]
        broken = names.broken()
    chosen = [
        entry
        for entry in entries
        if (
            pattern is None or (matches(entry.name, pattern) if has_magic(pattern) else pattern in entry.name)
        )
        and not (groups and entry.kind == "task")
        and (
            wanted_tag is None
            or (entry.kind == "task" and entry.summary is not None and wanted_tag in entry.summary.tags)
        )
    ]
    chosen.sort(key=lambda entry: entry.name)
    if broken:
        path, message = next(iter(broken.items()))
        message = message if path in message else f"{path}: {message}"
        state.output.warn(
            f"{len(broken)} file{'s' if len(broken) > 1 else ''} could not be read, the first: {message}"
        )
    if not chosen:
        state.output.note("nothing matches")
    # What a plugin says about its tasks; the description in a task file is what stands before its prompts.
    told = any(entry.summary is not None and entry.file is None for entry in chosen)
    state.output.emit(
        [_facts(entry) for entry in chosen],
        lambda: state.output.table(
            (*COLUMNS, "about") if told else COLUMNS,
            [_row(entry) + ((_about(entry),) if told else ()) for entry in chosen],
        ),
    )


def _about(entry: Any) -> str:
    return entry.summary.description if entry.summary is not None and entry.file is None else ""


def _row(entry: Any) -> tuple[Any, ...]:
    facts = entry.summary
    if facts is None:
        return entry.name, entry.kind, "", "", f"{len(entry.members)} tasks", ""
    data = facts.dataset_path or ""
    if facts.dataset_name:
        data += f" ({facts.dataset_name})"
    tags = ", ".join(facts.tags[:_TAGS]) + (" ..." if len(facts.tags) > _TAGS else "")
    shots = "" if facts.num_fewshot is None else facts.num_fewshot
    return entry.name, entry.kind, facts.output_type or "", shots, data, tags


def _facts(entry: Any) -> dict[str, Any]:
    facts = entry.summary
    found: dict[str, Any] = {"name": entry.name, "kind": entry.kind, "origin": entry.origin}
    if entry.kind == "tag":
        return found | {"members": list(entry.members)}
    return found | dict(_known(facts))


def _known(facts: Any) -> Iterator[tuple[str, Any]]:
    for name in ("output_type", "dataset_path", "dataset_name", "num_fewshot", "description"):
        yield name, getattr(facts, name)
    yield "tags", list(facts.tags)
