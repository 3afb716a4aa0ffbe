"""``llmasos search``: what a registry has."""

from __future__ import annotations

from typing import Any

import click

from llmasos.cli.consent import registry_option
from llmasos.cli.state import State, common_options, pass_state

#: Results that one request brings.
_PAGE = 100


@click.command()
@click.argument("words", nargs=-1, metavar="[WORD]...")
@click.option(
    "--kind",
    type=click.Choice(["plugin", "model", "dataset", "package"]),
    help="Only this kind; a package is no plugin.",
)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Results at most.")
@registry_option
@common_options
@pass_state
def command(state: State, words: tuple[str, ...], kind: str | None, limit: int, registry: str | None) -> None:
    """Search the registry for plugins, models and datasets.

    Names come first, then descriptions, each with what is used most. Without a WORD: everything, the last change first.
    """
    from llmasos_registry.client.credentials import connect

    found: list[dict[str, Any]] = []
    params: dict[str, str | int] = {"q": " ".join(words), "kind": kind or "", "limit": min(limit, _PAGE)}
    with connect(state.config, registry) as connection:
        while True:
            answer = connection.get("/v1/search", params)
            found += answer["results"]
            if answer["next"] is None or len(found) >= limit:
                break
            params["cursor"] = answer["next"]
    found = found[:limit]
    rows = [(row["kind"], row["name"], row["version"] or "", row["summary"]) for row in found]
    state.output.emit(found, lambda: state.output.table(("kind", "name", "version", "summary"), rows))
    if not found:
        state.output.note("nothing found")
    elif answer["next"] is not None:
        state.output.note(f"there is more: --limit {min(10 * limit, 1000)}")
