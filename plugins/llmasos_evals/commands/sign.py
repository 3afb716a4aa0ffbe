"""``llmasos eval sign``: stand behind a record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llmasos.api import UsageError, command_options
from llmasos_evals.records.options import key_option, run_argument


@click.command(short_help="Sign the record of a run.")
@run_argument
@key_option
@command_options
@click.pass_obj
def command(state: Any, run: Path, key: Path | None) -> None:
    """Sign the record of RUN with your publisher key.

    The signature goes into record.sig beside the record. It covers all of the record, and through it every sample. The signature
    of somebody else is not replaced.
    """
    from llmasos_evals.records.reading import open_run
    from llmasos_evals.records.record import record_digest
    from llmasos_evals.records.signing import (
        check_signature,
        in_words,
        read_signature,
        sign_document,
        signature_path,
    )
    from llmasos_evals.records.store import write_json

    found = open_run(run)
    if found.imported:
        raise UsageError(f"{run} was imported", hint="sign what you computed: whoever computed it signs it")
    if record_digest(found.record) != found.record["digest"]:
        raise UsageError(
            f"{found.path}: its digest does not fit its content", hint="it was changed after it was written"
        )
    path = signature_path(found.path)
    earlier = read_signature(state.hub, found.path, found.record)
    envelope = sign_document(state.hub, found.record, key)
    signed = check_signature(state.hub, found.record, envelope)
    if earlier is not None and earlier.keyid != signed.keyid:
        raise UsageError(
            f"{run} is signed by {in_words(earlier)} already",
            hint=f"say what you found with `llmasos eval verify {run}`; to publish it as yours, remove {path} first",
        )
    write_json(path, envelope)
    state.output.emit(
        {"record": found.record["digest"], "keyid": signed.keyid, "signature": path},
        f"signed by {in_words(signed)}: {path}",
    )
