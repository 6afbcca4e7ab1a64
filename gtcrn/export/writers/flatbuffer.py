"""A network in integers as a .tflite: one frame at a time, states in and out, nothing in float.

Inputs are `input`, the codes of the bands, (1, 1, bands, 6), and `state.<name>`, (1, memory, F, C); outputs `output`,
those of the mask, (1, 1, bands, 2), and `next_state.<name>`, in the same order. All have scale and zero point, a state
and the next one the same. Other tensors have no name, which saves a third of the file.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as tflite
from torch import Tensor

from gtcrn.export.check import Agreement, check
from gtcrn.export.quantizers.litert import work
from gtcrn.export.writers.tflite_schema import BIASES, TYPES, packed
from gtcrn.models.masking import ERBMaskNetwork
from gtcrn.quantization.network import Network, key
from gtcrn.quantization.program import Op
from gtcrn.runtime.facts import BANDS, BandCodes, Integers
from gtcrn.runtime.integer_step import ERB
from gtcrn.runtime.integrity import MARK, write_parts

# of operators, the first whose kernel gives 8 and 16 bits
_VERSIONS = {
    **{"CONV_2D": (3, 4), "DEPTHWISE_CONV_2D": (3, 5), "ADD": (2, 3), "MUL": (2, 4), "MEAN": (2, 3), "PAD": (2, 3)},
    **{"LEAKY_RELU": (2, 2), "LOGISTIC": (2, 3), "TANH": (2, 3)},
    **{"SLICE": (2, 4), "CONCATENATION": (2, 3), "RESHAPE": (1, 1), "QUANTIZE": (2, 2)},
}


class IntegerGraph:
    """A network in integers that `describe` and `write` take for a model's graph.

    erb: the matrices from bins to bands and back, of the bins above those that stay as they are.
    integers: what its file says of them; see `describe`.
    """

    kind = BANDS

    def __init__(self, network: Network, core: ERBMaskNetwork):
        self.network = network
        program = network.program
        self.states = {f"state.{name}": np.zeros((1, *shape)) for name, shape in program.states().items()}
        self.erb = [matrix.weight.detach().numpy() for matrix in (core.erb.erb_fc, core.erb.ierb_fc)]
        self.written = Writer(network).write()
        self.integers = Integers(
            quantize=network.name,
            codes=BandCodes(program.bits["bands"], program.rho, core.erb.low_bins, self.written.quantization),
            bands=core.erb.n_bands,
            operators=self.written.operators,
            int16_macs=program.wide_share(),
        )

    def check(self, path: Path, bands: Tensor) -> Agreement:
        """Compare the file's operators with the simulation, see `gtcrn.export.check`."""
        return check(self.network, self.written, bands)

    def share(self, path: Path) -> float:
        """Return the share of the file's multiplications that are in integers."""
        return work(path).share


def write(graph: IntegerGraph, path: Path, metadata: dict[str, str]) -> None:
    """Write the file, with its metadata and the ERB matrices in an archive at its end, which interpreters ignore."""
    matrices = {}
    for name, matrix in zip(ERB, graph.erb):
        buffer = io.BytesIO()
        np.save(buffer, matrix)
        matrices[name] = buffer.getvalue()
    write_parts(path, graph.written.content, metadata, matrices)


class Written(NamedTuple):
    """A file that has been written, without its metadata.

    content: of the file. tensors: their numbers by their names in the program, `state.…` and `next_state.…`.
    quantization: scale and zero point of inputs and output by their names in the file. operators: how many of each.
    """

    content: bytes
    tensors: dict[str, int]
    quantization: dict[str, tuple[float, int]]
    operators: dict[str, int]


class _Builder(flatbuffers.Builder):
    """A builder that writes equal vectors once, and bytes aligned to 16, as the schema asks of constants."""

    def __init__(self):
        super().__init__(1 << 18)
        self.vectors: dict[tuple, int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        identity = x.dtype.str, x.tobytes()
        if identity not in self.vectors:
            if x.dtype == np.uint8:
                self.Prep(16, x.nbytes)
            self.vectors[identity] = super().CreateNumpyVector(x)
        return self.vectors[identity]


class _Once:
    """A table that several others point to, and that is written once."""

    def __init__(self, table):
        self.table = table
        self.offset: int | None = None

    def Pack(self, builder: _Builder) -> int:
        self.offset = self.offset or self.table.Pack(builder)
        return self.offset


def _table(kind: type, **fields):
    table = kind()
    for name, value in fields.items():
        setattr(table, name, value)
    return table


class Writer:
    """The tensors and operators of one network, as they are written one after the other."""

    def __init__(self, network: Network):
        self.network, self.program = network, network.program
        self.tensors, self.operators, self.buffers = [], [], [tflite.BufferT()]
        self.kinds: dict[str, int] = {}  # of operators that are used, and the highest version of each
        self.index: dict[str, int] = {}
        self.constants: dict[tuple, int] = {}
        self.shared: dict[tuple, _Once] = {}

    def write(self) -> Written:
        program = self.program
        self._activation("bands", self._shape("bands"), "bands")
        for name, shape in program.states().items():
            self._activation(f"state.{name}", [1, *shape], name)
        for op in program.ops:
            self._write(op)
        inputs = {"input": "bands"} | {f"state.{name}": f"state.{name}" for name in program.states()}
        outputs = {"output": program.output} | {f"next_{name}": f"next_{name}" for name in list(inputs)[1:]}
        for name, tensor in (inputs | outputs).items():
            self.tensors[self.index[tensor]].name = name.encode()
        subgraph = _table(
            tflite.SubGraphT,
            name=b"main",
            tensors=self.tensors,
            operators=self.operators,
            inputs=self._numbers(inputs.values()),
            outputs=self._numbers(outputs.values()),
        )
        codes = [
            _table(tflite.OperatorCodeT, builtinCode=code, deprecatedBuiltinCode=code, version=version)
            for code, version in ((getattr(tflite.BuiltinOperator, kind), self.kinds[kind]) for kind in self.kinds)
        ]
        parts = dict(operatorCodes=codes, subgraphs=[subgraph], buffers=self.buffers)
        model = _table(tflite.ModelT, version=3, description=MARK, **parts)
        owners = {"input": "bands", "output": program.output} | {f"state.{name}": name for name in program.states()}
        quantization = {}
        for name, owner in owners.items():
            scale, zero = self._scale_zero(owner)
            quantization[name] = float(scale), zero
        kinds = list(self.kinds)
        operators = Counter(kinds[operator.opcodeIndex] for operator in self.operators)
        return Written(packed(model, _Builder()), self.index, quantization, dict(operators.most_common()))

    def _numbers(self, names: Iterable[str]) -> np.ndarray:
        return np.array([self.index[name] for name in names], np.int32)

    def _once(self, kind: type, **fields) -> _Once:
        """Return a table, the same one for the same fields."""
        values = (value.tobytes() if isinstance(value, np.ndarray) else value for value in fields.values())
        return self.shared.setdefault((kind, *values), _Once(_table(kind, **fields)))

    # tensors

    def _tensor(self, shape, type_, buffer=0, scales=None, zeros=None, axis=0) -> int:
        quantization = None
        if scales is not None:
            quantization = self._once(
                tflite.QuantizationParametersT,
                scale=np.asarray(scales, np.float32),
                zeroPoint=np.asarray(zeros, np.int64),
                quantizedDimension=axis,
            )
        shape = np.asarray(shape, np.int32)
        self.tensors.append(_table(tflite.TensorT, shape=shape, type=type_, buffer=buffer, quantization=quantization))
        return len(self.tensors) - 1

    def _buffer(self, values: np.ndarray) -> int:
        self.buffers.append(_table(tflite.BufferT, data=np.frombuffer(values.tobytes(), np.uint8)))
        return len(self.buffers) - 1

    def _activation(self, name: str, shape: list[int], owner: str) -> int:
        """Add a tensor with the scale and zero point of the tensor `owner`, and return its number."""
        scale, zero = self._scale_zero(owner)
        type_, _ = TYPES[self.program.bits[owner]]
        self.index[name] = self._tensor(shape, type_, scales=[scale], zeros=[zero])
        return self.index[name]

    def _integers(self, values) -> int:
        """Return the number of a constant, the same one for the same values."""
        values = np.asarray(values, np.int32)
        identity = values.shape, values.tobytes()
        if identity not in self.constants:
            self.constants[identity] = self._tensor(values.shape, tflite.TensorType.INT32, self._buffer(values))
        return self.constants[identity]

    def _scale_zero(self, name: str) -> tuple[np.float32, int]:
        scale, zero = self.network.scale_zero(self.program.scale_of[name])
        return np.float32(scale.item()), round(zero.item())

    def _shape(self, name: str) -> list[int]:
        channels, freqs = self.program.shapes[name]
        return [1, 1, freqs, channels]

    # operators

    def _operator(self, kind: str, inputs: list[int], output: int, options: str | None = None, **fields) -> None:
        """Add an operator. options: the name of their table, whose content is `fields`."""
        version = _VERSIONS[kind][self.tensors[output].type == tflite.TensorType.INT16]
        self.kinds[kind] = max(version, self.kinds.get(kind, 0))
        operator = _table(
            tflite.OperatorT,
            opcodeIndex=list(self.kinds).index(kind),
            inputs=np.array(inputs, np.int32),
            outputs=np.array([output], np.int32),
        )
        if options:
            operator.builtinOptionsType = getattr(tflite.BuiltinOptions, options)
            operator.builtinOptions = self._once(getattr(tflite, f"{options}T"), **fields)
        self.operators.append(operator)

    def _write(self, op: Op) -> None:
        x = [self.index[name] for name in op.inputs]
        match op.kind:
            case "past":
                return self._past(op, *x)
            case "interleave":
                return self._interleave(op, x)
            case "unfold":
                return self._unfold(op, *x)
        y = self._activation(op.output, self._shape(op.output), op.output)
        match op.kind:
            case "conv":
                self._conv(op, *x, y)
            case "leaky":
                slope = self.network.slopes[key(op.output)].item()
                self._operator("LEAKY_RELU", x, y, "LeakyReluOptions", alpha=slope)
            case "add":
                activation = self._fused(op)
                self._operator("ADD", x, y, "AddOptions", potScaleInt16=False, fusedActivationFunction=activation)
            case "mul":
                self._operator("MUL", x, y, "MulOptions")
            case "square":
                self._operator("MUL", x * 2, y, "MulOptions")
            case "mean":
                self._operator("MEAN", [*x, self._integers([2])], y, "ReducerOptions", keepDims=True)
            case "logistic" | "tanh":
                self._operator(op.kind.upper(), x, y)
            case "slice":
                self._slice(*x, y, [0, 0, op.options["band"], op.options["channel"]])
            case "join":
                self._concatenate(x, y, axis=2)
            case "requantize":
                self._operator("QUANTIZE", x, y, "QuantizeOptions")
            case _:
                raise ValueError(op.kind)

    def _slice(self, x: int, y: int, begin: list[int]) -> None:
        size = self.tensors[y].shape
        self._operator("SLICE", [x, self._integers(begin), self._integers(size)], y, "SliceOptions")

    def _reshape(self, x: int, y: int) -> None:
        shape = self.tensors[y].shape
        self._operator("RESHAPE", [x, self._integers(shape)], y, "ReshapeOptions", newShape=shape)

    def _concatenate(self, inputs: list[int], y: int, axis: int) -> None:
        self._operator("CONCATENATION", inputs, y, "ConcatenationOptions", axis=axis)

    def _past(self, op: Op, x: int) -> None:
        memory, (channels, freqs) = op.options["memory"], self.program.shapes[op.output]
        y = self._activation(op.output, [1, memory + 1, freqs, channels], op.output)
        self._concatenate([self.index[f"state.{op.output}"], x], y, axis=1)
        state = self._activation(f"next_state.{op.output}", [1, memory, freqs, channels], op.output)
        self._slice(y, state, [0, 1, 0, 0])

    def _interleave(self, op: Op, inputs: list[int]) -> None:
        channels, freqs = self.program.shapes[op.output]
        columns = [self._activation(f"{name}.column", [1, freqs, channels // 2, 1], op.output) for name in op.inputs]
        for x, column in zip(inputs, columns):
            self._reshape(x, column)
        pairs = self._activation(f"{op.output}.pairs", [1, freqs, channels // 2, 2], op.output)
        self._concatenate(columns, pairs, axis=3)
        self._reshape(pairs, self._activation(op.output, self._shape(op.output), op.output))

    def _unfold(self, op: Op, x: int) -> None:
        channels, freqs = self.program.shapes[op.output]
        whole = self._activation(f"{op.output}.whole", [1, 1, freqs + 1, channels], op.output)
        self._reshape(x, whole)
        self._slice(whole, self._activation(op.output, self._shape(op.output), op.output), [0, 0, 0, 0])

    def _conv(self, op: Op, x: int, y: int) -> None:
        options, depthwise = op.options, op.options["groups"] > 1
        weight, bias = self._constants_of(op)
        padded, (_, _, frames, taps) = any(options["pad"]), self.network.weight(op.output).shape
        if padded and (frames > 1 or sum(options["pad"]) < taps - 1):  # padding like the kernels' own SAME is theirs
            shape = self.tensors[x].shape + [0, 0, sum(options["pad"]), 0]
            wide = self._activation(f"{op.output}.padded", shape, op.inputs[0])
            self._operator("PAD", [x, self._integers([[0, 0], [0, 0], options["pad"], [0, 0]])], wide, "PadOptions")
            x, padded = wide, False
        fields = dict(
            padding=tflite.Padding.SAME if padded else tflite.Padding.VALID,
            strideW=options["stride"],
            strideH=1,
            dilationHFactor=options["dilation"],
            dilationWFactor=1,
            fusedActivationFunction=self._fused(op),
        )
        if depthwise:
            fields["depthMultiplier"] = 1
        kind, table = ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions") if depthwise else ("CONV_2D", "Conv2DOptions")
        self._operator(kind, [x, weight, bias], y, table, **fields)

    def _fused(self, op: Op) -> int:
        functions = tflite.ActivationFunctionType
        return functions.RELU if op.options["relu"] else functions.NONE

    def _constants_of(self, op: Op) -> tuple[int, int]:
        """Return the tensors of weight (O, time, frequency, I), or (1, time, frequency, O) if depthwise, and bias."""
        name, network, depthwise = op.output, self.network, op.options["groups"] > 1
        weight = network.weight(name).detach().double().numpy()
        scales = network.weight_scale(name).double().numpy()
        codes = np.rint(weight / scales[:, None, None, None]).clip(-127, 127).astype(np.int8)
        codes = codes.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
        zeros = np.zeros(len(scales))
        axis = 3 if depthwise else 0
        kernel = self._tensor(codes.shape, tflite.TensorType.INT8, self._buffer(codes), scales, zeros, axis)
        bias_scales = scales.astype(np.float32) * self._scale_zero(op.inputs[0])[0]
        bias = np.rint(network.bias(name).detach().double().numpy() / bias_scales)
        type_, dtype = BIASES[self.program.bits[name]]
        return kernel, self._tensor(bias.shape, type_, self._buffer(bias.astype(dtype)), bias_scales, zeros)
