"""The conversion of a float file: its operators get tensors of integers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as tflite

from gtcrn.errors import UserError
from gtcrn.export.quantizers.litert.choice import layers, widths
from gtcrn.export.quantizers.litert.observation import look
from gtcrn.export.quantizers.litert.scales import Scales
from gtcrn.export.quantizers.litert.tables import FLOAT, LAYERS, File
from gtcrn.export.writers.tflite_schema import BIASES, TYPES

LARGEST_BIAS = 2**30  # in steps of input times weight, with room for what is added
JOINED = 10  # tensors at most, by an operator of TFLite Micro


def quantize(source: Path, target: Path, quantize: str, waves: Sequence[np.ndarray]) -> None:
    """Write the float file `source` in integers.

    quantize: int8, int16x8, mixed or dynamic. waves: (N,) at the model's rate, by which the ranges are chosen; none for
    "dynamic". Raises UserError for a file that can't be quantized, and without audio where it is needed.
    """
    file = File(source)
    if file.in_integers():
        raise UserError(f"{source}: holds integers already; quantize the float file")
    file.shorten()
    if quantize == "dynamic":
        _round_weights(file)
    elif not waves:
        raise UserError(f"quantize={quantize}: needs recordings by which the ranges are chosen; name calibration=DIR")
    else:
        seen = look(source, file, waves)
        IntegerRewriter(file, Scales(file, widths(file, quantize, seen), seen)).run()
    file.prune()
    file.write(target)


class IntegerRewriter:
    """Operators of so many bits take and give tensors of so many bits; where these change, they are converted."""

    def __init__(self, file: File, scales: Scales):
        self.file, self._bits, self._scale_zero = file, scales.bits, scales.scale_zero
        self._made: dict[int, int] = {}  # bits in which operators gave a tensor
        self._written: dict[tuple, int] = {}
        self._operators: list = []

    def run(self) -> None:
        graph = self.file.graph
        for number, op in enumerate(graph.operators):
            if number in self._bits:
                self._to_integers(self.file.kinds[number], op, self._bits[number])
            else:
                for i in self.file.floats(number):
                    self._as_float(i)
            if self.file.kinds[number] == "CONCATENATION" and len(op.inputs) > JOINED:
                self._join(op)
            self._operators.append(op)
        for i in graph.outputs:
            self._as_float(int(i))
        graph.operators = self._operators

    # tensors

    def _constant(self, like: int, type_: int, codes: np.ndarray, scales, zeros: int = 0, axis: int = 0) -> int:
        """Return the number of a constant of integers, the same one for the same codes, scales and zero point."""
        key = like, codes.tobytes(), np.asarray(scales).tobytes(), zeros
        if key not in self._written:
            self._written[key] = self.file.tensor(like, type_, scales, zeros, axis, codes)
        return self._written[key]

    def _new(self, i: int, bits: int) -> int:
        type_, _ = TYPES[bits]
        self._written[i, bits] = self.file.tensor(i, type_, *self._scale_zero(i, bits))
        return self._written[i, bits]

    def _as_integers(self, i: int, bits: int) -> int:
        if (i, bits) in self._written:
            return self._written[i, bits]
        values = self.file.constant(i)
        if values is None:
            source = self._written[i, self._made[i]] if i in self._made else i
            self._convert("QUANTIZE", source, self._new(i, bits))
            return self._written[i, bits]
        (scale, zero), (type_, dtype) = self._scale_zero(i, bits), TYPES[bits]
        return self._constant(i, type_, _rounded(values, scale, zero, dtype), scale, zero)

    def _as_float(self, i: int) -> None:
        if i in self._made and (i, None) not in self._written:
            self._convert("DEQUANTIZE", self._written[i, self._made[i]], i)
            self._written[i, None] = i

    # operators

    def _convert(self, kind: str, source: int, target: int) -> None:
        op = tflite.OperatorT()
        op.opcodeIndex = self.file.code(kind)
        op.inputs, op.outputs = np.array([source], np.int32), np.array([target], np.int32)
        self._operators.append(op)

    def _join(self, op) -> None:
        """Join tensors by parts if they are more than TFLite Micro can join at once."""
        tensors, parts = self.file.tensors, []
        for begin in range(0, len(op.inputs), JOINED):
            part, whole = copy.copy(op), copy.copy(tensors[op.outputs[0]])
            part.inputs = op.inputs[begin : begin + JOINED]
            whole.shape, whole.name = whole.shape.copy(), b""
            whole.shape[op.builtinOptions.axis] = sum(tensors[i].shape[op.builtinOptions.axis] for i in part.inputs)
            parts.append(len(tensors))
            tensors.append(whole)
            part.outputs = np.array(parts[-1:], np.int32)
            self._operators.append(part)
        op.inputs = np.array(parts, np.int32)

    def _to_integers(self, kind: str, op, bits: int) -> None:
        file = self.file
        inputs, (output,) = list(map(int, op.inputs)), map(int, op.outputs)
        if kind in LAYERS:
            x, *constants = inputs
            inputs = [self._as_integers(x, bits), *self._weights(kind, constants, self._scale_zero(x, bits)[0], bits)]
        else:
            inputs = [self._as_integers(i, bits) if file.tensors[i].type == FLOAT else i for i in inputs]
        op.inputs = np.array(inputs, np.int32)
        op.outputs = np.array([self._new(output, bits)], np.int32)
        if output not in file.ends():
            new, old = file.tensors[op.outputs[0]], file.tensors[output]
            new.name, old.name = old.name, b""
        op.opcodeIndex = file.code(kind)
        if hasattr(op.builtinOptions, "potScaleInt16"):
            op.builtinOptions.potScaleInt16 = False
        self._made[output] = bits

    def _weights(self, kind: str, constants: list[int], x_scale: np.float32, bits: int) -> list[int]:
        """Return the tensors of weight and bias; the scale of a bias is the product of those of weight and input."""
        weight, bias = constants
        offsets = None if bias < 0 else self.file.constant(bias)
        least = 0 if bias < 0 else np.abs(offsets) / (x_scale * LARGEST_BIAS)
        scales, codes = _rounded_weight(self.file.constant(weight), LAYERS[kind], least)
        kernel = self._constant(weight, tflite.TensorType.INT8, codes, scales, axis=LAYERS[kind])
        if bias < 0:
            return [kernel, bias]
        (type_, dtype), steps = BIASES[bits], scales * x_scale
        return [kernel, self._constant(bias, type_, _rounded(offsets, steps, 0, dtype), steps)]


def _rounded_weight(weight: np.ndarray, axis: int, least: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return the scales of the output channels, which lie along the axis, and codes of 8 bits. least: that scales may
    have."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scales = np.maximum(np.maximum(np.abs(weight).max(axis=others), 1e-8) / 127, least).astype(np.float32)
    return scales, _rounded(weight, np.expand_dims(scales, others), 0, np.int8)


def _rounded(values: np.ndarray, scales, zero: int, dtype: type) -> np.ndarray:
    limits = np.iinfo(dtype)
    return (np.rint(values.astype(np.float64) / scales) + zero).clip(limits.min, limits.max).astype(dtype)


def _round_weights(file: File) -> None:
    """Give float operators weights of integers, for kernels that round their inputs hop by hop. The file is changed."""
    rounded: dict[int, int] = {}
    for number in layers(file):
        kind, op = file.kinds[number], file.operators[number]
        weight = int(op.inputs[1])
        if weight not in rounded:
            scales, codes = _rounded_weight(file.constant(weight), LAYERS[kind])
            rounded[weight] = file.tensor(weight, tflite.TensorType.INT8, scales, axis=LAYERS[kind], codes=codes)
        op.inputs = np.array([op.inputs[0], rounded[weight], *op.inputs[2:]], np.int32)
        op.opcodeIndex = file.code(kind)
