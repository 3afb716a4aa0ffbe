"""From a model reference to a model: resolve, open, choose architecture, back end and ops, build.

The kernel's catalogue chooses by name and by what manifests say they match; nothing here knows a model family.
"""

from __future__ import annotations

import gc
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmasos.contracts.evaluation import LoadedModel, PreparedModel
from llmasos.contracts.hub import Provided
from llmasos.contracts.model import (
    Architecture,
    ArchitectureSummary,
    CausalLM,
    Checkpoint,
    DTypeName,
    Model,
    PackedBatch,
    ResolvedModel,
    WeightFormat,
    WeightLoader,
)
from llmasos.contracts.tokenizer import Tokenizer, TokenizerDef, TokenizerFormat
from llmasos.errors import (
    AmbiguousName,
    DeviceUnavailable,
    ModelNotFound,
    TokenizerError,
    UnknownName,
    UsageError,
    WeightsError,
)
from llmasos.pipelines.binding import bind_ops, choose_backend, dtype_name
from llmasos.pipelines.bound import BoundOps
from llmasos.pipelines.offers import accepting, best, chosen, offers
from llmasos.pipelines.requirements import model_manifest, resolve_model
from llmasos.provenance import file_digests

if TYPE_CHECKING:
    from llmasos.kernel.hub import KernelHub


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A checkpoint with the plugins that would load it; weights not read."""

    resolved: ResolvedModel
    checkpoint: Checkpoint
    loader: str
    architecture_name: str
    architecture: Architecture


# ---- files ------------------------------------------------------------------------------------------------------------


def open_checkpoint(hub: KernelHub, resolved: ResolvedModel, *, allow_pickle: bool) -> tuple[Checkpoint, str]:
    """The open checkpoint and the full name of the loader that opened it. Reads headers only.

    Raises WeightsError for malformed files, ModelNotFound when no loader knows any file there, AmbiguousName when
    loaders of the same priority claim it.
    """
    path = resolved.path
    files = sorted(p.name for p in path.iterdir()) if path.is_dir() else [path.name]
    matching = {p.full_name for p in hub.matching("weight_loader", files=files)}
    candidates: list[tuple[int, str, WeightFormat]] = []
    for name, definition in offers(hub, "weight_loader", WeightLoader):
        if name in matching and (form := accepting(hub, "weight_loader", name, path)) is not None:
            candidates.append((definition.priority, name, form))
    if not candidates:
        known = sorted(
            {p for provided in hub.names("weight_loader") for p in provided.matches.get("files", ())}
        )
        listing = ", ".join(files[:8]) or "nothing"
        raise ModelNotFound(
            f"{path} holds no weights that an installed plugin can read (found: {listing})",
            hint=f"known files: {', '.join(known)}"
            if known
            else "no enabled plugin provides a weight loader; see `llmasos doctor`",
        )
    loader, name = best(candidates, f"reading {path}")
    return chosen(hub, "weight_loader", name, lambda: loader.open(path, allow_pickle=allow_pickle)), name


def choose_architecture(hub: KernelHub, resolved: ResolvedModel, checkpoint: Checkpoint) -> str:
    """Full name of the architecture that a checkpoint asks for, from its own manifest or from what plugins match.

    Raises UnknownName saying which plugin kind would be needed.
    """
    named = model_manifest(resolved.path).architecture
    if named is not None:
        return _provided_as(hub, "model_architecture", named).full_name
    config = checkpoint.config
    model_type = str(config.get("model_type", ""))
    classes = [str(c) for c in config.get("architectures") or ()]
    by_class = hub.matching("model_architecture", architectures=classes)
    by_type = hub.matching("model_architecture", model_type=model_type)
    found = by_class or by_type
    if not found:
        wanted = " / ".join([model_type, *classes]) or "no model_type"
        known = sorted({m for p in hub.names("model_architecture") for m in p.matches.get("model_type", ())})
        raise UnknownName(
            f"{resolved.ref}: no enabled plugin provides a model architecture for {wanted!r}",
            hint=f"install a plugin that provides model_architecture with model_type {model_type!r}; "
            f"enabled plugins provide: {', '.join(known) or 'none'}",
        )
    if len(found) > 1:
        providers = ", ".join(f"{p.full_name} ({p.plugin.version})" for p in found)
        raise AmbiguousName(
            f"architecture {model_type!r} is provided by {providers}",
            hint='pin it with architecture = "plugin-id/name" in an llmasos.toml beside the weights',
        )
    return found[0].full_name


def open_model(hub: KernelHub, ref: str, *, allow_pickle: bool = False) -> OpenModel:
    """Everything about a model that can be known without loading its weights."""
    resolved = resolve_model(hub, ref)
    checkpoint, loader = open_checkpoint(hub, resolved, allow_pickle=allow_pickle)
    try:
        name = choose_architecture(hub, resolved, checkpoint)
        architecture = cast(Architecture, hub.get("model_architecture", name)())
    except BaseException:
        checkpoint.close()
        raise
    return OpenModel(resolved, checkpoint, loader, name, architecture)


# ---- tokenizer --------------------------------------------------------------------------------------------------------


def open_tokenizer(hub: KernelHub, path: Path, checkpoint: Checkpoint | None) -> tuple[Tokenizer, str]:
    """The tokenizer of a model and the full name of its format. Raises TokenizerError when there is none."""
    form, name = _tokenizer_format(hub, path)
    return chosen(hub, "tokenizer", name, lambda: form.open(path, checkpoint)), name


def _tokenizer_format(hub: KernelHub, path: Path) -> tuple[TokenizerFormat, str]:
    """What opens the tokenizer of a model, and its full name. Raises TokenizerError when nothing does."""
    candidates: list[tuple[int, str, TokenizerFormat]] = []
    for name, definition in offers(hub, "tokenizer", TokenizerDef):
        if (found := accepting(hub, "tokenizer", name, path)) is not None:
            candidates.append((definition.priority, name, found))
    if not candidates:
        raise TokenizerError(
            f"{path} has no tokenizer that an installed plugin can read",
            hint="a model directory needs tokenizer.json or vocab.txt; a GGUF file carries its own",
        )
    return best(candidates, f"the tokenizer of {path}")


def load_tokenizer(hub: KernelHub, ref: str) -> Tokenizer:
    """The tokenizer of a model reference; the model's weights are not read.

    A directory needs only its tokenizer files; a weight file is opened for its header.
    """
    resolved = resolve_model(hub, ref)
    checkpoint: Checkpoint | None = None
    try:
        checkpoint, _ = open_checkpoint(hub, resolved, allow_pickle=False)
    except (ModelNotFound, WeightsError):
        if resolved.path.is_file():
            raise  # for a single file the header is the tokenizer
    try:
        tokenizer, _ = open_tokenizer(hub, resolved.path, checkpoint)
    finally:
        if checkpoint is not None:
            checkpoint.close()
    return tokenizer


# ---- all together -----------------------------------------------------------------------------------------------------


def build_model(
    hub: KernelHub, opened: OpenModel, *, device: str, dtype: DTypeName
) -> tuple[Model, Mapping[str, Any]]:
    """Build an opened model. Returns it with the facts a record needs about back end and ops."""
    runtime = _bind(hub, device, dtype)
    return _build(hub, opened, runtime), runtime.facts()


@dataclass(frozen=True, slots=True)
class _Runtime:
    """What a model computes with."""

    backend: str
    device: str
    dtype: DTypeName
    ops: BoundOps

    def facts(self) -> dict[str, Any]:
        """For the record."""
        return {
            "backend": self.backend,
            "device": self.device,
            "dtype": self.dtype,
            "ops": self.ops.providers,
            "ops_refused": self.ops.refused,
        }


def _bind(hub: KernelHub, device: str, dtype: DTypeName) -> _Runtime:
    backend, where = choose_backend(hub, device, dtype)
    return _Runtime(backend, where, dtype, bind_ops(hub, backend, where, dtype))


def _build(hub: KernelHub, opened: OpenModel, runtime: _Runtime) -> Model:
    return chosen(
        hub,
        "model_architecture",
        opened.architecture_name,
        lambda: opened.architecture.build(
            opened.checkpoint, cast(Any, runtime.ops), dtype=runtime.dtype, device=runtime.device
        ),
    )


#: The policy that leaves the precision to the file.
AUTO = "auto"
_BLOCKS = re.compile(r"I?Q([1-8])_\w+")


def _known_dtype(policy: str) -> None:
    """Raise UsageError for a ``--dtype`` value that means nothing, before anything is opened."""
    if policy != AUTO:
        dtype_name(policy)


def _precision(hub: KernelHub, opened: OpenModel, device: str, policy: str) -> DTypeName:
    """The element type behind a ``--dtype`` value. ``auto`` is that in which most of the file is: int4 or int8 for quantised
    blocks, bfloat16 for that; and float32 for anything else, or where no back end computes in it."""
    if policy != AUTO:
        return dtype_name(policy)
    sizes: Counter[str] = Counter()
    for tensor in opened.checkpoint.tensors.values():
        sizes[tensor.dtype] += tensor.nbytes
    most = next((name for name, _ in sizes.most_common(1)), "")
    blocks = _BLOCKS.fullmatch(most)
    found: DTypeName = "bfloat16" if most == "BF16" else "float32"
    if blocks:
        found = "int4" if int(blocks[1]) <= 4 else "int8"
    try:
        choose_backend(hub, device, found)
    except DeviceUnavailable:
        return "float32"
    return found


def load_model(
    hub: KernelHub, ref: str, *, device: str = "auto", dtype: str = "exact", allow_pickle: bool = False
) -> LoadedModel:
    """Resolve, open and build a causal language model with its tokenizer.

    ``dtype`` is a policy or an element type, see ``DTYPES``; ``auto`` is what the file is in. Raises ModelNotFound, WeightsError,
    TokenizerError, UnknownName (no architecture plugin), DeviceUnavailable, and UsageError when the model is not a causal language model.
    """
    _known_dtype(dtype)
    with _uncollected(), opened_model(hub, ref, allow_pickle=allow_pickle) as opened:
        precision = _precision(hub, opened, device, dtype)
        summary = _summary(opened, ref)
        form, name = _tokenizer_format(hub, opened.resolved.path)
        # Weights are laid out by native code, tokenizers are read by Python: they do not wait for each other.
        with ThreadPoolExecutor(1, "tokenizer") as reader:
            reading = reader.submit(
                chosen, hub, "tokenizer", name, lambda: form.open(opened.resolved.path, opened.checkpoint)
            )
            runtime = _bind(hub, device, precision)
            model = _build(hub, opened, runtime)
            tokenizer = reading.result()
        _refuse_nan(model, opened.checkpoint, ref)
        facts = _facts(hub, opened, ref, summary, tokenizer, name, runtime)
    return LoadedModel(opened.resolved, cast(Any, model), tokenizer, facts)


def prepare_model(
    hub: KernelHub, ref: str, *, device: str = "auto", dtype: str = "exact", allow_pickle: bool = False
) -> PreparedModel:
    """All that ``load_model`` finds out but the model itself: its weights are not read before ``load`` is called.

    Raises what ``load_model`` raises, except for weights that turn out to be damaged.
    """
    _known_dtype(dtype)
    with opened_model(hub, ref, allow_pickle=allow_pickle) as opened:
        precision = _precision(hub, opened, device, dtype)
        summary = _summary(opened, ref)
        tokenizer, name = open_tokenizer(hub, opened.resolved.path, opened.checkpoint)
        runtime = _bind(hub, device, precision)
        facts = _facts(hub, opened, ref, summary, tokenizer, name, runtime)

    def load() -> LoadedModel:
        checkpoint, _ = open_checkpoint(hub, opened.resolved, allow_pickle=allow_pickle)
        try:
            model = _build(hub, replace(opened, checkpoint=checkpoint), runtime)
            _refuse_nan(model, checkpoint, ref)
        finally:
            checkpoint.close()
        return LoadedModel(opened.resolved, cast(Any, model), tokenizer, facts)

    return PreparedModel(opened.resolved, tokenizer, facts, summary.max_length, summary.vocab_size, load)


def _summary(opened: OpenModel, ref: str) -> ArchitectureSummary:
    """What the model is. Raises UsageError when that is no causal language model."""
    summary = opened.architecture.summarize(opened.checkpoint)
    if summary.kind != "decoder":
        raise UsageError(
            f"{ref} is an {summary.kind} ({summary.family}); this needs a causal language model",
            hint="`llmasos model info` shows what a model is",
        )
    return summary


def _facts(
    hub: KernelHub,
    opened: OpenModel,
    ref: str,
    summary: ArchitectureSummary,
    tokenizer: Tokenizer,
    tokenizer_name: str,
    runtime: _Runtime,
) -> dict[str, Any]:
    """What a record needs of a model."""
    return {
        "ref": ref,
        "source": opened.resolved.source,
        "revision": opened.resolved.revision,
        "license": opened.resolved.license or opened.checkpoint.metadata.get("license"),
        "provenance": dict(opened.resolved.provenance),
        "format": opened.checkpoint.format,
        "loader": opened.loader,
        "architecture": opened.architecture_name,
        "parameters": summary.parameters,
        "tokenizer": {
            "format": tokenizer_name,
            "digest": tokenizer.digest(),
            "adds_bos": tokenizer.adds_bos,
        },
        "files": file_digests(opened.checkpoint.files(), cache_dir=hub.cache_dir, known=_known(opened)),
        **runtime.facts(),
    }


def _refuse_nan(model: Model, checkpoint: Checkpoint, ref: str) -> None:
    """Raise WeightsError for a model that computes no numbers: one token is enough to see it, for its path meets every weight.

    Otherwise generation would go on with any token, and an evaluation end in a score of nothing.
    """
    import torch

    if not isinstance(model, CausalLM):
        return
    start = torch.zeros(1, dtype=torch.int64, device=model.device)
    with torch.inference_mode():
        hidden = model.hidden(PackedBatch(tokens=start, positions=start, starts=(0, 1)))
        if not bool(model.logits(hidden).isnan().any()):
            return
    for name in checkpoint.tensors:
        found = checkpoint.tensor(name)
        if found.is_floating_point() and not bool(found.isfinite().all()):
            raise WeightsError(
                f"{ref}: the tensor {name} holds NaN or infinity, so that the model computes no numbers",
                hint="the file is damaged or its training failed: download it again and compare its sha256",
            )
    raise WeightsError(
        f"{ref} computes NaN although its weights are numbers: they are beyond what {model.dtype} holds",
        hint="use --dtype exact",
    )


@contextmanager
def _uncollected() -> Iterator[None]:
    """No collection of cycles for a while: a vocabulary makes hundreds of thousands of objects, none of them garbage, and every
    look at them all takes a tenth of a second."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def opened_model(hub: KernelHub, ref: str, *, allow_pickle: bool = False) -> Iterator[OpenModel]:
    """``open_model`` that closes the checkpoint's maps at the end."""
    opened = open_model(hub, ref, allow_pickle=allow_pickle)
    try:
        yield opened
    finally:
        opened.checkpoint.close()


def _known(opened: OpenModel) -> Mapping[Path, str]:
    """Digests the reference's source vouches for, by absolute path."""
    root = opened.resolved.path
    base = root if root.is_dir() else root.parent
    return {base / name: digest for name, digest in opened.resolved.files.items()}


def _provided_as(hub: KernelHub, kind: str, name: str) -> Provided:
    contribution = hub.contribution(kind, name)
    found = [p for p in hub.names(kind) if name in (p.full_name, p.name) and p.name == contribution.name]
    return found[0]
