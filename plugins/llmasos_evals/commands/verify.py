"""``llmasos eval verify``: compute a part of a record again, and say what came out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from llmasos.api import ExitCode, InputError, UsageError, command_options
from llmasos_evals.records.options import key_option, run_argument, task_options


@click.command(short_help="Compute a part of a record again.")
@run_argument
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    metavar="K",
    help="Documents to compute again, drawn now over all tasks.",
)
@click.option("--full", is_flag=True, help="Compute every document again.")
@click.option("--seed", metavar="TEXT", help="Decides the draw. [default: random, from the system]")
@click.option(
    "--model", metavar="MODEL", help="Where the model lies here. [default: the reference in the record]"
)
@click.option("--device", default="auto", show_default=True, help="For example cpu or cuda:0.")
@click.option(
    "--engine",
    type=click.Choice(["tree", "reference"]),
    help="Compute with this engine. [default: the one of the record]",
)
@click.option(
    "--signed-by", metavar="WHO", help="Demand a signature: a key id, `you`, or a pinned publisher."
)
@click.option(
    "--accept-lock",
    is_flag=True,
    help="Go on although plugins are not those of the record; the attestation says so.",
)
@click.option("--no-attestation", is_flag=True, help="Write no attestation.")
@click.option("--no-sign", is_flag=True, help="Write an attestation without a signature.")
@click.option("--allow-pickle", is_flag=True, help="Read weights from pickle files (tensors only).")
@key_option
@task_options
@command_options
@click.pass_obj
def command(
    state: Any,
    run: Path,
    sample: int,
    full: bool,
    seed: str | None,
    model: str | None,
    device: str,
    engine: str | None,
    signed_by: str | None,
    accept_lock: bool,
    no_attestation: bool,
    no_sign: bool,
    allow_pickle: bool,
    key: Path | None,
    include: tuple[Path, ...],
    allow_task_code: bool,
    allow_code_execution: bool,
) -> ExitCode:
    """Confirm or refute the record of RUN by computing some of its documents again.

    First everything is checked that needs no model: digests, signature, samples, plugins, tasks, data, weights, and that the scores follow
    from the stored answers. Then K documents are drawn, computed with the settings of the record and compared. The result is an attestation
    beside the record, signed with your publisher key. Exit code 0: confirmed; 1: refuted; 2: the record was refused before that.
    """
    from llmasos_evals.records.attestation import write_attestation
    from llmasos_evals.records.reading import open_run
    from llmasos_evals.records.replay import request_of, tasks_of
    from llmasos_evals.records.signing import in_words
    from llmasos_evals.records.store import require_writable

    if no_sign and key is not None:
        raise UsageError("--key and --no-sign exclude each other")
    found = open_run(run, fresh=True)
    if found.imported:
        raise InputError(
            f"{run} was computed by another harness and imported", hint="only records of llmasos are verified"
        )
    if not no_attestation:
        require_writable(found.folder, "--no-attestation writes nothing there")
    changes: dict[str, Any] = {
        "tasks": tasks_of(found.record),
        "include": include,
        "device": device,
        "allow_task_code": allow_task_code,
        "allow_code_execution": allow_code_execution,
        "allow_pickle": allow_pickle,
    }
    if model is not None:
        changes["model"] = model
    if engine is not None:
        changes["engine"] = engine
    with state.output.progress() as progress:
        progress.phase("checking the record")
        # Here, because it brings torch, which takes a second.
        from llmasos_evals.records.verification import Wish, verify

        state.hub.progress = progress
        wish = Wish(None if full else sample, seed, signed_by, accept_lock)
        attestation = verify(found, request_of(found.record, **changes), state.hub, progress, wish)
    path = signed = None
    if not no_attestation:
        sign = not no_sign and _has_key(state, key)
        path, signed = write_attestation(state.hub, found.folder, attestation, sign=sign, key=key)
    state.output.emit(
        {**attestation, "file": path, "keyid": signed.keyid if signed else None},
        lambda: "\n".join(report(attestation)),
    )
    if path is not None:
        state.output.note(f"attestation, signed by {in_words(signed)}: {path}")
    return ExitCode.RUN_FAILED if attestation["verdict"] == "refuted" else ExitCode.OK


def _has_key(state: Any, key: Path | None) -> bool:
    """Whether there is a key to sign with. One that was named must be there; without any the user is told how to make one."""
    if key is not None or (state.config.config_dir / "keys" / "publisher.pem").exists():
        return True
    state.output.warn(
        "you have no key, so the attestation is not signed and counts little: `llmasos registry key new`"
    )
    return False


def report(attestation: Mapping[str, Any]) -> list[str]:
    """What came out, for people."""
    size, total = attestation["sample"], attestation["documents"]
    how = f"all {total} documents" if attestation["kind"] == "full" else f"{size} of {total} documents"
    tolerance = attestation["tolerance"]
    came_out = (
        f"{attestation['verdict']}: {how} computed again, {attestation['agreed']} agreed, "
        f"{len(attestation['refuted'])} did not, {attestation['undecided']} undecided"
    )
    apart = (
        f"largest difference {attestation['largest_difference']:.2g} nats; allowed for {tolerance['dtype']}: "
        f"{tolerance['nats']:g} times the square root of the tokens"
    )
    lines = [came_out, apart, "all scores follow from the stored answers"]
    if attestation["kind"] != "full":
        met = ", ".join(f"{float(share):.0%}: {p:.1%}" for share, p in attestation["detection"].items())
        lines.append(
            f"had so many documents been altered, this draw would have met one with probability  {met}"
        )
    if attestation["seed"] is not None and attestation["seed"]["source"] == "given":
        lines.append("the seed was given: whoever could know it before, could know what is drawn")
    lines += [f"differs from the lock: {line}" for line in attestation["differences"]]
    for entry in attestation["refuted"][:20]:
        lines.append(f"  {entry['task']}, document {entry['index']}: {entry['what']}")
    if len(attestation["refuted"]) > 20:
        lines.append(f"  and {len(attestation['refuted']) - 20} more")
    return lines
