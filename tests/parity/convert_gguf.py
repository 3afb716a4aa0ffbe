"""Write the dequantised float32 weights and the tokenizer of a GGUF file as a Hugging Face folder, through transformers.

Run by ``lm_eval_parity.py`` with the interpreter that has lm-eval, so that both harnesses load the same numbers.
Arguments: GGUF FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(
        str(source.parent), gguf_file=source.name, dtype=torch.float32
    )
    # A model loaded from GGUF refuses to be saved; the same weights in a fresh model do not.
    settings = loaded.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "dtype", "torch_dtype"):
        settings.pop(key, None)
    model = LlamaForCausalLM(LlamaConfig(**settings)).to(torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name).save_pretrained(target)


if __name__ == "__main__":
    main()
