"""Writes docs/reference/hooks.md from the specifications: ``python -m llmasos.hooks.reference > docs/reference/hooks.md``."""

from __future__ import annotations

import inspect
import sys
import textwrap

from llmasos.hooks import specs

HEADER = """\
# Hooks

<!-- Written by `python -m llmasos.hooks.reference`; a test compares this page with llmasos/hooks/specs.py. -->

A plugin implements a hook by defining a function of that name in the module its manifest names, marked with
`@hookimpl` from `llmasos.api`. It takes any subset of the arguments, by name and without default values.

| policy | who is called | a failure |
|---|---|---|
| collect | every enabled plugin that promises the kind; descriptors are sorted by plugin and name | is one warning; the others go on |
| first | plugins in the order of their ids until one does not answer `None`; the kernel's default last | ends the run, attributed to the plugin |
| notify | every plugin that lists the hook; return values are ignored | is one warning; the others go on |
| wrap | as first, and other plugins may go around the call (`@hookimpl(wrapper=True)`), lower ids further out | ends the run, attributed to the plugin |

*Scope* says where a hook is called: in the *driver* (the process the user started), in each *worker*, or in *both*.

Collect hooks follow from the kinds under `[[provides]]` in the manifest; all others are listed in its `hooks`.
[The manifest](manifest.md) has the details.
"""


def hooks_page() -> str:
    """The whole page, with a section for each hook in the order a run calls them."""
    return "\n".join([HEADER, _table(), *(_section(name) for name in specs.HOOKS)])


def _table() -> str:
    rows = ["| hook | policy | scope | kind |", "|---|---|---|---|"]
    for name, info in specs.HOOKS.items():
        kind = f"`{info.kind}`" if info.kind else ""
        rows.append(f"| [llmasos_{name}](#llmasos_{name}) | {info.policy} | {info.scope} | {kind} |")
    return "\n".join([*rows, ""])


def _section(name: str) -> str:
    info = specs.HOOKS[name]
    spec = getattr(specs, f"llmasos_{name}")
    summary, _, rest = inspect.cleandoc(spec.__doc__ or "").partition("\n")
    facts = f"Policy **{info.policy}**, scope **{info.scope}**"
    if info.kind:
        facts += f", delivers kind `{info.kind}`"
    lines = [
        f"## llmasos_{name}",
        "",
        f"```python\n{signature(name)}\n```",
        "",
        summary.replace("``", "`"),
        "",
        f"{facts}.",
        "",
    ]
    body = _markdown(rest.strip("\n"))
    return "\n".join([*lines, *([body, ""] if body else [])])


def signature(name: str) -> str:
    """``llmasos_x(a: A) -> B`` as it stands in the specification."""
    text = str(inspect.signature(getattr(specs, f"llmasos_{name}"))).replace("'", "")
    return f"llmasos_{name}{text}"


def _markdown(text: str) -> str:
    """A docstring body as Markdown: double back-ticks become single, an indented block becomes a code block."""
    prose, found, code = text.partition("\n::\n")
    if text.startswith("::\n"):
        prose, found, code = "", "::", text.removeprefix("::\n")
    parts = [line.strip().replace("``", "`") for line in prose.strip().splitlines()]
    blocks: list[str] = []
    for part in parts:
        # Each "Word:" starts a fact of its own.
        if not blocks or part.split(":")[0] in ("When", "Params", "Returns", "Since"):
            blocks.append(part)
        else:
            blocks[-1] += " " + part
    page = "\n".join(f"* {block}" for block in blocks if block)
    if found:
        page += ("\n\n" if page else "") + f"```python\n{textwrap.dedent(code).strip()}\n```"
    return page


if __name__ == "__main__":
    sys.stdout.write(hooks_page())
