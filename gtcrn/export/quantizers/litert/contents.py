"""The work that a file does in integers, and how far its tensors are from those of the float file."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from ai_edge_litert import schema_py_generated as tflite

from gtcrn.export.quantizers.litert.observation import flat, opened, streamed
from gtcrn.export.quantizers.litert.tables import DTYPES, FLOAT, LAYERS, File
from gtcrn.export.quantizers.work import Work


def work(path: Path) -> Work:
    """Return how much LiteRT multiplies in integers in any .tflite of this framework: by operators of integers, and by
    those of floats whose weights have 8 bits, which round their inputs to 8 bits too."""
    file = File(path)
    macs, left, operators = Counter(), {}, Counter()
    for number, (kind, op) in enumerate(zip(file.kinds, file.operators)):
        floating = FLOAT in {file.tensors[i].type for i in (*op.inputs, *op.outputs) if i >= 0}
        operators[f"{kind}, float" if floating else kind] += 1
        count = _macs(kind, op, file.tensors)
        if floating and count and file.tensors[op.inputs[1]].type != tflite.TensorType.INT8:
            macs["float"] += count
            left.setdefault(kind, set()).add(_reason(file, number))
        else:
            macs["integer"] += count
    reasons = {kind: "; ".join(sorted(found)) for kind, found in left.items()}
    return Work(macs["integer"], macs["float"], reasons, dict(operators.most_common()))


def _reason(file: File, number: int) -> str:
    """Return why a multiplication is left in float."""
    if not file.in_integers():
        return "a file without integers"
    if file.kinds[number] not in LAYERS:
        return "no layer of the network: a Fourier transform, or rows that are turned, among floats"
    if file.weight(number) is None:
        return "the matrices between bins and ERB bands"
    if file.selects(number):
        return "ones and zeros, which only move floats"
    return "energies, whose range is twice as wide in dB"


def _macs(kind: str, op, tensors: list) -> int:
    def shape(i: int) -> list[int]:
        return tensors[i].shape

    y = op.outputs[0]
    match kind, *op.inputs:
        case (("CONV_2D" | "FULLY_CONNECTED"), _, weight, *_):
            return int(np.prod(shape(y)) * np.prod(shape(weight)[1:]))
        case "DEPTHWISE_CONV_2D", _, weight, *_:
            return int(np.prod(shape(y)[:-1]) * np.prod(shape(weight)))
        case "TRANSPOSE_CONV", _, weight, x, *_:
            return int(np.prod(shape(x)[:-1]) * np.prod(shape(weight)))
        case "BATCH_MATMUL", x, _:
            return int(np.prod(shape(y)) * shape(x)[-2 if op.builtinOptions.adjX else -1])
    return 0


def tensor_errors(source: Path, target: Path, wave: np.ndarray) -> pd.Series:
    """Return the SNR in dB of the outputs of layers and gates in the file `target` against those in its float file.

    Values beyond the range of the integers are clipped in both. wave: (N,), streamed through both. By name and in
    order, without those that have no error.
    """
    file, other = File(source), File(target)
    outputs = file.names()
    known = {tensor.name: i for i, tensor in enumerate(other.tensors)}
    names = [name for name in outputs if name.encode() in known]
    numbers = [known[name.encode()] for name in names]
    (exact_step, exact), (step, rounded) = opened(source, [outputs[name] for name in names]), opened(target, numbers)
    sizes = [view.size for view in exact]
    coding = zip(*(_coding(other.tensors[i]) for i in numbers))
    scale, zero, low, high = (np.repeat(values, sizes) for values in coding)
    signal, noise = np.zeros((2, sum(sizes)))
    for _ in zip(streamed(exact_step, file, [wave]), streamed(step, other, [wave])):
        values = flat(exact).clip(low, high)
        signal += values**2
        noise += ((flat(rounded) - zero) * scale - values) ** 2
    begins = np.cumsum([0, *sizes[:-1]])
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = pd.Series(10 * np.log10(np.add.reduceat(signal, begins) / np.add.reduceat(noise, begins)), names)
    return errors[np.isfinite(errors)]


def _coding(tensor) -> tuple[float, int, float, float]:
    """Return scale and zero point of a tensor, and the ends of its range."""
    if tensor.type == FLOAT:
        return 1.0, 0, -math.inf, math.inf
    scale, zero = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
    limits = np.iinfo(DTYPES[tensor.type])
    return scale, zero, (limits.min - zero) * scale, (limits.max - zero) * scale
