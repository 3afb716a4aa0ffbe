"""A model written again with weights of fewer bits, and what that costs: ``llmasos model quantise``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmasos.contracts.model import WeightLoader
from llmasos.contracts.quantising import (
    ImportanceArchitecture,
    QuantisedFile,
    QuantisedName,
    QuantisingFormat,
)
from llmasos.errors import InputError, TokenizerError, UsageError
from llmasos.pipelines.load import OpenModel, load_model, open_tokenizer, opened_model
from llmasos.pipelines.offers import chosen, offers, usable
from llmasos.pipelines.perplexity import Perplexity, perplexity, windows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from llmasos.contracts.evaluation import Progress
    from llmasos.contracts.tokenizer import Tokenizer
    from llmasos.kernel.hub import KernelHub

#: Files of a model that its weights do not replace.
_COMPANIONS = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja", "generation_config.json", "llmasos.toml",
    "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE",
)  # fmt: skip
#: A text that tokenizers tend to cut differently.
_PROBE = "It's 1984, isn't  it?\n\n\tA naïve café — 東京 🙂 x_y=f(12,345.67);  THE   END"
_LARGEST_TEXT = 1 << 30


def quantise(
    hub: KernelHub,
    ref: str,
    output: Path,
    dtype: QuantisedName,
    *,
    text: Path | None = None,
    calibrate: Path | None = None,
    tokens: int = 8192,
    progress: Progress,
    allow_pickle: bool = False,
) -> dict[str, Any]:
    """Write the model ``ref`` to the new folder ``output`` and say what it takes and, with ``text``, what it costs.

    With ``calibrate``, weights are rounded so that products with what the model sees in that text change least. Of either text
    the first ``tokens`` tokens are used. The folder appears only when all of it is there. Raises UsageError for an output that
    exists, for one text in both places and for models that are not causal language models, and what loading raises.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} is there already", hint="name a new folder with --output")
    if text is not None and calibrate is not None and text.resolve() == calibrate.resolve():
        raise UsageError(
            "the perplexity of the text that the weights were fitted to says little",
            hint="give --calibrate another text than --text",
        )
    form = _format(hub)
    temporary = output.parent / f".{output.name}.{os.getpid()}.tmp"
    with opened_model(hub, ref, allow_pickle=allow_pickle) as opened:
        summary = opened.architecture.summarize(opened.checkpoint)
        if summary.kind != "decoder":
            raise UsageError(
                f"{ref} is an {summary.kind} ({summary.family}); this needs a causal language model",
                hint="`llmasos model info` shows what a model is",
            )
        tokenizer, _ = open_tokenizer(hub, opened.resolved.path, opened.checkpoint)
        fitted = [] if calibrate is None else _ids(tokenizer, calibrate, tokens)
        judged = [] if text is None else _ids(tokenizer, text, tokens)
        importance = _importance(hub, opened, fitted, summary.max_length, progress)
        before = sum(tensor.nbytes for tensor in opened.checkpoint.tensors.values())
        source = opened.resolved.path
        name = source.stem if source.is_file() else source.name
        file = f"{name}-{dtype}{form.ending}"
        try:
            temporary.mkdir(parents=True)
            progress.phase(f"quantising {ref}", len(opened.checkpoint.tensors))
            written = chosen(
                hub,
                "weight_loader",
                _format_name(hub, form),
                lambda: form.quantise(
                    opened.checkpoint, temporary / file, dtype, importance, progress.advance
                ),
            )
            _copy_companions(source, temporary)
            same = _same_tokens(hub, temporary / file, tokenizer)
            if output.exists():
                output.rmdir()
            os.replace(temporary, output)
        except OSError as error:
            raise InputError(
                f"{output} cannot be written: {error}", hint="check the path and the disk"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    report = _report(ref, output / file, dtype, before, written, same)
    report["calibrated"] = len(fitted)
    if judged:
        report["perplexity"] = _cost(hub, ref, output, dtype, judged, allow_pickle, progress)
    return report


def _format(hub: KernelHub) -> QuantisingFormat:
    for name, _ in offers(hub, "weight_loader", WeightLoader):
        factory = usable(hub, "weight_loader", name)
        form = None if factory is None else factory()
        if isinstance(form, QuantisingFormat):
            return form
    raise UsageError(
        "no enabled plugin writes quantised models", hint="enable llmasos-transformer, see `llmasos doctor`"
    )


def _format_name(hub: KernelHub, form: QuantisingFormat) -> str:
    return next(
        name
        for name, _ in offers(hub, "weight_loader", WeightLoader)
        if (factory := usable(hub, "weight_loader", name)) is not None and type(factory()) is type(form)
    )


def _ids(tokenizer: Tokenizer, path: Path, tokens: int) -> Sequence[int]:
    """The first tokens of a text. Raises InputError for a file that is no text."""
    try:
        if path.stat().st_size > _LARGEST_TEXT:
            raise InputError(f"{path} has more than {_LARGEST_TEXT:,} bytes", hint="give an extract")
        # Sixteen characters make a token at the very most, but for runs of spaces.
        found = path.read_text(encoding="utf-8")[: 16 * tokens]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}", hint="give a file in UTF-8") from error
    ids = tokenizer.encode(found)[:tokens]
    if len(ids) < 2:
        raise InputError(f"{path} has {len(ids)} tokens, which is too short", hint="give a longer text")
    return ids


def _importance(
    hub: KernelHub, opened: OpenModel, ids: Sequence[int], max_length: int, progress: Progress
) -> Mapping[str, Tensor]:
    architecture = opened.architecture
    if not ids:
        return {}
    if not isinstance(architecture, ImportanceArchitecture):
        raise UsageError(
            f"{opened.architecture_name} cannot be calibrated", hint="quantise without --calibrate"
        )
    progress.phase("reading the calibration text", len(ids))

    def told() -> Any:
        for batch in windows(ids, max_length):
            yield batch
            progress.advance(len(batch.tokens))

    return chosen(
        hub,
        "model_architecture",
        opened.architecture_name,
        lambda: architecture.importance(opened.checkpoint, told()),
    )


def _copy_companions(source: Path, target: Path) -> None:
    if not source.is_dir():
        return
    for name in _COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _same_tokens(hub: KernelHub, file: Path, tokenizer: Tokenizer) -> bool | None:
    """Whether the tokenizer inside the file cuts a text as the model's own does; None where there is none inside."""
    from llmasos.contracts.model import ResolvedModel
    from llmasos.pipelines.load import open_checkpoint

    checkpoint, _ = open_checkpoint(hub, ResolvedModel(str(file), file, "local"), allow_pickle=False)
    try:
        inside, _ = open_tokenizer(hub, file, checkpoint)
        return inside.encode(_PROBE) == tokenizer.encode(_PROBE)
    except TokenizerError:
        return None
    finally:
        checkpoint.close()


def _report(
    ref: str, file: Path, dtype: str, before: int, written: QuantisedFile, same: bool | None
) -> dict[str, Any]:
    after = sum(written.types.values())
    missing = list(written.missing)
    if same is False:
        missing.append("tokenizer: the file's own cuts texts otherwise than the model's")
    return {
        "model": ref,
        "output": file.parent,
        "file": file.name,
        "dtype": dtype,
        "bytes_before": before,
        "bytes_after": after,
        "ratio": after / before if before else None,
        "types": dict(written.types),
        "missing": missing,
    }


def _cost(
    hub: KernelHub,
    ref: str,
    output: Path,
    dtype: QuantisedName,
    ids: Sequence[int],
    allow_pickle: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Perplexity before, in float32, and after, as the file keeps it."""
    found: list[Perplexity] = []
    for what, policy in ((ref, "exact"), (str(output), dtype)):
        loaded = load_model(hub, what, device="cpu", dtype=policy, allow_pickle=allow_pickle)
        progress.phase(f"perplexity of {Path(what).name}", len(ids))
        found.append(perplexity(cast(Any, loaded.model), ids, progress.advance))
        del loaded
    first, second = found
    return {
        "tokens": first.tokens,
        "before": first.value,
        "after": second.value,
        "change": second.value / first.value - 1,
    }
