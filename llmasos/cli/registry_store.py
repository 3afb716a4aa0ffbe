"""``llmasos registry gc | scrub | backup | restore | audit``: looking after a registry's data while it serves."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from llmasos.cli.registry_accounts import operator
from llmasos.cli.registry_serve import data_option, opened, server_packages
from llmasos.cli.state import State, common_options, pass_state
from llmasos.errors import ExitCode


@click.command("gc")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@data_option
@common_options
@pass_state
def gc(state: State, dry_run: bool, data: Path | None) -> None:
    """Remove what nothing refers to any more and is older than the setting gc_grace."""
    with opened(data) as registry, state.output.progress() as progress:
        from llmasos_registry.server.db.engine import utcnow
        from llmasos_registry.server.store.backup import maintenance
        from llmasos_registry.server.store.gc import collect

        with maintenance(registry.settings.data, alone=True):
            progress.phase("looking at objects")
            found = collect(registry, operator(), now=utcnow(), dry_run=dry_run, advance=progress.advance)
    verb = "would remove" if dry_run else "removed"
    state.output.emit(
        {**asdict(found), "dry_run": dry_run},
        f"{verb} {found.blobs:,} blobs ({found.bytes:,} bytes), {found.commits:,} commits, "
        f"{found.git_trees + found.git_blobs:,} git objects, {found.temporary:,} temporary files; "
        f"{found.kept:,} blobs stay",
    )


@click.command("scrub")
@data_option
@common_options
@pass_state
def scrub(state: State, data: Path | None) -> ExitCode:
    """Read every blob again. What has other bytes than its name says goes to quarantine. Exits with 1 when anything is wrong."""
    with opened(data) as registry, state.output.progress() as progress:
        from llmasos_registry.server.store.scrub import scrub as run

        progress.phase("reading bytes")
        found = run(registry, operator(), progress.advance)
    for digest in found.corrupt:
        state.output.warn(f"blob {digest} had other bytes and is in quarantine")
    for digest in found.missing:
        state.output.warn(f"blob {digest} is missing")
    for name in found.untrue:
        state.output.warn(f"git {name} is not what its id says")
    bad = len(found.corrupt) + len(found.missing) + len(found.untrue)
    state.output.emit(
        {**asdict(found), "clean": found.clean},
        f"read {found.blobs:,} blobs ({found.bytes:,} bytes) and {found.git_objects:,} git objects: "
        + ("all as they should be" if found.clean else f"{bad:,} wrong"),
    )
    return ExitCode.OK if found.clean else ExitCode.RUN_FAILED


@click.command("backup")
@click.argument("target", type=click.Path(path_type=Path))
@data_option
@common_options
@pass_state
def backup(state: State, target: Path, data: Path | None) -> ExitCode:
    """Write a backup into the new folder TARGET. The registry may go on serving."""
    with opened(data) as registry, state.output.progress() as progress:
        from llmasos_registry.server.store.backup import back_up, maintenance

        with maintenance(registry.settings.data, alone=False):
            progress.phase("bytes read")
            known = back_up(registry, target.absolute(), progress.advance)
    for digest in known["damaged"]:
        state.output.warn(f"blob {digest} is missing or has other bytes; it is not in the backup")
    state.output.emit(
        {**known, "path": target.absolute()},
        f"backup in {target}: {known['blobs']:,} blobs, {known['bytes']:,} bytes, serial {known['serial']:,}",
    )
    return ExitCode.OK if not known["damaged"] else ExitCode.RUN_FAILED


@click.command("restore")
@click.argument("source", metavar="BACKUP", type=click.Path(path_type=Path, exists=True, file_okay=False))
@data_option
@common_options
@pass_state
def restore(state: State, source: Path, data: Path | None) -> None:
    """Make a registry from BACKUP, in a new or empty data folder. Every digest is checked."""
    with server_packages():
        from llmasos_registry.server.serve import open_registry
        from llmasos_registry.server.settings import load_settings
        from llmasos_registry.server.store.backup import restore as run
    settings = load_settings({"data": data})
    with state.output.progress() as progress:
        progress.phase("bytes read")
        known = run(source.absolute(), settings, open_registry, operator(), progress.advance)
    state.output.emit(
        {**known, "path": settings.data},
        f"restored {known['blobs']:,} blobs and the database of {known['created_at']} to {settings.data}",
    )


@click.group()
def audit() -> None:
    """The record of every change."""


@audit.command("verify")
@data_option
@common_options
@pass_state
def audit_verify(state: State, data: Path | None) -> ExitCode:
    """Check that no line of the audit log was changed or taken out. Exits with 1 when one was."""
    with opened(data) as registry, state.output.progress() as progress, registry.db.read() as conn:
        from llmasos_registry.server.accounts.audit_chain import verify_chain

        progress.phase("lines read")
        lines, digest, faults = verify_chain(conn, progress.advance)
    for fault in faults:
        state.output.warn(fault)
    state.output.emit(
        {"lines": lines, "digest": digest, "faults": faults},
        f"{lines:,} lines, {'whole' if not faults else f'{len(faults):,} faults'}; last digest {digest or 'none'}",
    )
    return ExitCode.OK if not faults else ExitCode.RUN_FAILED
