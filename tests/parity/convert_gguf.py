"""Write the dequantised float32 weights and the tokenizer of a GGUF file as a Hugging Face folder, through transformers.

Run by ``lm_eval_parity.py`` with an interpreter that has transformers and gguf, so that both harnesses load the same numbers.
Arguments: GGUF FOLDER [tokenizer]; with the last only the tokenizer and the configuration.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])

    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    # The conversion leaves out a rule that the file names by its pre-tokenizer, "smollm": each digit is a piece of its own.
    rules = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(rules)
    tokenizer.save_pretrained(target)
    if sys.argv[3:] == ["tokenizer"]:
        config = AutoConfig.from_pretrained(**where)
    else:
        loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        config = loaded.config
    # A model loaded from GGUF refuses to be saved; the same weights in a fresh model do not.
    settings = config.to_dict()
    for key in ("quantization_config", "_name_or_path", "dtype", "torch_dtype"):
        settings.pop(key, None)
    config = LlamaConfig(**settings)
    if sys.argv[3:] == ["tokenizer"]:
        config.save_pretrained(target)
        return
    model = LlamaForCausalLM(config).to(torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(target)


if __name__ == "__main__":
    main()
