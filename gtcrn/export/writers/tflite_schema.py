"""The parts of the .tflite schema that several modules need. They need ai-edge-litert."""

from __future__ import annotations

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as tflite

KINDS = {code: name for name, code in vars(tflite.BuiltinOperator).items() if not name.startswith("_")}
# of tensors, and of biases, by the bits of activations
TYPES = {8: (tflite.TensorType.INT8, np.int8), 16: (tflite.TensorType.INT16, np.int16)}
BIASES = {8: (tflite.TensorType.INT32, np.int32), 16: (tflite.TensorType.INT64, np.int64)}


def packed(model: tflite.ModelT, builder: flatbuffers.Builder | None = None) -> bytes:
    """Return the content of a .tflite. builder: None for an ordinary one."""
    builder = builder or flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
