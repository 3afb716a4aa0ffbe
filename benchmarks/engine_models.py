"""What ``engine.py`` computes: models as Hugging Face folders, their copies in the formats of the peers, and token ids.

Run with the peers' interpreter, a step a process, so that one that fails leaves out one engine only.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SEED = 20_260_822
#: Sequences that are scored, and their tokens; sets of prompts, prompts of each, and their tokens.
SCORED, LENGTH = 64, 256
SETS, STREAMS, PROMPT = 10, 8, 64
#: Sequences that are encoded, and their lengths.
ENCODED, SHORTEST, LONGEST = 32, 16, 128


def made(python: Path, step: str, target: Path, *arguments: object) -> str | None:
    """Run a step unless ``target`` is there; what went wrong, or None."""
    if target.exists():
        return None
    partial = target.with_name(f"partial-{target.name}")
    if partial.is_dir():
        shutil.rmtree(partial)
    partial.unlink(missing_ok=True)
    command = [str(python), __file__, step, str(partial), *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
    partial.rename(target)
    return None


def random_tokens(vocabulary: int) -> dict[str, Any]:
    """Ids for a model of random weights, which no text suits better than another."""
    draw = random.Random(SEED)

    def row(length: int) -> list[int]:
        return [draw.randrange(vocabulary) for _ in range(length)]

    return {
        "scored": [row(LENGTH) for _ in range(SCORED)],
        "prompts": [[row(PROMPT) for _ in range(STREAMS)] for _ in range(SETS)],
        "even": [row(LONGEST) for _ in range(ENCODED)],
        "mixed": [row(draw.randint(SHORTEST, LONGEST)) for _ in range(ENCODED)],
    }


def weights(folder: Path) -> int:
    """Entries of the matrices that every token goes through: no biases and norms, and of the tables only the one that is
    the vocabulary's head as well."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    tables = ("wte", "embed_tokens") if not config.get("tie_word_embeddings", True) else ()
    tables = (*tables, "wpe", "position_embeddings", "token_type_embeddings", "word_embeddings", "pooler")
    return sum(
        entry["shape"][0] * entry["shape"][1]
        for name, entry in header.items()
        if name != "__metadata__" and len(entry["shape"]) == 2 and not any(t in name for t in tables)
    )


# ---- steps, in the peers' interpreter ---------------------------------------------------------------------------------


def _bert(target: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(SEED)
    # Stated, because the converter of CTranslate2 reads what transformers no longer sets by itself.
    BertModel(BertConfig(position_embedding_type="absolute")).save_pretrained(target)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *(f"word{i}" for i in range(30522 - len(special)))]
    (target / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(target)


def _ctranslate2(target: Path, folder: str) -> None:
    from ctranslate2.converters import TransformersConverter
    from transformers import AutoTokenizer

    size = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as scratch:
        # The converter wants a name for every row of the table.
        shutil.copytree(folder, scratch, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
        (Path(scratch) / "model.safetensors").symlink_to((Path(folder) / "model.safetensors").resolve())
        tokenizer.add_tokens([f"[unused {i}]" for i in range(len(tokenizer), size)])
        tokenizer.save_pretrained(scratch)
        TransformersConverter(scratch).convert(str(target))


def _gguf(target: Path, folder: str, precision: str) -> None:
    import engine_gguf

    engine_gguf.write(Path(folder), target, precision)


def _onnx(target: Path, folder: str, precision: str) -> None:
    import engine_onnx

    engine_onnx.write(Path(folder), target, precision)


def _tokens(target: Path, folder: str, *texts: str) -> None:
    """Windows at even distances over all texts: what is scored, then prompts."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    ids: list[int] = []
    for text in texts:
        ids += tokenizer.encode(Path(text).read_text(encoding="utf-8"), add_special_tokens=False).ids
    count = SCORED + SETS * STREAMS
    stride = len(ids) // count
    if stride < LENGTH:
        raise SystemExit(f"the texts have {len(ids)} tokens, {count * LENGTH} are needed")
    windows = [ids[i * stride : i * stride + LENGTH] for i in range(count)]
    # Every other window or so is scored, so that both kinds come from all texts.
    scored = {i * count // SCORED for i in range(SCORED)}
    rest = [window[:PROMPT] for i, window in enumerate(windows) if i not in scored]
    found = {
        "scored": [windows[i] for i in sorted(scored)],
        "prompts": [rest[i : i + STREAMS] for i in range(0, len(rest), STREAMS)],
    }
    target.write_text(json.dumps(found), encoding="utf-8")


STEPS = {"bert": _bert, "ctranslate2": _ctranslate2, "gguf": _gguf, "onnx": _onnx, "tokens": _tokens}


def _main(arguments: Sequence[str]) -> None:
    sys.path.insert(0, str(HERE))
    STEPS[arguments[0]](Path(arguments[1]), *arguments[2:])


if __name__ == "__main__":
    _main(sys.argv[1:])
