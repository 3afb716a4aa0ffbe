"""``llmasos eval show``: what a task is, or what a run came to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from llmasos.api import UnknownName, command_options

#: Longest value of a field shown to people; --json has all of it.
_FIELD = 400
_HEAD = 64 * 2**10


@click.command()
@click.argument("what", metavar="TASK|RUN")
@click.option(
    "--include",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="DIR",
    help="Look for task files here too. May be repeated.",
)
@click.option(
    "--num-fewshot", type=click.IntRange(min=0), metavar="N", help="Show the prompt with N examples."
)
@click.option(
    "--allow-task-code", is_flag=True, help="Let the task run its Python functions to make its prompt."
)
@click.option(
    "--allow-code-execution", is_flag=True, help="Look at tasks that run programs of the model too."
)
@command_options
@click.pass_obj
def command(
    state: Any,
    what: str,
    include: tuple[Path, ...],
    num_fewshot: int | None,
    allow_task_code: bool,
    allow_code_execution: bool,
) -> None:
    """Show a task, group or tag; or the record of a run.

    Of a task: its fields after includes, what it needs to be allowed, its data, its metrics, the digests of its files, and the prompt of its first
    document. Nothing is fetched but the eval.yaml of an hf:// address, and no code runs without --allow-task-code. RUN is a folder that `llmasos eval` wrote, or its record.json.
    """
    if _is_record(Path(what)):
        from llmasos_evals.records.presentation import show_record

        if not show_record(state, Path(what)):
            raise click.exceptions.Exit(1)
        return
    from llmasos_evals.tasks.names import Names
    from llmasos_evals.tasks.outline import outline

    try:
        with state.output.progress() as progress:
            told = outline(
                what,
                Names(include, state.hub, progress),
                state.hub,
                num_fewshot=num_fewshot,
                allow_task_code=allow_task_code,
                allow_code_execution=allow_code_execution,
            )
    except UnknownName as error:
        if len(Path(what).parts) > 1 or what.endswith("/"):
            error.message = f"there is no run and no task at {what}"
            error.hint = (
                "RUN is the folder that `llmasos eval` names at its end; `llmasos eval ls` lists tasks"
            )
        raise
    state.output.emit(told, lambda: "\n".join(_page(told)))


def _is_record(path: Path) -> bool:
    """Whether a path is a run: its folder, finished or not, or a record by whatever name."""
    if path.is_dir():
        return (path / "record.json").is_file() or (path / "run.json").is_file()
    if not path.is_file() or path.suffix != ".json":
        return False
    with path.open("rb") as handle:
        return b'"llmasos-record/' in handle.read(_HEAD)


def _page(told: Mapping[str, Any]) -> Iterator[str]:
    yield f"{told['name']} ({told['kind']})"
    yield f"from      {told['origin']}"
    if told.get("flags"):
        yield f"needs     {' '.join(told['flags'])}"
    if told.get("digest"):
        yield f"digest    {told['digest']}"
    if data := told.get("data"):
        yield from _data(data)
    yield from _section("fields", _fields(told.get("fields", {})))
    yield from _section("metrics", (f"{m['name']:<14} {m['signature']}" for m in told.get("metrics", ())))
    yield from _section("members", _tree(told.get("members", ()), 0))
    yield from _section("files", (f"{digest[:16]}  {file}" for file, digest in told.get("files", {}).items()))
    if prompt := told.get("prompt"):
        yield from _section("prompt of the first document", _prompt(prompt))
    yield from _section("notes", told.get("notes", ()))


def _section(title: str, lines: Any) -> Iterator[str]:
    found = list(lines)
    if found:
        yield ""
        yield f"{title}:"
        yield from (f"  {line}" for line in found)


def _data(data: Mapping[str, Any]) -> Iterator[str]:
    name = data["path"] or "made by the task"
    yield f"data      {name}" + (f" ({data['name']})" if data["name"] else "")
    if data["here"]:
        origin = data["origin"]
        revision = f" at {origin['revision']}" if origin.get("revision") else ""
        yield f"          here ({origin['kind']}{revision}): {data['documents']} documents in split {data['scored']}"
        yield f"          columns: {', '.join(data['columns'])}"
    elif data.get("note"):
        yield f"          {data['note']}"
        if data.get("hint"):
            yield f"          {data['hint']}"


def _fields(fields: Mapping[str, Any]) -> Iterator[str]:
    import json

    for key, value in fields.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        text = text.replace("\n", "\\n")
        yield f"{key}: {text if len(text) <= _FIELD else text[: _FIELD - 1] + '…'}"


def _tree(members: Any, depth: int) -> Iterator[str]:
    for member in members:
        notes = [member["kind"]] if member["kind"] != "task" else []
        notes += [f"{key}: {value}" for key, value in member.get("overrides", {}).items()]
        notes += [member["note"]] if "note" in member else []
        yield "- " * depth + member["name"] + (f" ({', '.join(notes)})" if notes else "")
        yield from _tree(member.get("members", ()), depth + 1)


def _prompt(prompt: Mapping[str, Any]) -> Iterator[str]:
    shown: list[str] = []
    for request in prompt["requests"]:
        if request["context"] not in shown:
            shown.append(request["context"])
            yield from ("| " + line for line in request["context"].split("\n"))
        if request["kind"] == "loglikelihood":
            yield f"-> {request['continuation']!r}"
    for key, value in prompt["options"].items():
        yield f"{key}: {value!r}"
    yield f"right: {prompt['target']!r}"
