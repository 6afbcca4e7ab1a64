"""A .tflite of integers, taken apart for a device: its tensors, its operators, and the float part around it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from gtcrn.errors import UserError
from gtcrn.export.device.float_part import erb_bank
from gtcrn.export.device.quantized import QuantizedTensor
from gtcrn.runtime.facts import Signal, read_number
from gtcrn.runtime.integer_step import erb_matrices
from gtcrn.runtime.integrity import Parts, read_parts

PARTS = 6  # codes of a band: |S|, re, im, and what rounding left of them
_HOW = "export it with task=export format=litert quantize=int8"


class ModelFile(NamedTuple):
    """A .tflite of integers, taken apart.

    name: of the file. content: the file without its metadata. metadata: strings, for words on a page; numbers among
    them are in signal and residual_gain.
    input: (1, 1, bands, 6). mask: (1, 1, bands, 2). states: in the order of the inputs after the first, which is that
    of the outputs after the first; a stream begins with their zero points. operators: of the schema, each once.
    erb: (bands, bins) from bins to bands, and its transpose back.
    """

    name: str
    content: bytes
    metadata: dict[str, str]
    signal: Signal
    residual_gain: int
    input: QuantizedTensor
    mask: QuantizedTensor
    states: list[QuantizedTensor]
    operators: list[str]
    erb: np.ndarray

    @property
    def latency(self) -> int:
        """Samples from the input of the float part to its output."""
        return self.signal.n_fft - self.signal.hop_length


def read_model_file(path: Path) -> ModelFile:
    """Take a .tflite of integers apart.

    Raises UserError in one line if the file is missing, damaged, not of integers or not of this framework.
    """
    parts, matrices = _parted(path)
    model, schema = _unpacked(parts.content, path)
    graph = model.subgraphs[0]
    bits = {type_: bits for bits, (type_, _) in schema.TYPES.items()}
    if any(graph.tensors[i].type not in bits for i in (*graph.inputs, *graph.outputs)):
        raise UserError(f"{path}: its inputs and outputs are not all in 8 or 16 bits; {_HOW}")
    try:
        signal, residual_gain = Signal.read(parts.metadata), read_number(parts.metadata, "residual_gain")
    except UserError as error:
        raise UserError(f"{path}: its metadata can't be right: {error}; {_HOW}") from error
    (first, *states), (mask, *next_states) = (
        [_tensor(graph.tensors[i], bits[graph.tensors[i].type]) for i in side] for side in (graph.inputs, graph.outputs)
    )
    operators = sorted(schema.KINDS[code.builtinCode] for code in model.operatorCodes)
    try:
        erb = erb_bank(*matrices, signal.n_fft // 2 + 1)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    facts = path.name, parts.content, parts.metadata, signal, residual_gain
    network = ModelFile(*facts, first, mask, states, operators, erb)
    _check(network, next_states, path)
    return network


def _parted(path: Path) -> tuple[Parts, list[np.ndarray]]:
    """Return the parts of a file, and the matrices from bins to bands and back."""
    try:
        parts = read_parts(path)
        return parts, erb_matrices(parts.members)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); name a .tflite of integers") from error
    except UserError:
        raise
    except (KeyError, ValueError, MemoryError) as error:
        raise UserError(f"{path}: is not such a .tflite of integers as this framework writes; {_HOW}") from error


def _unpacked(content: bytes, path: Path):
    try:
        from gtcrn.export.writers import tflite_schema
    except ImportError as error:
        raise UserError(f"{path}: reading it needs ai-edge-litert: pip install -e '.[device]'") from error
    try:
        return tflite_schema.tflite.ModelT.InitFromPackedBuf(content), tflite_schema
    except Exception as error:  # whatever comes of offsets that point anywhere
        raise UserError(f"{path}: damaged, or not a LiteRT model") from error


def _tensor(tensor, bits: int) -> QuantizedTensor:
    quantization = tensor.quantization
    scale, zero = float(quantization.scale[0]), int(quantization.zeroPoint[0])
    return QuantizedTensor(tensor.name.decode(), tuple(tensor.shape.tolist()), bits, scale, zero)


def _check(network: ModelFile, next_states: list[QuantizedTensor], path: Path) -> None:
    bands = len(network.erb)
    if network.input.shape != (1, 1, bands, PARTS) or network.mask.shape != (1, 1, bands, 2):
        shapes = f"{list(network.input.shape)} to {list(network.mask.shape)}"
        raise UserError(f"{path}: maps {shapes}; the C code needs [1, 1, {bands}, {PARTS}] to [1, 1, {bands}, 2]")
    if [state[1:] for state in network.states] != [state[1:] for state in next_states]:
        raise UserError(f"{path}: its next states are not like its states, in order, shape and scale")
