"""The sizes and choices that make one transformer: all a model needs to know besides its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

#: Heads an encoder may carry.
ENCODER_HEADS: frozenset[str] = frozenset({"mlm", "nsp", "pooler", "classification"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotary positions: angle of pair j at position p is p * theta^(-2j / width), then scaled.

    ``width`` is how many elements of each head are turned. ``linear`` divides every frequency by ``factor``; ``llama3``
    divides the low frequencies, leaves the high ones and blends between (Llama 3.1 model card), where low and high are
    wavelengths of ``original_length / low_freq_factor`` and ``original_length / high_freq_factor`` tokens.
    """

    width: int
    theta: float = 10000.0
    scaling: Literal["default", "linear", "llama3"] = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192

    def frequencies(self) -> Tensor:
        """Radians per token of each pair: [width / 2] float32, on the CPU."""
        exponents = torch.arange(0, self.width, 2, dtype=torch.float32, device="cpu") / self.width
        frequencies = 1.0 / (self.theta**exponents)
        if self.scaling == "linear":
            return frequencies / self.factor
        if self.scaling == "llama3":
            wavelengths = 2 * math.pi / frequencies
            longest, shortest = (
                self.original_length / f for f in (self.low_freq_factor, self.high_freq_factor)
            )
            # 0 where the wavelength is `longest`, 1 where it is `shortest`
            blend = (self.original_length / wavelengths - self.low_freq_factor) / (
                self.high_freq_factor - self.low_freq_factor
            )
            blended = (1 - blend) * frequencies / self.factor + blend * frequencies
            scaled = torch.where(wavelengths > longest, frequencies / self.factor, blended)
            return torch.where(wavelengths < shortest, frequencies, scaled)
        return frequencies


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSpec:
    """One transformer stack.

    ``norm_at`` pre: x + f(norm(x)), with a norm after the last layer; post: norm(x + f(x)), with a norm on the
    embeddings. ``rope`` None means learned positions. ``score_scale`` multiplies q·k; ``score_scale_by_layer`` divides
    it further by the layer's number, counted from 1. ``types`` segments (0: none). ``tied``: the vocabulary head is the
    embedding table. ``heads`` and ``labels`` only for encoders.
    """

    family: str
    kind: Literal["decoder", "encoder"]
    vocab_size: int
    max_length: int
    layers: int
    width: int
    query_heads: int
    key_heads: int
    head_width: int
    inner: int
    norm: Literal["rms", "layer"]
    norm_eps: float
    norm_at: Literal["pre", "post"]
    activation: str
    gated: bool
    attention_bias: bool
    feed_forward_bias: bool
    score_scale: float
    score_scale_by_layer: bool = False
    rope: Rope | None = None
    types: int = 0
    tied: bool = True
    heads: frozenset[str] = frozenset()
    labels: int = 0

    def scale(self, layer: int) -> float:
        """What q·k is multiplied with in layer ``layer``, counted from 0."""
        return self.score_scale / (layer + 1) if self.score_scale_by_layer else self.score_scale
