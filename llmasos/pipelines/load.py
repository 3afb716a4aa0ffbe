"""From a model reference to a model: resolve, open, choose architecture, back end and ops, build.

The kernel's catalogue chooses by name and by what manifests say they match; nothing here knows a model family.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from llmasos.contracts.base import Contribution
from llmasos.contracts.evaluation import LoadedModel
from llmasos.contracts.hub import Provided
from llmasos.contracts.model import (
    Architecture,
    Checkpoint,
    DTypeName,
    Model,
    ResolvedModel,
    WeightFormat,
    WeightLoader,
)
from llmasos.contracts.runtime import OP_NAMES, Backend, BackendDef, BackendRequest, KernelOp, OpCallable
from llmasos.contracts.tokenizer import Tokenizer, TokenizerDef, TokenizerFormat
from llmasos.errors import (
    AmbiguousName,
    DeviceUnavailable,
    LlmasosError,
    MissingDependency,
    ModelNotFound,
    PluginError,
    TokenizerError,
    UnknownName,
    UsageError,
    WeightsError,
)
from llmasos.provenance import file_digests

if TYPE_CHECKING:
    from llmasos.kernel.hub import KernelHub

Offer = TypeVar("Offer", bound=Contribution)
Chosen = TypeVar("Chosen")
Answer = TypeVar("Answer")

#: Names a user may give for a precision, and the element type each stands for.
DTYPES: Mapping[str, DTypeName] = {
    "exact": "float32",
    "fast": "bfloat16",
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
}

#: The back end that every op is defined by.
REFERENCE = "reference"


def dtype_name(policy: str) -> DTypeName:
    """The element type behind a ``--dtype`` value. Raises UsageError with the choices."""
    try:
        return DTYPES[policy]
    except KeyError:
        raise UsageError(f"unknown dtype {policy!r}", hint=f"choose one of {', '.join(DTYPES)}") from None


class BoundOps:
    """The ops of one model, an attribute each; ``providers`` says where each came from (``--explain``, the record)."""

    def __init__(
        self, ops: Mapping[str, OpCallable], providers: Mapping[str, str], refused: Mapping[str, str]
    ) -> None:
        self.providers = dict(providers)
        #: full name -> why an op was not used.
        self.refused = dict(refused)
        for name, call in ops.items():
            setattr(self, name, call)


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
    accepting: list[tuple[int, str, WeightFormat]] = []
    for name, definition in _offers(hub, "weight_loader", WeightLoader):
        if name in matching and (form := _accepting(hub, "weight_loader", name, path)) is not None:
            accepting.append((definition.priority, name, form))
    if not accepting:
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
    loader, name = _best(accepting, f"reading {path}")
    return loader.open(path, allow_pickle=allow_pickle), name


def required_architecture(path: Path) -> str | None:
    """The ``architecture`` of a model directory's own ``llmasos.toml``, if it has one. Raises WeightsError if malformed."""
    manifest = path / "llmasos.toml"
    if not path.is_dir() or not manifest.is_file():
        return None
    try:
        table = tomllib.loads(manifest.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{manifest}: {error}", hint="fix or remove the file") from None
    name = table.get("architecture")
    if name is not None and not isinstance(name, str):
        raise WeightsError(
            f"{manifest}: `architecture` is not a string", hint='write architecture = "plugin-id/name"'
        )
    return name


def choose_architecture(hub: KernelHub, resolved: ResolvedModel, checkpoint: Checkpoint) -> str:
    """Full name of the architecture that a checkpoint asks for, from its own manifest or from what plugins match.

    Raises UnknownName saying which plugin kind would be needed.
    """
    named = required_architecture(resolved.path)
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
    resolved = hub.resolve_model(ref)
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
    accepting: list[tuple[int, str, TokenizerFormat]] = []
    for name, definition in _offers(hub, "tokenizer", TokenizerDef):
        if (form := _accepting(hub, "tokenizer", name, path)) is not None:
            accepting.append((definition.priority, name, form))
    if not accepting:
        raise TokenizerError(
            f"{path} has no tokenizer that an installed plugin can read",
            hint="a model directory needs tokenizer.json or vocab.txt; a GGUF file carries its own",
        )
    chosen, name = _best(accepting, f"the tokenizer of {path}")
    return chosen.open(path, checkpoint), name


def load_tokenizer(hub: KernelHub, ref: str) -> Tokenizer:
    """The tokenizer of a model reference; the model's weights are not read.

    A directory needs only its tokenizer files; a weight file is opened for its header.
    """
    resolved = hub.resolve_model(ref)
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


# ---- back end ---------------------------------------------------------------------------------------------------------


def choose_backend(hub: KernelHub, device: str, dtype: DTypeName) -> tuple[str, str]:
    """(full name of the back end, device it will use) for a request. ``auto`` takes the best device of the best back end.

    Raises DeviceUnavailable naming what is there.
    """
    served: list[tuple[int, str, str]] = []
    present: set[str] = set()
    for name, definition in _offers(hub, "backend", BackendDef):
        for candidate, dtypes in _devices(hub, name):
            present.add(candidate)
            wanted = device == "auto" or candidate == device or candidate == device.split(":")[0]
            if wanted and dtype in dtypes:
                served.append((-definition.priority, name, candidate if device == "auto" else device))
                break
    if not served:
        raise DeviceUnavailable(
            f"no enabled back end serves device {device!r} with {dtype}",
            hint=f"devices here: {', '.join(sorted(present)) or 'none'}; on a CPU use --dtype exact or fast",
        )
    served.sort()
    names = tuple(name for _, name, _ in served)
    chosen = hub.select_backend(BackendRequest(device, dtype), names)
    if chosen not in names:
        raise UsageError(
            f"select_backend answered {chosen!r}, which is not a candidate",
            hint=f"candidates: {', '.join(names)}",
        )
    return chosen, next(where for _, name, where in served if name == chosen)


def bind_ops(hub: KernelHub, backend: str, device: str, dtype: DTypeName) -> BoundOps:
    """Bind every op once: the chosen back end's where it has one that passes its check, the reference's otherwise."""
    offered: dict[tuple[str, str], tuple[KernelOp, str]] = {}
    for name, definition in _offers(hub, "kernel_op", KernelOp):
        taken = offered.setdefault((definition.backend, definition.op), (definition, name))
        if taken[1] != name:
            raise _ambiguous(f"the op {definition.op} of back end {definition.backend}", [taken[1], name])
    ops: dict[str, OpCallable] = {}
    providers: dict[str, str] = {}
    refused: dict[str, str] = {}
    bare = backend.rsplit("/", 1)[-1]
    for op in OP_NAMES:
        chosen = REFERENCE
        own = offered.get((bare, op))
        if bare != REFERENCE and own is not None:
            definition, full_name = own
            reason = _refusal(hub, definition, full_name, offered.get((REFERENCE, op)), device, dtype)
            if reason is None:
                chosen = bare
            else:
                refused[full_name] = reason
        entry = offered.get((chosen, op))
        if entry is None:
            raise DeviceUnavailable(
                f"no enabled plugin provides the op {op!r}",
                hint="enable llmasos-transformer, see `llmasos doctor`",
            )
        ops[op] = cast(OpCallable, hub.get("kernel_op", entry[1]))
        providers[op] = entry[1]
    return BoundOps(ops, providers, refused)


def _refusal(
    hub: KernelHub,
    definition: KernelOp,
    full_name: str,
    reference: tuple[KernelOp, str] | None,
    device: str,
    dtype: DTypeName,
) -> str | None:
    """Why an op is not used, or None: device, dtype, or the largest difference from the reference."""
    from llmasos.pipelines.opcheck import largest_difference

    if device.split(":")[0] not in definition.devices:
        return f"does not run on {device}"
    if dtype not in definition.dtypes:
        return f"does not compute in {dtype}"
    if reference is None:
        return "there is no reference to check it against"
    difference = largest_difference(
        definition.op,
        hub.get("kernel_op", full_name),
        hub.get("kernel_op", reference[1]),
        device=device,
        dtype=dtype,
    )
    if difference > definition.tolerance:
        return f"differs from the reference by {difference:.3g} (allowed {definition.tolerance:.3g})"
    return None


# ---- all together -----------------------------------------------------------------------------------------------------


def build_model(
    hub: KernelHub, opened: OpenModel, *, device: str, dtype: DTypeName
) -> tuple[Model, Mapping[str, Any]]:
    """Build an opened model. Returns it with the facts a record needs about back end and ops."""
    backend, where = choose_backend(hub, device, dtype)
    ops = bind_ops(hub, backend, where, dtype)
    model = opened.architecture.build(opened.checkpoint, cast(Any, ops), dtype=dtype, device=where)
    return model, {
        "backend": backend,
        "device": where,
        "dtype": dtype,
        "ops": ops.providers,
        "ops_refused": ops.refused,
    }


def load_model(
    hub: KernelHub, ref: str, *, device: str = "auto", dtype: str = "exact", allow_pickle: bool = False
) -> LoadedModel:
    """Resolve, open and build a causal language model with its tokenizer.

    Raises ModelNotFound, WeightsError, TokenizerError, UnknownName (no architecture plugin), DeviceUnavailable, and
    UsageError when the model is not a causal language model.
    """
    precision = dtype_name(dtype)
    with opened_model(hub, ref, allow_pickle=allow_pickle) as opened:
        summary = opened.architecture.summarize(opened.checkpoint)
        if summary.kind != "decoder":
            raise UsageError(
                f"{ref} is an {summary.kind} ({summary.family}); this needs a causal language model",
                hint="`llmasos model info` shows what a model is",
            )
        tokenizer, tokenizer_name = open_tokenizer(hub, opened.resolved.path, opened.checkpoint)
        model, runtime = build_model(hub, opened, device=device, dtype=precision)
        facts: dict[str, Any] = {
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
            **runtime,
        }
    return LoadedModel(opened.resolved, cast(Any, model), tokenizer, facts)


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


def _offers(hub: KernelHub, kind: str, form: type[Offer]) -> Iterator[tuple[str, Offer]]:
    """(full name, descriptor) of a kind from every enabled plugin; a plugin that fails is one warning and left out."""
    for collected in hub.collect(kind):
        yield f"{collected.plugin}/{collected.item.name}", cast(Offer, collected.item)


def _usable(hub: KernelHub, kind: str, name: str) -> Any | None:
    """The object behind a contribution the user did not name, or None with one warning when it cannot be loaded."""
    try:
        return hub.get(kind, name)
    except (PluginError, MissingDependency) as error:
        hub.warn(error.message)
        return None


def _accepting(hub: KernelHub, kind: str, name: str, path: Path) -> Any | None:
    """The format behind a contribution, when it accepts ``path``."""
    factory = _usable(hub, kind, name)
    if factory is None:
        return None

    def ask() -> Any | None:
        form = factory()
        return form if form.accepts(path) else None

    return _asked(hub, kind, name, ask)


def _devices(hub: KernelHub, name: str) -> Sequence[tuple[str, Sequence[str]]]:
    """Devices of a back end, with the element types each computes in."""
    factory = _usable(hub, "backend", name)
    if factory is None:
        return ()

    def ask() -> list[tuple[str, Sequence[str]]]:
        backend = cast(Backend, factory())
        return [(device, backend.dtypes(device)) for device in backend.devices()]

    return _asked(hub, "backend", name, ask) or ()


def _asked(hub: KernelHub, kind: str, name: str, question: Callable[[], Answer]) -> Answer | None:
    """The answer of a contribution the user did not name, or None with one warning when it raises.

    What it says in the errors of llmasos.api is about the user's files and passes.
    """
    try:
        return question()
    except LlmasosError:
        raise
    except Exception as error:
        plugin = next((p.plugin for p in hub.names(kind) if p.full_name == name), None)
        version = f" {plugin.version}" if plugin else ""
        hub.warn(f"{kind} {name}{version} was left out: it raised {type(error).__name__}: {error}")
        return None


def _best(accepting: Sequence[tuple[int, str, Chosen]], what: str) -> tuple[Chosen, str]:
    """The entry of the highest priority. Raises AmbiguousName when two share it: nothing is chosen silently."""
    highest = max(priority for priority, _, _ in accepting)
    best = sorted((name, item) for priority, name, item in accepting if priority == highest)
    if len(best) > 1:
        raise _ambiguous(what, [name for name, _ in best])
    return best[0][1], best[0][0]


def _ambiguous(what: str, names: Sequence[str]) -> AmbiguousName:
    return AmbiguousName(
        f"{what} is claimed by {' and '.join(names)}",
        hint="disable all but one with `llmasos plugin disable`, or run with --only",
    )
