"""Compiles cases of the catalogue ahead of time: a program of its own, for Triton must not be set to interpret.

    python build_sample.py ARCHITECTURE:CASE ...    (CASE may be "all")

prints a list of [case, kernel, figures] as JSON.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from llmasos_cuda.builds import compile_launch
from llmasos_cuda.catalogue import uses


def main() -> None:
    found = []
    for wanted in sys.argv[1:]:
        architecture, case = wanted.split(":")
        for use in uses(architecture, None if case == "all" else frozenset([case])):
            found.append((use.case.name, use.kernel, asdict(compile_launch(use.launch, architecture))))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
