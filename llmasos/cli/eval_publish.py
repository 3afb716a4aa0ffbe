"""``llmasos eval publish``, ``fetch``, ``attest`` and ``leaderboard``: results and a registry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from llmasos.cli.state import State, common_options, pass_state

_registry_option = click.option("--registry", metavar="URL", help="The registry. [env: LLMASOS_REGISTRY]")
_account_option = click.option(
    "--account", metavar="NAME", help="You, or an organisation whose key signed.  [default: you]"
)


@click.command()
@click.argument("run", type=click.Path(path_type=Path, file_okay=False))
@_account_option
@click.option("--samples/--no-samples", default=True, help="Send the samples too.", show_default=True)
@_registry_option
@common_options
@pass_state
def publish(state: State, run: Path, account: str | None, samples: bool, registry: str | None) -> None:
    """Publish the signed record of RUN, and its samples.

    With samples others can compute documents again, and leaderboards can test models against each other. A published record
    is never changed.
    """
    from llmasos_registry.client.credentials import connect
    from llmasos_registry.client.publisher import caller_name
    from llmasos_registry.client.results import publish_run

    with (
        state.output.progress() as progress,
        connect(state.config, registry, need_token=True) as connection,
    ):
        done = publish_run(connection, run, account or caller_name(connection), progress, samples=samples)
    for task in done.missing:
        state.output.warn(f"the samples of {task} are not in {run}: nobody can test or verify this score")
    value = {**done.answer, "sent": done.sent}
    state.output.emit(value, f"{done.answer['digest']}  {done.answer['state']}")


@click.command()
@click.argument("digest")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), required=True, metavar="DIR", help="A new folder."
)
@_registry_option
@common_options
@pass_state
def fetch(state: State, digest: str, output: Path, registry: str | None) -> None:
    """Fetch the published record DIGEST with its samples, to look at or to verify."""
    from llmasos_registry.client.credentials import connect
    from llmasos_registry.client.results import fetch_run

    with state.output.progress() as progress, connect(state.config, registry) as connection:
        answer = fetch_run(connection, digest, output, progress)
    facts = {key: value for key, value in answer.items() if key not in ("record", "signature")}
    state.output.emit({"folder": output, **facts}, str(output))


@click.command()
@click.argument("attestation", type=click.Path(path_type=Path, dir_okay=False))
@_account_option
@_registry_option
@common_options
@pass_state
def attest(state: State, attestation: Path, account: str | None, registry: str | None) -> None:
    """Send the signed ATTESTATION that `llmasos eval verify` wrote about a published record."""
    from llmasos_registry.client.credentials import connect
    from llmasos_registry.client.publisher import caller_name
    from llmasos_registry.client.results import attest as send

    with connect(state.config, registry, need_token=True) as connection:
        answer = send(connection, attestation, account or caller_name(connection))
    words = f"{answer['verdict']} by {answer['by']}: {answer['sample']} of {answer['documents']} documents"
    state.output.emit(answer, words)


@click.command()
@click.argument("task", required=False)
@click.option("--metric", metavar="NAME", help="Only this metric.")
@click.option("--limit", type=click.IntRange(1, 50), default=20, show_default=True, help="Rows of a column.")
@_registry_option
@common_options
@pass_state
def leaderboard(state: State, task: str | None, metric: str | None, limit: int, registry: str | None) -> None:
    """Show the published scores of TASK, those that may be compared together; without TASK, the tasks.

    Scores stand in one table only when task, data, metric, shots and template agree. `p` tests a row against the one above
    it, document by document.
    """
    from llmasos_registry.client.connection import path_segment
    from llmasos_registry.client.credentials import connect

    with connect(state.config, registry) as connection:
        if task is None:
            answer = connection.get("/v1/leaderboards")
            rows = [(one["task"], one["models"]) for one in answer["tasks"]]
            state.output.emit(answer, lambda: state.output.table(("task", "models"), rows))
            return
        asked: dict[str, str | int] = {"limit": limit, **({"metric": metric} if metric else {})}
        answer = connection.get(f"/v1/leaderboards/{path_segment(task)}", asked)
    state.output.emit(answer, lambda: "\n\n".join(_column(state, column) for column in answer["columns"]))


_COLUMNS = ("", "model", "value", "95 % interval", "p", "verified", "by", "record")


def _column(state: State, column: Mapping[str, Any]) -> str:
    name = column["metric"] if column["filter"] == "none" else f"{column['metric']} ({column['filter']})"
    head = f"{name}, {column['documents']} documents, comparable as {column['comparable'][:12]}"
    rows = [
        (
            row["rank"],
            row["model"],
            row["value"],
            "" if row["ci_low"] is None else f"{row['ci_low']:.4f} to {row['ci_high']:.4f}",
            "" if row["above"] is None else f"{row['above']['p']:.4f}",
            row["state"],
            row["owner"],
            row["record"][:12],
        )
        for row in column["rows"]
    ]
    return f"{head}\n{state.output.table(_COLUMNS, rows)}"
