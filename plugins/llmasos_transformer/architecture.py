"""From an open checkpoint to a model: check that everything fits, then read each tensor once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from llmasos.api import (
    ArchitectureSummary,
    Checkpoint,
    DTypeName,
    Ops,
    PackedBatch,
    UsageError,
    WeightsError,
    element_name,
)
from llmasos_transformer.config import ConfigReader
from llmasos_transformer.families import BERT, GPT2, LLAMA, Family, Source
from llmasos_transformer.importance import WatchingOps, watch
from llmasos_transformer.model import Decoder, Encoder
from llmasos_transformer.ops import ReferenceOps
from llmasos_transformer.reading import LAYER, Reading, Use
from llmasos_transformer.spec import StackSpec

#: How many names of one kind an error lists before it counts the rest.
_LISTED = 8


class _Plan(NamedTuple):
    """A checkpoint that fits: what to read for what."""

    spec: StackSpec
    #: Stored name -> the parameters it fills.
    uses: Mapping[str, list[Use]]
    #: (stored name, stored name that must hold the same numbers)
    repeats: list[tuple[str, str]]
    head_tensors: Mapping[str, tuple[str, ...]]
    parameters: int


def _list(names: Iterable[str]) -> str:
    every = sorted(set(names))
    more = f" and {len(every) - _LISTED} more" if len(every) > _LISTED else ""
    return ", ".join(every[:_LISTED]) + more


class FamilyArchitecture:
    """An ``Architecture`` made from one row of the family table."""

    family: Family

    def summarize(self, checkpoint: Checkpoint) -> ArchitectureSummary:
        """Check configuration and tensor headers, and describe the model. Loads no weights."""
        plan = self._plan(checkpoint)
        spec = plan.spec
        return ArchitectureSummary(
            family=spec.family,
            kind=spec.kind,
            layers=spec.layers,
            width=spec.width,
            heads=spec.query_heads,
            kv_heads=spec.key_heads,
            vocab_size=spec.vocab_size,
            max_length=spec.max_length,
            parameters=plan.parameters,
        )

    def build(self, checkpoint: Checkpoint, ops: Ops, *, dtype: DTypeName, device: str) -> Decoder | Encoder:
        """Load the weights into a model that computes with ``ops`` in ``dtype`` on ``device``.

        Matrices are laid out as the back end reads them fastest (``ops.pack``). One layer is read at a time and copied, and its
        pages of the file leave memory: the checkpoint may be closed afterwards and no second copy of the model is ever held.
        Raises WeightsError when the checkpoint does not fit, UsageError for float16 on the CPU.
        """
        if dtype not in get_args(DTypeName):
            raise UsageError(f"unknown dtype {dtype!r}", hint=f"known: {', '.join(get_args(DTypeName))}")
        if dtype == "float16" and torch.device(device).type == "cpu":
            raise UsageError(
                "float16 arithmetic on the CPU is refused: it is far slower than float32 and less exact",
                hint="use float32 or bfloat16; float16 checkpoints are converted as they are read",
            )
        plan = self._plan(checkpoint)
        element: torch.dtype = getattr(torch, element_name(dtype))
        model = self._skeleton(plan.spec, checkpoint, ops, plan.head_tensors, dtype=dtype, device=device)
        reading = Reading(checkpoint, model, ops, plan.uses, plan.repeats, element, device)
        reading.fill(None)
        model.settle(reading.fill, reading.release)
        return model.eval()

    def importance(self, checkpoint: Checkpoint, batches: Iterable[PackedBatch]) -> Mapping[str, Tensor]:
        """Stored name -> second moments of the inputs of that matrix over ``batches``, see ``importance``."""
        plan, ops = self._plan(checkpoint), WatchingOps()
        model = self.build(checkpoint, ops, dtype="float32", device="cpu")
        names = {use.parameter: name for name, uses in plan.uses.items() for use in uses}
        inside = {parameter: name for parameter, name in names.items() if LAYER.search(parameter)}
        return watch(model, ops, inside, batches)

    def _skeleton(
        self,
        spec: StackSpec,
        checkpoint: Checkpoint,
        ops: Ops,
        head_tensors: Mapping[str, tuple[str, ...]],
        *,
        dtype: DTypeName,
        device: str,
    ) -> Decoder | Encoder:
        """The model with parameters that have shapes but no storage."""
        with torch.device("meta"):
            if spec.kind == "decoder":
                return Decoder(ops, spec, checkpoint.config, dtype=dtype, device=device)
            return Encoder(
                ops, spec, checkpoint.config, dtype=dtype, device=device, head_tensors=head_tensors
            )

    def _plan(self, checkpoint: Checkpoint) -> _Plan:
        """Match every parameter with a stored tensor. Raises WeightsError listing all that does not fit."""
        family = self.family
        config = ConfigReader(checkpoint.config, family.name)
        stored = {self._today(name): name for name in checkpoint.tensors}
        prefix = family.prefix if any(name.startswith(family.prefix) for name in stored) else ""
        heads = self._heads(stored, prefix) | self._required(config)
        spec = family.spec(config, heads)
        if spec.layers > len(stored):
            # before a model of that many layers is drawn up
            raise WeightsError(
                f"the configuration says {spec.layers} layers, the checkpoint has only {len(stored)} tensors",
                hint="config.json and weights do not belong together, or a shard is missing",
            )
        head_tensors = {head: self._head_names(head, prefix, spec) for head in family.head_marks}
        skeleton = self._skeleton(
            spec, checkpoint, ReferenceOps(), head_tensors, dtype="float32", device="cpu"
        )
        uses: dict[str, list[Use]] = {}
        repeats: list[tuple[str, str]] = []
        missing, misshapen, known = [], [], set()
        for parameter, value in skeleton.named_parameters():
            source, names = self._names(parameter, prefix, spec)
            known.update(names)
            found = [name for name in names if name in stored]
            if not found:
                missing.append(names[0])
                continue
            actual = stored[found[0]]
            wanted = _stored_shape(tuple(value.shape), source)
            for name in found:
                shape = tuple(checkpoint.tensors[stored[name]].shape)
                if shape != wanted:
                    misshapen.append(f"{name} is {list(shape)}, expected {list(wanted)}")
            uses.setdefault(actual, []).append(Use(parameter, source))
            if source.compared == "always" or spec.tied:
                repeats += [(actual, stored[name]) for name in found[1:]]
        unexpected = [
            name
            for name in stored
            if name not in known and not any(p.fullmatch(name) for p in family.ignored)
        ]
        problems = [
            f"{what}: {_list(names)}"
            for what, names in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("wrong shape", misshapen),
            )
            if names
        ]
        if problems:
            raise WeightsError(
                f"the checkpoint {checkpoint.path.name} does not fit the {family.name} architecture; "
                + "; ".join(problems),
                hint="config.json and weights do not belong together, or the model needs another architecture plugin",
            )
        return _Plan(spec, uses, repeats, head_tensors, sum(p.numel() for p in skeleton.parameters()))

    def _today(self, name: str) -> str:
        for old, new in self.family.old_endings.items():
            if name.endswith(old):
                return name.removesuffix(old) + new
        return name

    def _heads(self, stored: Iterable[str], prefix: str) -> frozenset[str]:
        marks = self.family.head_marks
        return frozenset(
            head
            for head, mark in marks.items()
            if any(name.startswith((mark, prefix + mark)) for name in stored)
        )

    def _required(self, config: ConfigReader) -> frozenset[str]:
        required: frozenset[str] = frozenset()
        for architecture in config.words("architectures"):
            required |= self.family.required_heads.get(architecture, frozenset())
        return required

    def _head_names(self, head: str, prefix: str, spec: StackSpec) -> tuple[str, ...]:
        mark = self.family.head_marks[head]
        names = [prefix + s.names[0] for s in self.family.body.values() if s.names[0].startswith(mark)]
        names += [s.names[0] for s in self.family.heads.values() if s.names[0].startswith(mark)]
        tied = {name for names in self.family.tied_names.values() for name in names} if spec.tied else set()
        return tuple(name for name in names if name not in tied)

    def _names(self, parameter: str, prefix: str, spec: StackSpec) -> tuple[Source, list[str]]:
        """Where a parameter may be stored, complete names in order of preference."""
        layer = LAYER.search(parameter)
        key = LAYER.sub("blocks.{i}.", parameter)
        number = layer.group(1) if layer else ""
        if key in self.family.body:
            source = self.family.body[key]
            names = [prefix + name.replace("{i}", number) for name in source.names]
        else:
            source = self.family.heads[key]
            names = list(source.names)
        if spec.tied:
            names += self.family.tied_names.get(key, ())
        return source, names


def _stored_shape(shape: tuple[int, ...], source: Source) -> tuple[int, ...]:
    """The shape of the stored tensor a parameter of ``shape`` is cut from."""
    whole = (shape[0] * source.part[1], *shape[1:])
    return whole[::-1] if source.transposed else whole


class LlamaArchitecture(FamilyArchitecture):
    """RMSNorm, rotary positions, grouped-query attention, SwiGLU (Touvron et al. 2023)."""

    family = LLAMA


class Gpt2Architecture(FamilyArchitecture):
    """Learned positions, LayerNorm, GELU (Radford et al. 2019)."""

    family = GPT2


class BertArchitecture(FamilyArchitecture):
    """A bidirectional encoder with norms after the layers (Devlin et al. 2019)."""

    family = BERT
