"""Open every weight file of a folder in a process that may use little memory and time; print the outcomes as JSON.

Usage: python limited_child.py FORMAT FOLDER MEMORY_MB CPU_SECONDS. Headers only: torch is not imported, so that the
memory limit can be tight enough to notice an allocation made by a hostile number.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from pathlib import Path


def main() -> None:
    factory, folder, megabytes, seconds = sys.argv[1:]
    module, name = factory.split(":")
    form = getattr(importlib.import_module(module), name)()
    from llmasos.api import LlmasosError

    resource.setrlimit(resource.RLIMIT_AS, (int(megabytes) << 20, int(megabytes) << 20))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
    outcomes = {}
    for path in sorted(Path(folder).iterdir()):
        if path.name == "config.json":
            continue
        started = time.process_time()
        try:
            form.accepts(path)
            checkpoint = form.open(path)
            result = {"opens": True, "tensors": len(checkpoint.tensors)}
            checkpoint.close()
        except LlmasosError as error:
            result = {
                "opens": False,
                "error": type(error).__name__,
                "message": error.message,
                "hint": error.hint,
            }
        outcomes[path.name] = {**result, "seconds": time.process_time() - started}
    assert "torch" not in sys.modules
    json.dump(outcomes, sys.stdout)


if __name__ == "__main__":
    main()
