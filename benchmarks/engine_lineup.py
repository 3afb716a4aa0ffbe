"""Which models and engines take part in ``engine.py``: folders, copies in the peers' formats, and what was left out."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from engine_models import made, random_tokens
from engine_process import Seat
from eval_workloads import make_models

PRECISIONS = ("fp32", "bf16", "int8", "int4")
PEERS = ("transformers", "ctranslate2", "llama_cpp", "onnxruntime")
#: Precisions whose blocks llama.cpp lays out anew for the machine, or leaves as they are in the file.
BLOCKS = ("int8", "int4")
MODELS = {"gpt2": "GPT-2-124M random", "smollm2": "SmolLM2-135M", "bert": "BERT-base random"}
DECODERS, ENCODERS = ("gpt2", "smollm2"), ("bert",)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Lineup:
    """Models and engines of one run; models stay in ``work``."""

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args, self.work = args, work
        self.left_out: list[str] = []

    def leave_out(self, what: str, why: str) -> None:
        line = f"{what}: {why}"
        if line not in self.left_out:
            say(f"left out: {line}")
            self.left_out.append(line)

    def model(self, key: str) -> Path | None:
        """The folder of a model, made when it is not there."""
        folder = self.work / key
        if (folder / "model.safetensors").exists():
            return folder
        say(f"{MODELS[key]}: making it")
        if key == "bert":
            failed = made(self.args.peers_python, "bert", folder)
            if failed is not None:
                self.leave_out(MODELS[key], failed)
            return folder if failed is None else None
        if self.args.gguf is None:
            self.leave_out(MODELS[key], "--gguf is needed to make it")
            return None
        make_models(self.args.peers_python, self.args.gguf, self.work)
        return folder

    def converted(self, key: str, kind: str, precision: str) -> str:
        """Path of a model in a peer's format; empty, and said, when it could not be made."""
        # One copy serves all precisions of CTranslate2, which rounds as it loads.
        own = kind == "ctranslate2"
        target = self.work / (f"{key}.ct2" if own else f"{key}.{precision}.{kind}")
        given = [self.work / key] if own else [self.work / key, precision]
        if not target.exists():
            say(f"{MODELS[key]}: converting to {target.name}")
        failed = made(self.args.peers_python, kind, target, *given)
        if failed is not None:
            self.leave_out(f"{MODELS[key]} as {target.name}", failed)
        return "" if failed else str(target)

    def sequences(self, key: str, folder: Path) -> dict[str, Any] | None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if key != "smollm2":
            return random_tokens(config["vocab_size"])
        target = self.work / f"{key}.tokens.json"
        texts = sorted((self.args.data.resolve() / "text").glob("*.txt"))
        if (failed := made(self.args.peers_python, "tokens", target, folder, *texts)) is not None:
            self.leave_out(MODELS[key], failed)
            return None
        found: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
        return found

    def seats(self, key: str) -> list[Seat]:
        """Every engine that might run this model, in every precision."""
        encoder = key in ENCODERS
        found = []
        for precision in self.args.precisions:
            found.append(Seat("llmasos", precision))
            if "transformers" in self.args.peers and precision in ("fp32", "bf16"):
                found.append(Seat("transformers", precision))
            for engine, kind, fits, variants in (
                ("ctranslate2", "ctranslate2", precision != "int4", ("MKL", "oneDNN")),
                ("llama_cpp", "gguf", not encoder, ("repacked", "plain") if precision in BLOCKS else ("",)),
                ("onnxruntime", "onnx", encoder and precision in ("fp32", "int8"), ("",)),
            ):
                if fits and engine in self.args.peers and (path := self.converted(key, kind, precision)):
                    found += [Seat(engine, precision, variant, path) for variant in variants]
        return found
