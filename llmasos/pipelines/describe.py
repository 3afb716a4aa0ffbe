"""``llmasos model info``: everything about a model that can be said without reading its weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llmasos.errors import LlmasosError
from llmasos.pipelines.load import open_tokenizer, opened_model

if TYPE_CHECKING:
    from llmasos.kernel.hub import KernelHub


def describe_model(hub: KernelHub, ref: str, *, allow_pickle: bool = False) -> dict[str, Any]:
    """Source, configuration, tensors, tokenizer, licence and the plugins that would load the model.

    Reads headers only, except that pickle files have no header and are read with ``allow_pickle``. Raises what
    ``open_model`` and ``Architecture.summarize`` raise.
    """
    with opened_model(hub, ref, allow_pickle=allow_pickle) as opened:
        checkpoint = opened.checkpoint
        summary = opened.architecture.summarize(checkpoint)
        tensors = list(checkpoint.tensors.values())
        try:
            tokenizer, tokenizer_format = open_tokenizer(hub, opened.resolved.path, checkpoint)
            described: dict[str, Any] = {
                "format": tokenizer_format,
                "vocab_size": tokenizer.vocab_size,
                "adds_bos": tokenizer.adds_bos,
                "special": asdict(tokenizer.special),
                "chat_template": tokenizer.chat_template is not None,
                "digest": tokenizer.digest(),
            }
        except LlmasosError as error:
            # A model without a usable tokenizer can still be described; the reason is part of the answer.
            described = {"error": error.message}
        return {
            "ref": ref,
            "path": str(opened.resolved.path),
            "source": opened.resolved.source,
            "revision": opened.resolved.revision,
            "provenance": dict(opened.resolved.provenance),
            "license": opened.resolved.license or checkpoint.metadata.get("license"),
            "plugins": {"weight_loader": opened.loader, "architecture": opened.architecture_name},
            "format": checkpoint.format,
            "architecture": asdict(summary),
            "tensors": {
                "count": len(tensors),
                "bytes": sum(t.nbytes for t in tensors),
                "dtypes": dict(sorted(Counter(t.dtype for t in tensors).items())),
                "list": [
                    {"name": t.name, "shape": list(t.shape), "dtype": t.dtype, "bytes": t.nbytes}
                    for t in tensors
                ],
            },
            "tokenizer": described,
            "config": dict(checkpoint.config),
            "metadata": dict(checkpoint.metadata),
        }
