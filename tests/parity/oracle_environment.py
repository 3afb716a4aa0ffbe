"""An environment that has lm-evaluation-harness, for the slow oracle runs."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import version
from pathlib import Path

REQUIREMENT = "lm-eval==0.4.13"
#: What both environments share, so that both sides compute with the same libraries (and torch is not downloaded again).
SHARED = ("torch", "transformers", "tokenizers", "numpy", "sacrebleu", "gguf", "accelerate")


def lm_eval_python(folder: Path) -> Path:
    """The interpreter of an environment with lm-eval, made in ``folder`` from the package index when it is not there.

    ``LLMASOS_LM_EVAL_PYTHON`` names one to use instead. Packages of the running environment are visible in the new one
    (through a ``.pth`` file), which only adds what is missing. Raises RuntimeError with what pip said.
    """
    named = os.environ.get("LLMASOS_LM_EVAL_PYTHON")
    if named:
        return Path(named)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    done = folder / "complete"
    if done.exists():
        return python
    venv.create(folder, with_pip=True, clear=True)
    purelib = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    (Path(purelib) / "shared.pth").write_text("\n".join(site.getsitepackages()) + "\n", encoding="utf-8")
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{name}=={version(name)}\n" for name in SHARED), encoding="utf-8")
    command = [str(python), "-m", "pip", "install", "--quiet", "-c", str(constraints), REQUIREMENT]
    found = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    if found.returncode != 0:
        raise RuntimeError(found.stderr.strip()[-2000:])
    done.touch()
    return python


if __name__ == "__main__":
    print(lm_eval_python(Path(sys.argv[1])))
