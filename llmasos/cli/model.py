"""``llmasos model``: look at models without loading them, and publish them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from llmasos.cli import model_quantise
from llmasos.cli.consent import registry_option, yes_option
from llmasos.cli.state import State, common_options, pass_state
from llmasos.sizes import size_text


@click.group()
def command() -> None:
    """Look at models, and publish them."""


command.add_command(model_quantise.command)


@command.command("info")
@click.argument("model")
@click.option("--tensors", is_flag=True, help="List every tensor with shape, type and size.")
@click.option("--allow-pickle", is_flag=True, help="Read pickle weights (pytorch_model.bin), arrays only.")
@yes_option
@common_options
@pass_state
def info(state: State, model: str, tensors: bool, allow_pickle: bool) -> None:
    """What MODEL is and which plugins would load it. Reads headers, not weights."""
    with state.output.progress() as progress:
        state.hub.progress = progress
        described = state.hub.describe(model, allow_pickle=allow_pickle)
    state.output.emit(described, lambda: _page(state, described, tensors))


@command.command("pull")
@click.argument("name", metavar="ORG/NAME[@VERSION]")
@click.option("--dataset", is_flag=True, help="It is a dataset.")
@click.option("--allow-unsigned", is_flag=True, help="Take it unsigned although its publisher has keys.")
@yes_option
@registry_option
@common_options
@pass_state
def pull(state: State, name: str, dataset: bool, allow_unsigned: bool, registry: str | None) -> None:
    """Fetch a model from the registry, checked file by file, with the plugins that it requires.

    VERSION is a release or a range ('>=1.2,<2'), or a branch, tag or commit. Without it the newest release is taken, and the head
    of main where there is none. What is here already is not fetched again.
    """
    from dataclasses import replace

    from llmasos.errors import PluginRequired
    from llmasos.pipelines.requirements import meet, model_manifest
    from llmasos_registry.client.plan import Plan
    from llmasos_registry.client.pull import ask, check_whole, parse_reference
    from llmasos_registry.client.session import Session

    reference = parse_reference(name, "dataset" if dataset else "model")
    check_whole(reference)
    output = state.output
    state.registry = registry
    with Session(state.config, registry, allow_unsigned=allow_unsigned, note=output.note) as session:
        with output.progress() as progress:
            progress.phase(f"asking for {reference}")
            model, warnings = ask(session.connection, reference, session.verifier)
            for text in warnings:
                progress.warn(text)
            step = session.model_step(model)
            if step is not None:
                session.apply(Plan(models=(replace(step, asked=reference.asked),)), progress)
            session.store.remember(model, reference.asked)
        kept = session.store.read(model.kind, model.id, model.commit) or model
        folder = session.store.folder(model.kind, model.id, model.commit)
    if not dataset:
        # What every use of a model goes through; the registry need not be asked a second time where it leads.
        try:
            meet(state.hub, model_manifest(folder).requires, f"registry://{reference}")
        except PluginRequired as error:
            if registry and error.hint and error.hint.startswith("llmasos install "):
                error.hint += f" --registry {registry}"
            raise
    output.emit(
        {
            "id": model.id,
            "kind": model.kind,
            "version": model.version,
            "commit": model.commit,
            "path": folder,
            "fetched": step is not None,
            "publisher": kept.publisher,
            "keyid": kept.keyid,
            "requires": list(model.requires),
        },
        str(folder),
    )


def _page(state: State, described: Mapping[str, Any], tensors: bool) -> str:
    architecture, stored, tokenizer = described["architecture"], described["tensors"], described["tokenizer"]
    rows: list[tuple[str, object]] = [
        ("reference", described["ref"]),
        ("path", described["path"]),
        ("source", described["source"]),
        ("revision", described["revision"]),
        ("licence", described["license"] or "not stated"),
        ("family", f"{architecture['family']} ({architecture['kind']})"),
        ("parameters", f"{architecture['parameters']:,}"),
        ("layers", architecture["layers"]),
        ("width", architecture["width"]),
        ("heads", f"{architecture['heads']} query, {architecture['kv_heads']} key/value"),
        ("vocabulary", f"{architecture['vocab_size']:,}"),
        ("context", f"{architecture['max_length']:,} tokens"),
        ("format", described["format"]),
        ("tensors", f"{stored['count']} ({size_text(stored['bytes'])})"),
        ("stored as", ", ".join(f"{count} {name}" for name, count in stored["dtypes"].items())),
        (
            "tokenizer",
            tokenizer.get("error") or f"{tokenizer['format']}, {tokenizer['vocab_size']:,} entries",
        ),
        ("chat template", "none" if tokenizer.get("error") or not tokenizer["chat_template"] else "yes"),
        ("loaded by", described["plugins"]["architecture"]),
        ("weights read by", described["plugins"]["weight_loader"]),
    ]
    lines = [f"{name:<16} {value}" for name, value in rows if value is not None]
    if tensors:
        table = [(t["name"], "x".join(map(str, t["shape"])), t["dtype"], t["bytes"]) for t in stored["list"]]
        lines += ["", state.output.table(("tensor", "shape", "type", "bytes"), table)]
    return "\n".join(lines)


@command.command(short_help="Publish a model in a registry.")
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("name", metavar="ORG/NAME")
@click.option("--version", metavar="1.2.0", help="Seal the content as this version.")
@click.option("--message", "-m", help="What changed: the first line is the title of the commit.")
@click.option("--private", is_flag=True, help="A new repository is private.")
@click.option("--dataset", is_flag=True, help="PATH is a data set, not a model.")
@click.option(
    "--key", type=click.Path(dir_okay=False, path_type=Path), help="Sign with the key in this file."
)
@click.option("--no-sign", is_flag=True, help="Publish without a signature.")
@click.option("--registry", metavar="URL", help="The registry to publish in. [env: LLMASOS_REGISTRY]")
@click.option(
    "--write-card", is_flag=True, help="Write a template of README.md to fill in, and publish nothing."
)
@common_options
@pass_state
def publish(
    state: State,
    path: Path,
    name: str,
    version: str | None,
    message: str | None,
    private: bool,
    dataset: bool,
    key: Path | None,
    no_sign: bool,
    registry: str | None,
    write_card: bool,
) -> None:
    """Make the repository ORG/NAME equal to the folder PATH, signed with your key.

    Only what changed is uploaded; files that are no longer in the folder are deleted. A run that was interrupted is
    finished by the same command. With --version the content is sealed: that version never changes.
    """
    from llmasos_registry.client import model_folder, publish_model

    kind = "dataset" if dataset else "model"
    publish_model.split_id(name)
    if write_card:
        card = model_folder.write_card(path, name, kind)
        state.output.emit({"card": card}, f"wrote {card}: fill it in, then publish")
        return
    from llmasos.cli.registry_key import signing_key
    from llmasos_registry.client.credentials import connect

    signer = signing_key(state, key, no_sign)
    with (
        connect(state.config, registry, need_token=True) as connection,
        state.output.progress() as progress,
    ):
        done = publish_model.publish_model(
            connection,
            path,
            name,
            key=signer,
            progress=progress,
            kind=kind,
            version=version,
            message=message,
            private=private,
        )
        url = connection.url

    def human() -> str:
        title = f"{done.id} {done.version}" if done.version else done.id
        if done.changed or done.deleted or done.sealed_now:
            what = (
                f"{len(done.changed)} files changed, {len(done.deleted)} deleted, {done.unchanged} unchanged"
            )
        else:
            what = "it was there already"
        lines = [f"published {title} at {url}: {what}", f"commit {done.commit}"]
        lines.append(f"signed with {done.keyid}" if done.keyid else "not signed by this run")
        if done.left_out:
            lines.append(f"left out: {', '.join(done.left_out)}")
        return "\n".join(lines)

    state.output.emit({"registry": url, **done._asdict()}, human)


@command.command(short_help="Take a published version back.")
@click.argument("name", metavar="ORG/NAME")
@click.argument("version")
@click.option("--reason", default="", help="Shown to those who ask for this very version.")
@click.option("--undo", is_flag=True, help="Offer the version again.")
@click.option("--dataset", is_flag=True, help="It is a data set, not a model.")
@click.option("--registry", metavar="URL", help="The registry. [env: LLMASOS_REGISTRY]")
@common_options
@pass_state
def yank(
    state: State, name: str, version: str, reason: str, undo: bool, dataset: bool, registry: str | None
) -> None:
    """Take VERSION of ORG/NAME back: ranges no longer choose it, exact versions and locks still do."""
    from llmasos_registry.client.credentials import connect
    from llmasos_registry.client.yank import yank_model

    kind = "dataset" if dataset else "model"
    with connect(state.config, registry, need_token=True) as connection:
        yank_model(connection, name, kind, version, None if undo else reason)
    state.output.emit(
        {"id": name, "kind": kind, "version": version, "yanked": not undo},
        f"{name} {version} is {'offered again' if undo else 'yanked'}",
    )
