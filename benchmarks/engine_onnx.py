"""A BERT folder as an ONNX graph of onnxruntime's fused operators, for ``engine.py``. Needs onnx, numpy and safetensors.

An exported graph is slower: its attention is a dozen operators that the optimiser does not always recognise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FUSED = "com.microsoft"


def write(folder: Path, target: Path, precision: str) -> None:
    """Write ``folder`` to ``target``. Inputs: ids [B, T] int32 padded on the right, lengths [B] int32; output hidden [B, T, D]."""
    import numpy
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors = {
        name.removeprefix("bert."): value for name, value in load_file(folder / "model.safetensors").items()
    }
    stored: dict[str, Any] = {}
    nodes: list[Any] = []
    eps = float(config["layer_norm_eps"])

    def keep(name: str, value: Any) -> str:
        stored[name] = numpy.ascontiguousarray(value, dtype="float32")
        return name

    def vector(name: str) -> str:
        return keep(name, tensors[name])

    def matrix(name: str) -> str:
        return keep(f"{name}.T", tensors[name].T)

    def add(kind: str, inputs: list[str], output: str, *, domain: str = FUSED, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output

    part = "embeddings"
    # One segment: its row can be added to the positions once and for all.
    positions = keep(
        "positions",
        tensors[f"{part}.position_embeddings.weight"] + tensors[f"{part}.token_type_embeddings.weight"][0],
    )
    norm = [vector(f"{part}.LayerNorm.weight"), vector(f"{part}.LayerNorm.bias")]
    words = vector(f"{part}.word_embeddings.weight")
    inputs = ["ids", "", words, positions, "", *norm]
    nodes.append(
        helper.make_node(
            "EmbedLayerNormalization", inputs, ["x", "no_mask"], domain=FUSED, epsilon=eps, name="embed"
        )
    )
    x = "x"
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        three = [f"{at}.attention.self.{which}" for which in ("query", "key", "value")]
        weight = keep(f"{at}.qkv", numpy.concatenate([tensors[f"{name}.weight"].T for name in three], axis=1))
        bias = keep(f"{at}.qkv.bias", numpy.concatenate([tensors[f"{name}.bias"] for name in three]))
        seen = add(
            "Attention",
            [x, weight, bias, "lengths"],
            f"{at}.seen",
            num_heads=config["num_attention_heads"],
        )

        def closed(inner: str, residual: str, where: str) -> str:
            product = add("MatMul", [inner, matrix(f"{where}.dense.weight")], f"{where}.product", domain="")
            rest = [vector(f"{where}.LayerNorm.weight"), vector(f"{where}.LayerNorm.bias")]
            given = [product, residual, *rest, vector(f"{where}.dense.bias")]
            return add("SkipLayerNormalization", given, f"{where}.out", epsilon=eps)

        x = closed(seen, x, f"{at}.attention.output")
        up = add("MatMul", [x, matrix(f"{at}.intermediate.dense.weight")], f"{at}.up", domain="")
        wide = add("BiasGelu", [up, vector(f"{at}.intermediate.dense.bias")], f"{at}.wide")
        x = closed(wide, x, f"{at}.output")
    nodes[-1].output[0] = "hidden"
    graph = helper.make_graph(
        nodes,
        "bert",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", "length"]),
            helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"]),
        ],
        [
            helper.make_tensor_value_info(
                "hidden", TensorProto.FLOAT, ["batch", "length", config["hidden_size"]]
            )
        ],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(FUSED, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), target)
    if precision == "int8":
        from onnxruntime.quantization import quantize_dynamic

        # Shapes behind fused operators are not inferred, nor are their types.
        quantize_dynamic(target, target, extra_options={"DefaultTensorType": TensorProto.FLOAT})
