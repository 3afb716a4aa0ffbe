"""What plugins say of themselves on this machine, for ``llmasos doctor``.

A ``[[provides]]`` table may name a function, ``probe = "package.module:function"``, that takes nothing and returns lines of
text. Plugins run in a child process, one each: a probe looks at libraries and devices, and what it looks at may hang or
end the process.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

from llmasos.kernel.record import PluginRecord

#: Seconds one plugin may take.
TIMEOUT = 10.0
#: What is shown of the lines of one contribution.
MAX_LINES, MAX_CHARACTERS = 12, 300


class Probed(NamedTuple):
    """What one contribution says, or the problem in asking it."""

    kind: str
    full_name: str
    lines: tuple[str, ...] = ()
    problem: str = ""


def probe_plugin(record: PluginRecord) -> list[Probed]:
    """The answers of a plugin's contributions that have a probe. Never raises for what the plugin does."""
    items = [item for item in record.provides() if item.get("probe")]
    if not items:
        return []
    answers = _in_child(record, [item["probe"] for item in items])
    if isinstance(answers, str):
        answers = [{"problem": answers}] * len(items)
    return [
        Probed(
            item["kind"],
            f"{record.id}/{item['name']}",
            tuple(answer.get("lines", ())),
            answer.get("problem", ""),
        )
        for item, answer in zip(items, answers, strict=True)
    ]


def _in_child(record: PluginRecord, probes: list[str]) -> list[dict[str, Any]] | str:
    """One answer for each probe, or why there is none."""
    request = {
        "record": record.to_json(),
        "local": record.local,
        "probes": probes,
        # The child must find what this process finds, however it was started.
        "path": [folder for folder in sys.path if folder],
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "llmasos.kernel.probe"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"did not answer within {TIMEOUT:.0f} s"
    try:
        answers = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return f"the process ended with {done.returncode}: {last}"
    return list(answers)


def _answer(path: str) -> dict[str, Any]:
    module, _, attribute = path.partition(":")
    try:
        lines = getattr(importlib.import_module(module), attribute)()
        if isinstance(lines, str) or not isinstance(lines, Iterable):
            return {"problem": f"{path} returned a {type(lines).__name__}, not lines"}
        return {"lines": [_one_line(line) for line in islice(lines, MAX_LINES)]}
    except (Exception, SystemExit) as error:
        return {"problem": f"{path} raised {type(error).__name__}: {_one_line(error)}".rstrip(": ")}


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:MAX_CHARACTERS]


def main() -> None:
    """The child: reads the request from stdin, writes the answers to stdout. What plugins print goes to stderr."""
    answers = os.dup(1)
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    record = PluginRecord(**request["record"], local=request["local"])
    if record.local:
        from llmasos.kernel.local import install_finder

        install_finder(record)
    text = json.dumps([_answer(path) for path in request["probes"]])
    with open(answers, "w", encoding="utf-8") as out:
        out.write(text)


if __name__ == "__main__":
    main()
