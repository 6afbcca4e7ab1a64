"""A .tflite as tables of tensors and operators that can be changed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as tflite

from gtcrn.errors import UserError
from gtcrn.export.writers.tflite_schema import KINDS, TYPES, packed
from gtcrn.runtime.facts import Signal
from gtcrn.runtime.integrity import read_parts, write_parts

# whose second input is a constant weight, and where its output channels are
LAYERS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
MOVES = {"SLICE", "RESHAPE", "TRANSPOSE", "PAD", "CONCATENATION"}  # their kernels can't change the scale
GATES = {"LOGISTIC", "TANH"}
ERB = b"erb_fc"  # in the names of the matrices from bins to bands and back
# of operators, the first that has the kernels for 16 bits
VERSIONS = {"CONV_2D": 4, "DEPTHWISE_CONV_2D": 5, "FULLY_CONNECTED": 12, "LEAKY_RELU": 2, "ADD": 4, "SUB": 5, "MUL": 4}
VERSIONS |= {"MEAN": 3, "LOGISTIC": 3, "TANH": 3, "SLICE": 4, "CONCATENATION": 3, "QUANTIZE": 3, "PAD": 3}
VERSIONS |= {"TRANSPOSE": 4, "BATCH_MATMUL": 4, "DEQUANTIZE": 3}

FLOAT = tflite.TensorType.FLOAT32
DTYPES = {FLOAT: np.float32, tflite.TensorType.INT32: np.int32, **dict(TYPES.values())}


class File:
    """A .tflite as tables.

    kinds: of the operators. makers: the operator that makes a tensor; that of a state makes it in the hop before.
    Other inputs and constants have none. Raises UserError if the file is missing, damaged or not of this framework.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise UserError(f"{path}: no such file; a .tflite of task=export is needed")
        try:
            content, self.metadata, self.members, _ = read_parts(path)
            if not self.metadata:
                raise ValueError("it has no metadata")
            self.model = tflite.ModelT.InitFromPackedBuf(content, 0)
            (self.graph,) = self.model.subgraphs
        except Exception as error:  # a damaged file may raise anything
            raise UserError(f"{path}: no .tflite of this framework ({error}); write it with task=export") from error
        self.tensors, self.operators = self.graph.tensors, self.graph.operators
        self.kinds = [KINDS[self.model.operatorCodes[op.opcodeIndex].builtinCode] for op in self.operators]
        self.states = dict(zip(map(int, self.graph.inputs[1:]), map(int, self.graph.outputs[1:])))
        self.makers = {int(i): number for number, op in enumerate(self.operators) for i in op.outputs}
        self.makers |= {state: self.makers[i] for state, i in self.states.items() if i in self.makers}

    @property
    def signal(self) -> Signal:
        """Return the facts that a stream through the file needs. Raises UserError if its metadata does not state it."""
        return Signal.read(self.metadata)

    def floats(self, number: int) -> list[int]:
        """Return the tensors in float that an operator takes, without constants."""
        inputs = (int(i) for i in self.operators[number].inputs if i >= 0)
        return [i for i in inputs if self.tensors[i].type == FLOAT and self.constant(i) is None]

    def constant(self, i: int) -> np.ndarray | None:
        tensor = self.tensors[i]
        data = self.model.buffers[tensor.buffer].data
        if data is None or tensor.type not in DTYPES:
            return None
        return np.frombuffer(data.tobytes(), DTYPES[tensor.type]).reshape([] if tensor.shape is None else tensor.shape)

    def weight(self, number: int) -> np.ndarray | None:
        """Return the weight of a convolution or a fully connected layer of the network; None for other operators."""
        op = self.operators[number]
        if self.kinds[number] in LAYERS and ERB not in self.tensors[op.outputs[0]].name:
            return self.constant(op.inputs[1])
        return None

    def selects(self, number: int) -> bool:
        """Return whether a layer only moves its inputs: its weights are ones and zeros."""
        return np.isin(self.weight(number), (-1, 0, 1)).all()

    def names(self) -> dict[str, int]:
        """Return the outputs of layers and gates by their names in the model, such as "encoder.2.point_conv1"."""
        names, seen = {}, Counter()
        for kind, op in zip(self.kinds, self.operators):
            if kind in LAYERS or kind in GATES:
                modules = self.tensors[op.outputs[0]].name.decode().partition(";")[0].split("/")
                parts = (module.rpartition(".")[2].partition("_")[2] for module in modules[2:])
                name = ".".join(part for part in parts if part != "core") or modules[0]
                names[f"{name};{seen[name]}" if seen[name] else name] = int(op.outputs[0])
                seen[name] += 1
        return names

    def shorten(self) -> None:
        """Keep only the names of inputs, outputs and `names`: those of other tensors are half of a file."""
        names = {i: name.encode() for name, i in self.names().items()}
        for i in set(range(len(self.tensors))) - set(self.ends()):
            self.tensors[i].name = names.get(i, b"")

    def in_integers(self) -> bool:
        """Return whether some tensors are of integers."""
        return any(tensor.type in (tflite.TensorType.INT8, tflite.TensorType.INT16) for tensor in self.tensors)

    def ends(self) -> list[int]:
        return [int(i) for i in (*self.graph.inputs, *self.graph.outputs)]

    def tensor(
        self, like: int, type_: int, scales, zero: int = 0, axis: int = 0, codes: np.ndarray | None = None
    ) -> int:
        """Add a tensor with the shape of another, and return its number. codes: those of a constant."""
        tensor = tflite.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = b"", self.tensors[like].shape, type_, 0
        tensor.quantization = tflite.QuantizationParametersT()
        tensor.quantization.scale = np.atleast_1d(np.asarray(scales, np.float32))
        tensor.quantization.zeroPoint = np.full(tensor.quantization.scale.shape, zero, np.int64)
        tensor.quantization.quantizedDimension = axis
        if codes is not None:
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(tflite.BufferT())
            self.model.buffers[-1].data = np.frombuffer(codes.tobytes(), np.uint8)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def code(self, kind: str) -> int:
        """Return the number of an operator's code, of the version that has kernels for integers."""
        codes, builtin = self.model.operatorCodes, getattr(tflite.BuiltinOperator, kind)
        number = next((i for i, code in enumerate(codes) if code.builtinCode == builtin), len(codes))
        if number == len(codes):
            codes.append(tflite.OperatorCodeT())
            codes[number].builtinCode, codes[number].deprecatedBuiltinCode = builtin, min(builtin, 127)
        codes[number].version = max(codes[number].version, VERSIONS.get(kind, 1))
        return number

    def prune(self) -> None:
        """Remove tensors and buffers that nothing refers to."""
        graph, model = self.graph, self.model
        used = sorted({int(i) for op in graph.operators for i in (*op.inputs, *op.outputs) if i >= 0} | {*self.ends()})
        new = {i: number for number, i in enumerate(used)} | {-1: -1}
        for part in (graph, *graph.operators):
            part.inputs, part.outputs = (
                np.array([new[int(i)] for i in side], np.int32) for side in (part.inputs, part.outputs)
            )
        for signature in model.signatureDefs or []:
            for entry in (*signature.inputs, *signature.outputs):
                entry.tensorIndex = new[entry.tensorIndex]
        graph.tensors = [self.tensors[i] for i in used]
        kept = [0]  # which is empty, and where tensors without content point to
        for tensor in graph.tensors:
            if model.buffers[tensor.buffer].data is None:
                tensor.buffer = 0
            elif tensor.buffer not in kept:
                kept.append(tensor.buffer)
            tensor.buffer = kept.index(tensor.buffer)
        model.buffers = [model.buffers[i] for i in kept]
        model.metadata = None

    def write(self, path: Path) -> None:
        write_parts(path, packed(self.model), self.metadata, self.members)
