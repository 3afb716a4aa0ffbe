"""The ops of one model, once they are chosen: what a model is built with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from llmasos.contracts.runtime import BlockBackend, BlockWeight, OpCallable, PackedWeight, PackingBackend
from llmasos.contracts.stack import StackBackend, StackPlan, StackRunner
from llmasos.errors import LlmasosError

if TYPE_CHECKING:
    from torch import Tensor


class BoundOps:
    """The ops of one model, an attribute each; ``providers`` says where each came from (``--explain``, the record)."""

    def __init__(
        self,
        ops: Mapping[str, OpCallable],
        providers: Mapping[str, str],
        refused: Mapping[str, str],
        packer: PackingBackend | None = None,
        *,
        backend: str = "",
        facts: Mapping[str, str] | None = None,
        warn: Callable[[str], None] | None = None,
        quantised: bool = False,
    ) -> None:
        self.providers = dict(providers)
        #: full name -> why an op was not used.
        self.refused = dict(refused)
        #: What the back end says of itself once it is ready.
        self.facts = dict(facts or {})
        self._packer = packer
        #: Computes whole stacks, once it has passed its check.
        self._stacker: StackBackend | None = None
        self._backend = backend
        self._warn = warn
        self._quantised = quantised
        #: Types of blocks that the back end takes as a quantised file keeps them.
        self.block_types: frozenset[str] = (
            packer.block_types if isinstance(packer, BlockBackend) else frozenset()
        )
        for name, call in ops.items():
            setattr(self, name, call)

    @property
    def packs(self) -> bool:
        """Whether weights go to the back end to be laid out."""
        return self._packer is not None

    def stack(self, plan: StackPlan) -> StackRunner | None:
        """The stack as the back end computes it in one call; None to go op by op."""
        return None if self._stacker is None else self._stacker.stack(plan)

    def refuse_stacks(self, reason: str) -> None:
        """Go op by op, because of ``reason``."""
        self.refused[f"{self._backend}.stack"] = reason

    def compute_stacks(self, stacker: StackBackend) -> None:
        """Let ``stacker`` compute whole stacks: it has passed its check."""
        self._stacker = stacker
        self.providers["stack"] = f"{self._backend}.stack"

    def pack(self, weight: Tensor | BlockWeight, lookup: bool) -> Tensor | PackedWeight:
        """``weight`` as the bound ops read it fastest; as it is, with one warning, when the back end fails at it.

        Raises what a back end says in the errors of llmasos.api: that is about the weights. Where weights are ``QUANTISED`` it
        raises whatever happens, for other weights would not be what was asked for.
        """
        if self._packer is None:
            return weight.plain() if isinstance(weight, BlockWeight) else weight
        try:
            return cast(BlockBackend, self._packer).pack(weight, lookup)
        except LlmasosError:
            raise
        except Exception as error:
            if self._quantised or isinstance(weight, BlockWeight):
                raise
            reason = f"raised {type(error).__name__}: {error}"
            name = f"{self._backend}.pack"
            if name not in self.refused and self._warn is not None:
                self._warn(
                    f"weights are used as they are: {name} of [{', '.join(map(str, weight.shape))}] {reason}"
                )
            self.refused.setdefault(name, reason)
            return weight
