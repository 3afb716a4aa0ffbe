"""What a back end does for training: the ops that are worth kernels of their own, with derivatives.

Weights, activations and gradients are float32. A trainer that asks for bfloat16 gets products whose factors are rounded to it,
against float32 master weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from llmasos.contracts.runtime import AttentionLayout, Backend, Ops

if TYPE_CHECKING:
    from torch import Tensor


class TrainingKernels(Protocol):
    """Ops that torch differentiates: the first derivative of each argument that is a floating-point tensor.

    Registered with torch (``torch.library``), with shapes for its compiler, so that ``torch.compile`` takes a model with them.
    Weights are plain parameters, read anew at each call: an optimiser may write them in place at any time.
    """

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As in ``Ops``, of plain tensors."""

    def attention(self, q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout, scale: float) -> Tensor:
        """As in ``Ops``, of layouts without a cache."""

    def linear_cross_entropy(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        *,
        ignored: int = -100,
        mean: bool = True,
        smoothing: float = 0.0,
    ) -> Tensor:
        """Cross-entropy [] of the scores x [N, I] @ weight [V, I]ᵀ + bias [V] with targets [N] int64, over the rows whose target
        is not ``ignored``: their mean, NaN where there is none, or their sum.

        Of each target, ``smoothing`` is spread evenly over the vocabulary (Szegedy et al. 2016). Never are all scores in memory.
        Gradients are taken in the forward pass. Raises IndexError for a target outside the vocabulary.
        """


class TrainingOps(Ops, TrainingKernels, Protocol):
    """Everything a model and its loss need, bound once: a model built with it can be trained after ``requires_grad_()``."""

    #: name of an op -> why that of the back end is not used.
    refused: Mapping[str, str]


@runtime_checkable
class TrainingBackend(Backend, Protocol):
    """A back end with ops for training. Those that differ from the reference, in values or gradients, are not used."""

    def training(self, device: str, dtype: str) -> TrainingKernels:
        """Ops for a device and ``float32`` or ``bfloat16``, asked for after ``prepare``."""
