"""``llmasos backend``: what computes models here, whether it is right, and how fast it is.

Plugins add commands as ``backend.NAME``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import click

from llmasos.cli.groups import OpenGroup
from llmasos.cli.output import Figure
from llmasos.cli.placement import device_option, dtype_option
from llmasos.cli.state import State, common_options, pass_state
from llmasos.errors import ExitCode, UsageError

F = TypeVar("F", bound=Callable[..., Any])


class BackendGroup(OpenGroup):
    """``llmasos backend --explain`` is short for ``llmasos backend info --explain``."""

    prefix = "backend"
    core: ClassVar[Mapping[str, tuple[str, str]]] = {
        "bench": ("llmasos.cli.backend:bench", "Time the ops of a back end beside the reference."),
        "check": ("llmasos.cli.backend:check", "Compare the ops of a back end with the reference."),
        "info": ("llmasos.cli.backend:info", "Show what a model would be bound to, and why."),
        "list": ("llmasos.cli.backend:list_", "List back ends and the devices they find."),
    }

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """As click, with the short form."""
        if args and args[0] == "--explain":
            args = ["info", *args]
        return super().parse_args(context, args)


@click.command(cls=BackendGroup)
def command() -> None:
    """List, describe, check and time back ends.

    `llmasos backend --explain` is short for `llmasos backend info --explain`.
    """


def placement_options(function: F) -> F:
    """NAME, ``--device`` and ``--dtype``."""
    return click.argument("name", required=False)(device_option(dtype_option(function)))


# ---- list -------------------------------------------------------------------------------------------------------------


@click.command("list", short_help="List back ends and the devices they find.")
@common_options
@pass_state
def list_(state: State) -> None:
    """Every back end of the enabled plugins with what it finds here, and which one a model gets that names none."""
    from llmasos.pipelines.backends import list_backends

    with state.output.progress() as progress:
        progress.phase("asking back ends what they find")
        value = list_backends(state.hub)
    state.output.emit(value, lambda: _list_page(state, value))


def _list_page(state: State, value: dict[str, Any]) -> str:
    rows = [(row["name"], row["priority"], _devices(row), row["summary"]) for row in value["backends"]]
    if not rows:
        return "no back ends: no enabled plugin provides one"
    lines = [state.output.table(("back end", "priority", "devices", "summary"), rows), ""]
    for policy, taken in value["auto"].items():
        where = "nothing serves it" if taken is None else f"{taken['backend']} on {taken['device']}"
        lines.append(f"--device auto --dtype {policy}: {where}")
    return "\n".join(lines)


def _devices(row: dict[str, Any]) -> str:
    found = [f"{device['device']} ({', '.join(device['dtypes'])})" for device in row["devices"]]
    return ", ".join(found) or "none here"


# ---- info -------------------------------------------------------------------------------------------------------------


@click.command(short_help="Show what a model would be bound to, and why.")
@placement_options
@click.option("--explain", is_flag=True, help="Say of every back end why it was taken or not.")
@common_options
@pass_state
def info(state: State, name: str | None, device: str, dtype: str, explain: bool) -> None:
    """What a model would compute with: each op's provider, what was refused and why, and what the back end says of itself.

    NAME is a back end; without it, the one that a model gets on that device in that precision.
    """
    from llmasos.pipelines.backends import describe_backend

    with state.output.progress() as progress:
        progress.phase("checking the ops")
        value = describe_backend(state.hub, name, device, dtype)
    state.output.emit(value, lambda: _info_page(state, value, explain))


def _info_page(state: State, value: dict[str, Any], explain: bool) -> str:
    if value["packs"]:
        weights = "laid out by the back end"
    else:
        refused = value["pack_refused"]
        weights = f"as they are: {refused}" if refused else "as they are"
    facts = {
        "back end": f"{value['name']} {value['version']}".strip(),
        "summary": value["summary"],
        "device": f"{value['device']}, {value['dtype']}",
        "weights": weights,
        **value["facts"],
    }
    width = max(len(name) for name in facts) + 2
    lines = [f"{name:<{width}}{text}" for name, text in facts.items()]
    ops = [(row["op"], row["provider"]) for row in value["ops"]]
    lines += ["", state.output.table(("op", "provider"), ops)]
    refused_ops = [row["refused"] for row in value["ops"] if row["refused"]]
    if refused_ops:
        rows = [(row["provider"], row["reason"]) for row in refused_ops]
        lines += ["", state.output.table(("refused", "why"), rows)]
    if explain:
        rows = [(candidate["name"], candidate["verdict"]) for candidate in value["candidates"]]
        lines += ["", state.output.table(("back end", "for this request"), rows)]
    return "\n".join(lines)


# ---- check ------------------------------------------------------------------------------------------------------------


@click.command(short_help="Compare the ops of a back end with the reference.")
@placement_options
@click.option("--thorough", is_flag=True, help="Try more sizes and widths.")
@common_options
@pass_state
def check(state: State, name: str | None, device: str, dtype: str, thorough: bool) -> ExitCode:
    """Compare every op of a back end with the reference, on plain weights and on weights that it laid out.

    Exits with 1 when an op is refused. What a plugin declares not to do is no failure.
    """
    from llmasos.pipelines.backends import check_backend

    with state.output.progress() as progress:
        value = check_backend(state.hub, name, device, dtype, thorough=thorough, progress=progress)
    state.output.emit(value, lambda: _check_page(state, value))
    return ExitCode.OK if value["passed"] else ExitCode.RUN_FAILED


def _check_page(state: State, value: dict[str, Any]) -> str:
    rows = []
    for one in value["checks"]:
        difference = one["difference"]
        verdict = "agrees"
        if one["reason"] is not None:
            verdict = f"not used: {one['reason']}" if one["declared"] else f"REFUSED: {one['reason']}"
        rows.append(
            (
                one["op"],
                "packed" if one["packed"] else "plain",
                one["provider"],
                "" if difference is None else f"{difference:.3g}",
                f"{one['allowed']:.3g}",
                verdict,
            )
        )
    lines = [state.output.table(("op", "weights", "provider", "difference", "allowed", "verdict"), rows)]
    if value["missing"]:
        lines += ["", f"not its own, so the reference's are used: {', '.join(value['missing'])}"]
    refused = [one for one in value["checks"] if one["reason"] is not None and not one["declared"]]
    end = "passes" if value["passed"] else f"fails {len(refused)} of {len(value['checks'])} checks"
    return "\n".join([*lines, "", f"{value['name']} on {value['device']} in {value['dtype']} {end}"])


# ---- bench ------------------------------------------------------------------------------------------------------------


def _rows(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        rows = tuple(int(part) for part in text.split(","))
    except ValueError:
        rows = ()
    if not rows or not all(1 <= count <= 65536 for count in rows):
        raise UsageError(f"--rows {text} is not a list of numbers from 1 to 65536", hint="--rows 1,8,64")
    return rows


@click.command(short_help="Time the ops of a back end beside the reference.")
@placement_options
@click.option(
    "--rows",
    default="1,8,64,512",
    show_default=True,
    callback=_rows,
    metavar="N,N",
    help="Tokens of a call, or sequences of a decode step.",
)
@click.option(
    "--width",
    type=click.IntRange(64, 16384),
    default=768,
    show_default=True,
    help="Width of the model, a multiple of 64.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.0, max=60.0),
    default=0.25,
    show_default=True,
    help="Time for each op and shape.",
)
@common_options
@pass_state
def bench(
    state: State, name: str | None, device: str, dtype: str, rows: tuple[int, ...], width: int, seconds: float
) -> None:
    """Time each op of a back end beside the reference, in turns, on the shapes of a GPT-2 layer.

    Ops are those that a model would get: one that is refused shows the reference twice. Needs about 2 GB of memory.
    """
    from llmasos.pipelines.opbench import bench_backend

    with state.output.progress() as progress:
        value = bench_backend(
            state.hub, name, device, dtype, rows=rows, width=width, seconds=seconds, progress=progress
        )
    state.output.emit(value, lambda: _bench_page(state, value))


def _bench_page(state: State, value: dict[str, Any]) -> str:
    columns = ("op", "shape", "rows", "us", "reference us", "times faster", "GFLOP/s", "GB/s", "with")
    rows = []
    for one in value["timings"]:
        what = (
            "packed weights" if one.packed else "" if _own(one.provider, value["name"]) else "the reference"
        )
        rows.append(
            (
                one.op,
                one.shape,
                one.rows,
                Figure(one.microseconds),
                Figure(one.reference_microseconds),
                Figure(one.ratio),
                None if one.gflops is None else Figure(one.gflops),
                Figure(one.gb_s),
                what,
            )
        )
    where = f"{value['name']} on {value['device']} in {value['dtype']}"
    memory = f"torch reads {Figure(value['read_bandwidth_gb_s'])} GB/s from memory"
    software = f"torch {value['torch']}, {value['threads']} threads"
    lines = [state.output.table(columns, rows), "", f"{where}; {software}; {memory}"]
    lines += [f"refused: {name} {reason}" for name, reason in value["refused"].items()]
    return "\n".join(lines)


def _own(provider: str, backend: str) -> bool:
    return provider.startswith(f"{backend}.")
