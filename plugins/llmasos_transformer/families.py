"""The families: which configuration keys give the sizes, and which checkpoint tensors fill which parameters.

Everything a family is lies in its table. ``body`` names are written without the family's ``prefix``, which a checkpoint
of the bare model may lack; ``heads`` names are always written in full. ``{i}`` stands for the layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from llmasos.api import WeightsError
from llmasos_transformer.config import ConfigReader
from llmasos_transformer.spec import Rope, StackSpec

#: Names of the same function in configurations -> name in the contract.
ACTIVATIONS: Mapping[str, str] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a parameter lies in a checkpoint: the first of ``names`` that is there.

    Others that are there too must hold the same numbers, or with ``compared`` "tied" only when the head is tied.
    ``transposed``: stored as [inputs, outputs]. ``part`` (k, n): the k-th of n equal pieces along the outputs.
    """

    names: tuple[str, ...]
    transposed: bool = False
    part: tuple[int, int] = (0, 1)
    compared: Literal["always", "tied"] = "always"


def _same(name: str) -> Source:
    return Source((name,))


def _weight_bias(parameter: str, name: str) -> dict[str, Source]:
    return {f"{parameter}.{kind}": _same(f"{name}.{kind}") for kind in ("weight", "bias")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One row of the table. ``spec`` reads the sizes; it is given the configuration and the heads found."""

    name: str
    kind: Literal["decoder", "encoder"]
    prefix: str
    spec: Callable[[ConfigReader, frozenset[str]], StackSpec]
    #: Parameter -> where it is stored; names get ``prefix``.
    body: Mapping[str, Source]
    #: Parameter -> where it is stored; names are complete.
    heads: Mapping[str, Source] = field(default_factory=dict)
    #: Head -> how names that only this head has begin, after ``prefix`` where they have it (encoders).
    head_marks: Mapping[str, str] = field(default_factory=dict)
    #: Architecture named by config.json -> heads it must have.
    required_heads: Mapping[str, frozenset[str]] = field(default_factory=dict)
    #: Embedding-tied parameter -> complete names that may repeat it (stored twice by some writers).
    tied_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Complete names that carry nothing a forward pass needs: masks and tables that are computed.
    ignored: tuple[re.Pattern[str], ...] = ()
    #: Older spellings of the end of a name -> today's.
    old_endings: Mapping[str, str] = field(default_factory=dict)


def activation_name(config: ConfigReader, key: str, default: str) -> str:
    """The contract's name for the activation a configuration asks for. Raises WeightsError for an unknown one."""
    name = config.word(key, default)
    if name not in ACTIVATIONS:
        raise WeightsError(
            f"{key} = {name!r} in the configuration: no such activation here",
            hint=f"known: {', '.join(sorted(ACTIVATIONS))}",
        )
    return ACTIVATIONS[name]


# ---- Llama ------------------------------------------------------------------------------------------------------------


def rope_of(config: ConfigReader, head_width: int, max_length: int) -> Rope:
    """Rotary settings: ``rope_parameters`` (transformers 5) or ``rope_theta`` with ``rope_scaling`` (before)."""
    table = config.table("rope_parameters") or config.table("rope_scaling")
    empty = ConfigReader({}, "rotary")
    scaling = table or empty
    kind = scaling.word("rope_type", scaling.word("type", "default"))
    theta = scaling.number("rope_theta", config.number("rope_theta", 10000.0))
    part = scaling.number("partial_rotary_factor", config.number("partial_rotary_factor", 1.0))
    width = int(head_width * part)
    if part > 1 or width % 2 or width == 0:
        raise WeightsError(
            f"rotary positions over {width} of {head_width} elements of a head: must be even and inside"
        )
    if kind == "default":
        return Rope(width=width, theta=theta)
    if kind == "linear":
        return Rope(width=width, theta=theta, scaling="linear", factor=scaling.number("factor"))
    if kind == "llama3":
        low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
        if high <= low:
            raise WeightsError(
                f"rotary scaling llama3: high_freq_factor {high} must be above low_freq_factor {low}"
            )
        return Rope(
            width=width,
            theta=theta,
            scaling="llama3",
            factor=scaling.number("factor"),
            low_freq_factor=low,
            high_freq_factor=high,
            original_length=scaling.size("original_max_position_embeddings", max_length),
        )
    raise WeightsError(
        f"rotary scaling {kind!r} in the configuration: no such scaling here",
        hint="known: default, linear, llama3",
    )


def _llama_spec(config: ConfigReader, heads: frozenset[str]) -> StackSpec:
    width, query_heads = config.size("hidden_size"), config.size("num_attention_heads")
    key_heads = config.size("num_key_value_heads", query_heads)
    if query_heads % key_heads:
        raise config.refuse("num_key_value_heads", f"must divide num_attention_heads = {query_heads}")
    if not config.has("head_dim") and width % query_heads:
        raise config.refuse(
            "num_attention_heads", f"must divide hidden_size = {width} when there is no head_dim"
        )
    head_width = config.size("head_dim", width // query_heads)
    max_length = config.size("max_position_embeddings", 2048)
    return StackSpec(
        family="llama",
        kind="decoder",
        vocab_size=config.size("vocab_size"),
        max_length=max_length,
        layers=config.size("num_hidden_layers"),
        width=width,
        query_heads=query_heads,
        key_heads=key_heads,
        head_width=head_width,
        inner=config.size("intermediate_size"),
        norm="rms",
        norm_eps=config.number("rms_norm_eps", 1e-6),
        norm_at="pre",
        activation=activation_name(config, "hidden_act", "silu"),
        gated=True,
        attention_bias=config.flag("attention_bias", False),
        feed_forward_bias=config.flag("mlp_bias", False),
        score_scale=head_width**-0.5,
        rope=rope_of(config, head_width, max_length),
        tied=config.flag("tie_word_embeddings", False),
    )


LLAMA = Family(
    name="llama",
    kind="decoder",
    prefix="model.",
    spec=_llama_spec,
    body={
        "embeddings.tokens": _same("embed_tokens.weight"),
        "blocks.{i}.attention_norm.weight": _same("layers.{i}.input_layernorm.weight"),
        **_weight_bias("blocks.{i}.attention.query", "layers.{i}.self_attn.q_proj"),
        **_weight_bias("blocks.{i}.attention.key", "layers.{i}.self_attn.k_proj"),
        **_weight_bias("blocks.{i}.attention.value", "layers.{i}.self_attn.v_proj"),
        **_weight_bias("blocks.{i}.attention.output", "layers.{i}.self_attn.o_proj"),
        "blocks.{i}.feed_forward_norm.weight": _same("layers.{i}.post_attention_layernorm.weight"),
        **_weight_bias("blocks.{i}.feed_forward.gate", "layers.{i}.mlp.gate_proj"),
        **_weight_bias("blocks.{i}.feed_forward.up", "layers.{i}.mlp.up_proj"),
        **_weight_bias("blocks.{i}.feed_forward.down", "layers.{i}.mlp.down_proj"),
        "final_norm.weight": _same("norm.weight"),
    },
    heads={"head": _same("lm_head.weight")},
    tied_names={"embeddings.tokens": ("lm_head.weight",)},
    ignored=(re.compile(r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq"),),
)


# ---- GPT-2 ------------------------------------------------------------------------------------------------------------


def _gpt2_spec(config: ConfigReader, heads: frozenset[str]) -> StackSpec:
    width, query_heads = config.size("n_embd"), config.size("n_head")
    if width % query_heads:
        raise config.refuse("n_head", f"must divide n_embd = {width}")
    if config.flag("add_cross_attention", False):
        raise config.refuse("add_cross_attention", "a GPT-2 with an encoder is another architecture")
    head_width = width // query_heads
    return StackSpec(
        family="gpt2",
        kind="decoder",
        vocab_size=config.size("vocab_size"),
        max_length=config.size("n_positions", 1024),
        layers=config.size("n_layer"),
        width=width,
        query_heads=query_heads,
        key_heads=query_heads,
        head_width=head_width,
        inner=config.size("n_inner", 4 * width),
        norm="layer",
        norm_eps=config.number("layer_norm_epsilon", 1e-5),
        norm_at="pre",
        activation=activation_name(config, "activation_function", "gelu_new"),
        gated=False,
        attention_bias=True,
        feed_forward_bias=True,
        score_scale=head_width**-0.5 if config.flag("scale_attn_weights", True) else 1.0,
        score_scale_by_layer=config.flag("scale_attn_by_inverse_layer_idx", False),
        tied=config.flag("tie_word_embeddings", True),
    )


def _conv1d(parameter: str, name: str, part: tuple[int, int] = (0, 1)) -> dict[str, Source]:
    """GPT-2 was written with 1x1 convolutions, whose weights are stored as [inputs, outputs]."""
    return {
        f"{parameter}.weight": Source((f"{name}.weight",), transposed=True, part=part),
        f"{parameter}.bias": Source((f"{name}.bias",), part=part),
    }


GPT2 = Family(
    name="gpt2",
    kind="decoder",
    prefix="transformer.",
    spec=_gpt2_spec,
    body={
        "embeddings.tokens": _same("wte.weight"),
        "embeddings.positions": _same("wpe.weight"),
        **_weight_bias("blocks.{i}.attention_norm", "h.{i}.ln_1"),
        **_conv1d("blocks.{i}.attention.query", "h.{i}.attn.c_attn", (0, 3)),
        **_conv1d("blocks.{i}.attention.key", "h.{i}.attn.c_attn", (1, 3)),
        **_conv1d("blocks.{i}.attention.value", "h.{i}.attn.c_attn", (2, 3)),
        **_conv1d("blocks.{i}.attention.output", "h.{i}.attn.c_proj"),
        **_weight_bias("blocks.{i}.feed_forward_norm", "h.{i}.ln_2"),
        **_conv1d("blocks.{i}.feed_forward.up", "h.{i}.mlp.c_fc"),
        **_conv1d("blocks.{i}.feed_forward.down", "h.{i}.mlp.c_proj"),
        **_weight_bias("final_norm", "ln_f"),
    },
    heads={"head": _same("lm_head.weight")},
    tied_names={"embeddings.tokens": ("lm_head.weight",)},
    # the causal mask and its fill value, which early writers stored with every layer
    ignored=(re.compile(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias"),),
)


# ---- BERT -------------------------------------------------------------------------------------------------------------


def _bert_spec(config: ConfigReader, heads: frozenset[str]) -> StackSpec:
    width, query_heads = config.size("hidden_size"), config.size("num_attention_heads")
    if width % query_heads:
        raise config.refuse("num_attention_heads", f"must divide hidden_size = {width}")
    if config.word("position_embedding_type", "absolute") != "absolute":
        raise config.refuse("position_embedding_type", "only absolute positions are known for BERT")
    for key in ("is_decoder", "add_cross_attention"):
        if config.flag(key, False):
            raise config.refuse(key, "a BERT used as a decoder is another architecture")
    head_width = width // query_heads
    return StackSpec(
        family="bert",
        kind="encoder",
        vocab_size=config.size("vocab_size"),
        max_length=config.size("max_position_embeddings", 512),
        layers=config.size("num_hidden_layers"),
        width=width,
        query_heads=query_heads,
        key_heads=query_heads,
        head_width=head_width,
        inner=config.size("intermediate_size"),
        norm="layer",
        norm_eps=config.number("layer_norm_eps", 1e-12),
        norm_at="post",
        activation=activation_name(config, "hidden_act", "gelu"),
        gated=False,
        attention_bias=True,
        feed_forward_bias=True,
        score_scale=head_width**-0.5,
        types=config.size("type_vocab_size", 2),
        tied=config.flag("tie_word_embeddings", True),
        heads=heads,
        labels=config.size("num_labels", config.entries("id2label") or 2) if "classification" in heads else 0,
    )


BERT = Family(
    name="bert",
    kind="encoder",
    prefix="bert.",
    spec=_bert_spec,
    body={
        "embeddings.tokens": _same("embeddings.word_embeddings.weight"),
        "embeddings.positions": _same("embeddings.position_embeddings.weight"),
        "embeddings.types": _same("embeddings.token_type_embeddings.weight"),
        **_weight_bias("embeddings.norm", "embeddings.LayerNorm"),
        **_weight_bias("blocks.{i}.attention.query", "encoder.layer.{i}.attention.self.query"),
        **_weight_bias("blocks.{i}.attention.key", "encoder.layer.{i}.attention.self.key"),
        **_weight_bias("blocks.{i}.attention.value", "encoder.layer.{i}.attention.self.value"),
        **_weight_bias("blocks.{i}.attention.output", "encoder.layer.{i}.attention.output.dense"),
        **_weight_bias("blocks.{i}.attention_norm", "encoder.layer.{i}.attention.output.LayerNorm"),
        **_weight_bias("blocks.{i}.feed_forward.up", "encoder.layer.{i}.intermediate.dense"),
        **_weight_bias("blocks.{i}.feed_forward.down", "encoder.layer.{i}.output.dense"),
        **_weight_bias("blocks.{i}.feed_forward_norm", "encoder.layer.{i}.output.LayerNorm"),
        **_weight_bias("pooler", "pooler.dense"),
    },
    heads={
        **_weight_bias("mlm.transform", "cls.predictions.transform.dense"),
        **_weight_bias("mlm.norm", "cls.predictions.transform.LayerNorm"),
        "mlm.decoder": _same("cls.predictions.decoder.weight"),
        # One bias under either name or both; in untied models of transformers 5 the second exists but is not used.
        "mlm.bias": Source(("cls.predictions.decoder.bias", "cls.predictions.bias"), compared="tied"),
        **_weight_bias("nsp", "cls.seq_relationship"),
        **_weight_bias("classifier", "classifier"),
    },
    head_marks={
        "pooler": "pooler.",
        "mlm": "cls.predictions.",
        "nsp": "cls.seq_relationship.",
        "classification": "classifier.",
    },
    required_heads={
        "BertForMaskedLM": frozenset({"mlm"}),
        "BertForPreTraining": frozenset({"mlm", "nsp", "pooler"}),
        "BertForNextSentencePrediction": frozenset({"nsp", "pooler"}),
        "BertForSequenceClassification": frozenset({"classification", "pooler"}),
    },
    tied_names={"embeddings.tokens": ("cls.predictions.decoder.weight",)},
    ignored=(
        re.compile(r"(bert\.)?embeddings\.position_ids"),
        # AntiBERTy's own heads, beside a plain masked-LM head: extra outputs that nothing here depends on
        re.compile(r"cls\.(species|chain|graft)\.(weight|bias)"),
    ),
    # the first BERT checkpoints were converted from TensorFlow, which calls them so
    old_endings={".gamma": ".weight", ".beta": ".bias"},
)
