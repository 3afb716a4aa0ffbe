"""onnxruntime in ``engine.py``: a BERT graph of its fused operators, fp32 or with its dynamic int8 quantisation."""

from __future__ import annotations

from typing import Any

from engine_contract import Unavailable


class Engine:
    def __init__(self, settings: dict[str, Any]) -> None:
        if not settings["encoder"]:
            raise Unavailable("measured on encoders only")
        if settings["precision"] not in ("fp32", "int8"):
            raise Unavailable(f"no {settings['precision']} kernels for a CPU")
        import numpy
        import onnxruntime

        self.numpy, self.onnxruntime = numpy, onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings["threads"]
        options.inter_op_num_threads = 1
        # Its threads would spin for a while after each call, in the time of others.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = onnxruntime.InferenceSession(
            settings["converted"], options, providers=["CPUExecutionProvider"]
        )

    def facts(self) -> dict[str, Any]:
        return {"version": self.onnxruntime.__version__}

    def encode(self, sequences: list[list[int]]) -> Any:
        numpy = self.numpy
        lengths = numpy.array([len(ids) for ids in sequences], dtype="int32")
        ids = numpy.zeros((len(sequences), lengths.max()), dtype="int32")
        for row, sequence in zip(ids, sequences, strict=True):
            row[: len(sequence)] = sequence
        (hidden,) = self.session.run(None, {"ids": ids, "lengths": lengths})
        return hidden[numpy.arange(len(ids)), lengths - 1]
