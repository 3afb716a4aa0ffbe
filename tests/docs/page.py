"""A page of the documentation, run from top to bottom as a reader would.

Fences of a page mean:

```` ```LANGUAGE file=PATH ````   the reader writes this file
```` ```console ````              the reader runs these commands; ``# exit code N`` at the end of one says that it fails
```` ```text ````                 what the commands just above print: its lines are found in this order, ``...`` stands for
                                  anything within a line, and a line ``...`` for any lines
```` ```python ````               without a file: the reader runs it
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

PAGES = Path(__file__).resolve().parents[2] / "docs"

_FENCE = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """One fenced block."""

    language: str
    file: str
    text: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of ``docs/<page>``, in order."""
    return [Block(*found) for found in _FENCE.findall((PAGES / page).read_text(encoding="utf-8"))]


class Reader:
    """Someone who does what a page says, in an empty folder.

    ``commands`` maps the first word of a command to what it is here; any other command is refused, so that a page cannot
    make the test run something nobody thought of.
    """

    def __init__(self, folder: Path, commands: Mapping[str, Sequence[str]], env: Mapping[str, str]) -> None:
        self.folder = folder
        self.commands = commands
        self.env = dict(env)
        self.printed = ""

    def follow(self, page: str) -> int:
        """Do everything; the number of commands run. Raises AssertionError with the output where the page is wrong."""
        count = 0
        for block in blocks(page):
            if block.file:
                path = self.folder / block.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text, encoding="utf-8")
            elif block.language == "console":
                self.printed = ""
                for line in block.text.splitlines():
                    self.run(line)
                    count += 1
            elif block.language == "python":
                self.printed = self._run([*self.commands["python"], "-c", block.text], "python", 0)
                count += 1
            elif block.language == "text":
                assert_printed(block.text, self.printed)
        return count

    def run(self, line: str) -> None:
        """Run one line of a console block."""
        command, _, note = line.partition("#")
        expected = re.fullmatch(r"\s*exit code (\d+)\s*", note)
        words = shlex.split(command)
        assert words, line
        assert words[0] in self.commands, f"the page runs `{words[0]}`"
        self.printed += self._run(
            [*self.commands[words[0]], *words[1:]], command, int(expected[1]) if expected else 0
        )

    def _run(self, command: Sequence[str], shown: str, code: int) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == code, f"{shown} ended with {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr


def assert_printed(promised: str, printed: str) -> None:
    """Every promised line is printed, in this order. Spaces between columns may differ."""
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    place = 0
    for line in promised.splitlines():
        words = " ".join(line.split())
        if not words or words == "...":
            continue
        pattern = re.compile(re.escape(words).replace(r"\.\.\.", ".*"))
        found = [i for i in range(place, len(lines)) if pattern.search(lines[i])]
        assert found, f"the page promises the line\n  {line}\nbut this was printed\n{printed}"
        place = found[0] + 1
