"""What a start costs: the modules that a fresh process imports."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

#: Runs the code or command line in argv[2:] and leaves the names of all imported modules in the file argv[1].
_CHILD = """\
import sys
def _write(path=sys.argv[1]):
    with open(path, "w", encoding="utf-8") as file:
        file.write("\\n".join(sorted(sys.modules)))
kind, arguments = sys.argv[2], sys.argv[3:]
try:
    if kind == "code":
        sys.argv = ["-c"]
        exec(compile(arguments[0], "<import_budget>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = ["llmasos", *arguments]
        from llmasos.cli.main import main
        main()
finally:
    _write()
"""


def imported_modules(
    what: str | Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> list[str]:
    """Modules in ``sys.modules`` when a fresh process ends, sorted.

    ``what`` is Python code (a string) or the arguments of the ``llmasos`` command (a list). Raises AssertionError with the
    output of the process when it fails.
    """
    arguments = ["code", what] if isinstance(what, str) else ["command", *what]
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch, "modules.txt")
        done = subprocess.run(
            [sys.executable, "-P", "-c", _CHILD, str(answer), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env=dict(os.environ if env is None else env),
            cwd=cwd,
        )
        if done.returncode != 0:
            raise AssertionError(f"{what!r} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return answer.read_text(encoding="utf-8").split()


def check_budget(
    what: str | Sequence[str],
    *,
    forbid: Sequence[str] = (),
    budget: int | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> list[str]:
    """Modules a fresh process imports. Raises AssertionError when one of ``forbid`` is among them, or more than ``budget``.

    ``forbid`` names top-level packages or single modules (with their submodules).
    """
    modules = imported_modules(what, env=env, cwd=cwd)
    found = sorted(
        name for name in modules if any(name == ban or name.startswith(f"{ban}.") for ban in forbid)
    )
    if found:
        raise AssertionError(
            f"{what!r} imports {', '.join(found[:6])}{' and more' if len(found) > 6 else ''}\n"
            "hint: python -X importtime shows who does; import it inside the function that needs it"
        )
    if budget is not None and len(modules) > budget:
        raise AssertionError(
            f"{what!r} imports {len(modules)} modules, more than its budget of {budget}\n"
            "hint: python -X importtime shows them; the budget only ever goes down"
        )
    return modules
