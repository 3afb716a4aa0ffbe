"""The child process of the ``plugin.good_guest`` check: imports everything a plugin's factories name and watches the process.

torch is imported first where it is installed, because what a plugin could change of it exists only then.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import random
import sys
from pathlib import Path
from typing import Any


def observed_state() -> dict[str, Any]:
    """Process-global state: that of ``llmasos plugin check`` and that of the numeric libraries."""
    from llmasos.kernel.checkup_child import observed_state as basic

    state = {**basic(), "the state of random": hash(random.getstate())}
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        kind, keys, *rest = numpy.random.get_state()
        state["the state of numpy.random"] = hash((kind, keys.tobytes(), *rest))
        state["numpy error handling"] = tuple(sorted(numpy.geterr().items()))
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        state["torch default dtype"] = str(torch.get_default_dtype())
        state["torch default device"] = str(torch.get_default_device())
        state["torch threads"] = torch.get_num_threads()
        state["torch gradient mode"] = torch.is_grad_enabled()
        state["torch random state"] = hash(torch.random.get_rng_state().numpy().tobytes())
        state["torch matmul precision"] = torch.get_float32_matmul_precision()
        state["torch deterministic algorithms"] = torch.are_deterministic_algorithms_enabled()
    return state


def main() -> None:
    """Read the request from stdin; write what changed, what was printed and what failed to the file it names."""
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    from llmasos.testing.isolation import isolated_hub

    if importlib.util.find_spec("torch") is not None:
        importlib.import_module("torch")
    hub = isolated_hub(
        Path(request["scratch"]),
        plugins=request["folders"],
        installed=[] if request["folders"] else [request["plugin"]],
        warn=lambda line: None,
    )
    before = observed_state()
    printed, failures = io.StringIO(), []
    with contextlib.redirect_stdout(printed):
        # Redirection itself replaces sys.stdout, so that is compared inside.
        inside = id(sys.stdout)
        for kind, name in request["contributions"]:
            try:
                hub.get(kind, name)
            except Exception as error:  # reported as the observation
                failures.append(f"{kind} {name}: {str(error).splitlines()[0]}")
        swapped = id(sys.stdout) != inside
    after = observed_state()
    changes = [name for name, value in before.items() if after[name] != value]
    if swapped:
        changes.append("sys.stdout")
    answer = {"changes": changes, "printed": printed.getvalue().strip(), "failures": failures}
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
