"""The registry beside its peers, in one run: every line is a ratio.

    python benchmarks/registry.py [--only pages] [--json] [--work DIR] [--projects 100000] [--megabytes 500] [--seconds 5]

``pages``     a project's simple page: p50 and p99 at 1 and 64 connections, against pypiserver and devpi
``download``  one large file, against nginx serving the same file
``hf``        ``hf upload`` and ``hf download`` of one large file and of many small ones, against curl and nginx moving the same bytes
``install``   ``llmasos install`` of 20 plugins, cold, against ``uv pip install`` of the same from a static index
``scale``     publishing, simple page and search with 100,000 projects of 10 versions, against the empty registry

Everything runs on this machine, over loopback, in default configurations. Measurements of the two sides alternate and the medians
are compared, so that another program on the machine disturbs both. devpi and pypiserver are installed into a virtual environment;
nginx, curl and wrk come from the system. What is missing is left out, with a line that says so. Filling the registry of 100,000
projects took sixteen minutes on a machine with other work; ``--work`` keeps it, and the peers, for the next run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from registry_files import download_lines, hub_lines
from registry_install import install_lines
from registry_pages import page_lines
from registry_report import Line, Sizes, say
from registry_scale import scale_lines
from registry_servers import Absent

SECTIONS: dict[str, Callable[[Path, Sizes], Iterator[Line]]] = {
    "pages": page_lines,
    "download": download_lines,
    "hf": hub_lines,
    "install": install_lines,
    "scale": scale_lines,
}


def main() -> int:
    """Run; 1 when a goal was missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", choices=SECTIONS, action="append", help="this section; may be given more than once"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--work", type=Path, help="keep the peers and the full registry here")
    parser.add_argument("--projects", type=int, default=100_000)
    parser.add_argument("--versions", type=int, default=10)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--plugins", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run of wrk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=100, help="publications that are timed")
    given = vars(parser.parse_args())
    only, as_json, work = given.pop("only"), given.pop("json"), given.pop("work")
    lines: list[Line] = []
    left_out: list[str] = []
    if work is not None:
        work = work.resolve()
        work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="registry-", dir=work, ignore_cleanup_errors=True) as scratch:
        sizes = Sizes(**given, keep=work or Path(scratch))
        for name in only or SECTIONS:
            folder = Path(scratch) / name
            folder.mkdir()
            try:
                for line in SECTIONS[name](folder, sizes):
                    lines.append(line)
                    if not as_json:
                        print(line.text(), flush=True)
            except Absent as error:
                left_out.append(f"{name}: {error}")
                say(f"left out, {name}: {error}")
    if as_json:
        machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
        print(
            json.dumps(
                {
                    "machine": machine,
                    "sizes": given,
                    "lines": [asdict(x) for x in lines],
                    "left_out": left_out,
                },
                indent=2,
            )
        )
    return int(any(line.met is False for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())
