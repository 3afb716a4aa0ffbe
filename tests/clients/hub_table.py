"""Print the table of docs/reference/hub-api.md: the conformance list with every client, run now.

PYTHONPATH=tests python tests/clients/hub_table.py
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from hub_clients import CLIENTS, ROWS, SETTINGS, client_python, run_conformance
from registries import Server

MARKS = {"pass": "yes", "absent": "-", "fail": "NO"}


def main() -> None:
    """Run everything, print Markdown."""
    cache = Path(os.environ.get("LLMASOS_TEST_CACHE") or Path.home() / ".cache" / "llmasos-tests")
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "data", SETTINGS)
        try:
            found = {}
            for client in CLIENTS:
                work = Path(folder) / client.label.replace(" ", "-")
                work.mkdir()
                python = client_python(client.version, cache)
                found[client] = run_conformance(server, client, work, python)
                print(client.label, file=sys.stderr)
        finally:
            server.close()
    print("| | " + " | ".join(client.label for client in CLIENTS) + " |")
    print("|---|" + "---|" * len(CLIENTS))
    for row in ROWS:
        cells = [MARKS[found[client][row]["outcome"]] for client in CLIENTS]
        print(f"| {found[CLIENTS[0]][row]['what']} | " + " | ".join(cells) + " |")
    for client in CLIENTS:
        for row in ROWS:
            result = found[client][row]
            if result["outcome"] != "pass":
                print(f"{client.label}: {row}: {result['detail'][-400:]}", file=sys.stderr)


if __name__ == "__main__":
    main()
