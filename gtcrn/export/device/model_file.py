"""A .tflite of integers as a device has to know it: its tensors, its operators, and the float part around it."""

from __future__ import annotations

import io
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gtcrn.errors import UserError
from gtcrn.runtime.integrity import read_parts

# whole numbers that the metadata have to tell
NUMBERS = ("sample_rate", "n_fft", "hop_length", "residual_gain")
PARTS = 6  # codes of a band: |S|, re, im, and what rounding left of them
_HOW = "export it with task=export format=litert quantize=int8"


class QuantizedTensor(NamedTuple):
    """A number is scale · (code - zero). bits: of a code, 8 or 16; of 16, zero is 0."""

    name: str
    shape: tuple[int, ...]
    bits: int
    scale: float
    zero: int

    @property
    def size(self) -> int:
        """Codes."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.bits // 8 * self.size


class ModelFile(NamedTuple):
    """name: of the file. content: the file without its metadata.

    input: (1, 1, bands, 6). mask: (1, 1, bands, 2). states: in the order of the inputs after the first, which is that
    of the outputs after the first; a stream begins with their zero points. operators: of the schema, each once.
    erb: (bands, bins) from bins to bands, and its transpose back.
    """

    name: str
    content: bytes
    metadata: dict[str, str]
    input: QuantizedTensor
    mask: QuantizedTensor
    states: list[QuantizedTensor]
    operators: list[str]
    erb: np.ndarray

    def number(self, key: str) -> int:
        """Of the metadata."""
        return int(self.metadata[key])

    @property
    def latency(self) -> int:
        """Samples from the input of the float part to its output."""
        return self.number("n_fft") - self.number("hop_length")


def read_model_file(path: Path) -> ModelFile:
    """Raises UserError in one line if the file is missing, damaged, not of integers or not of this framework."""
    content, metadata, matrices = _parted(path)
    model, tflite = _unpacked(content, path)
    graph = model.subgraphs[0]
    bits = {tflite.TensorType.INT8: 8, tflite.TensorType.INT16: 16}
    floats = [i for i in (*graph.inputs, *graph.outputs) if graph.tensors[i].type not in bits]
    missing = [key for key in NUMBERS if not str(metadata.get(key, "")).isdigit()]
    if floats or missing:
        reason = "its inputs and outputs are not all in 8 or 16 bits" if floats else f"does not tell {missing[0]}"
        raise UserError(f"{path}: {reason}; {_HOW}")
    (first, *states), (mask, *next_states) = (
        [_tensor(graph.tensors[i], bits[graph.tensors[i].type]) for i in side] for side in (graph.inputs, graph.outputs)
    )
    names = {code: name for name, code in vars(tflite.BuiltinOperator).items() if not name.startswith("_")}
    operators = sorted(names[code.builtinCode] for code in model.operatorCodes)
    erb = _erb(*matrices, int(metadata["n_fft"]) // 2 + 1, path)
    network = ModelFile(path.name, content, metadata, first, mask, states, operators, erb)
    _check(network, next_states, path)
    return network


def _parted(path: Path) -> tuple[bytes, dict[str, str], list[np.ndarray]]:
    """The model, and from the archive at the file's end the metadata and the matrices from bins to bands and back."""
    try:
        content, metadata, members, _ = read_parts(path)
        matrices = [np.load(io.BytesIO(members[f"erb_{name}.npy"])) for name in ("analysis", "synthesis")]
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); name a .tflite of integers") from error
    except UserError:
        raise
    except (KeyError, ValueError, MemoryError) as error:
        raise UserError(f"{path}: is not such a .tflite of integers as this framework writes; {_HOW}") from error
    return content, metadata, matrices


def _unpacked(content: bytes, path: Path):
    try:
        from ai_edge_litert import schema_py_generated as tflite
    except ImportError as error:
        raise UserError(f"{path}: reading it needs ai-edge-litert: pip install -e '.[device]'") from error
    try:
        return tflite.ModelT.InitFromPackedBuf(content), tflite
    except Exception as error:  # whatever comes of offsets that point anywhere
        raise UserError(f"{path}: damaged, or not a LiteRT model") from error


def _tensor(tensor, bits: int) -> QuantizedTensor:
    quantization = tensor.quantization
    scale, zero = float(quantization.scale[0]), int(quantization.zeroPoint[0])
    return QuantizedTensor(tensor.name.decode(), tuple(tensor.shape.tolist()), bits, scale, zero)


def _erb(analysis: np.ndarray, synthesis: np.ndarray, bins: int, path: Path) -> np.ndarray:
    """(bands, bins), of the matrices of the bins above those that are bands of their own."""
    bands, high = analysis.shape
    if high >= bins or not np.allclose(analysis, synthesis.T, rtol=0, atol=1e-6):
        raise UserError(f"{path}: its way from bands to bins is not that from bins to bands, as the C code has it")
    low = bins - high
    erb = np.zeros((low + bands, bins), np.float32)
    erb[:low, :low] = np.eye(low)
    erb[low:, low:] = analysis
    return erb


def _check(network: ModelFile, next_states: list[QuantizedTensor], path: Path) -> None:
    n_fft, hop, bands = network.number("n_fft"), network.number("hop_length"), len(network.erb)
    if n_fft & (n_fft - 1) or not 0 < hop < n_fft or n_fft % hop:
        raise UserError(f"{path}: n_fft={n_fft}, hop_length={hop}: the C code needs a power of 2 and a divisor of it")
    if network.input.shape != (1, 1, bands, PARTS) or network.mask.shape != (1, 1, bands, 2):
        shapes = f"{list(network.input.shape)} to {list(network.mask.shape)}"
        raise UserError(f"{path}: maps {shapes}; the C code needs [1, 1, {bands}, {PARTS}] to [1, 1, {bands}, 2]")
    if [state[1:] for state in network.states] != [state[1:] for state in next_states]:
        raise UserError(f"{path}: its next states are not like its states, in order, shape and scale")
