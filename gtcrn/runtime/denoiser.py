"""Exported models as streams, with numpy and onnxruntime or ai-edge-litert alone.

denoiser = Denoiser("gtcrn.onnx")                     # or gtcrn.tflite
enhanced = denoiser.process(samples)                  # again and again, blocks of any size
left, right = denoiser.stream(), denoiser.stream()    # more streams, each with a past of its own
callback = denoiser.stream(block_length=1)            # as many samples out as in, at every call
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gtcrn.errors import UserError
from gtcrn.runtime.framing import Step, Stream, framed, sizes
from gtcrn.runtime.integrity import is_sealed_onnx, read_parts, require_harmless

LARGEST = 2**26  # numbers of an input or output


class TensorSpec(NamedTuple):
    """An input or output of a model. shape: sizes that are not fixed are names in ONNX and -1 in LiteRT."""

    name: str
    is_float: bool  # of 32 bits
    shape: tuple[Any, ...]

    def is_fixed(self) -> bool:
        sizes = all(isinstance(size, int) and size > 0 for size in self.shape)
        return self.is_float and sizes and math.prod(self.shape) <= LARGEST


class Denoiser(Stream):
    """A model of one hop in a file, ONNX or LiteRT (.tflite), and a stream through it.

    The model's first input is either one frame's spectrum (1, F, 1, 2), real and imaginary parts, or one hop of
    samples (1, hop_length); every further input is a state, zeros at first. Its outputs are the enhanced spectrum
    or samples and the next states, in the same order. A .tflite of this framework in integers, from ERB bands to mask,
    is fed with spectra all the same.

    sample_rate, n_fft, hop_length: Hz and samples, where the file's metadata does not say; the latter two are of
        spectra, between square-root Hann windows.
    block_length: see `Stream`, as for the attributes `sample_rate`, `hop_length` and `latency`, `process`, `reset`.

    Raises UserError in one line if the file is missing, damaged or not of this kind, and without the package that
    runs it. A pickled denoiser begins anew, with the file opened again.
    """

    def __init__(
        self,
        path: str | Path,
        sample_rate: int = 16000,
        n_fft: int = 512,
        hop_length: int = 256,
        block_length: int | None = None,
    ):
        self._arguments = path, sample_rate, n_fft, hop_length, block_length
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{path}: no such file; an ONNX or LiteRT model is needed")
        self._model = (_LiteRT if self.path.suffix.lower() == ".tflite" else _ONNX)(self.path)
        given = {"sample_rate": sample_rate, "n_fft": n_fft, "hop_length": hop_length, "latency": 0}
        self._settings = _settings(self._model, given, self.path)
        super().__init__(*self._parts(), block_length)

    def stream(self, block_length: int | None = None) -> Stream:
        """Another stream through the same model: independent of all others, in any thread.

        The weights of an ONNX model are shared; each stream of a LiteRT model has an interpreter, which holds
        its buffers.
        """
        return Stream(*self._parts(), block_length)

    def _parts(self) -> tuple[Step, int, int, int]:
        try:
            return framed(self._model.step(), self._settings)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None

    def __reduce__(self):
        return Denoiser, self._arguments


def open_onnx(path: Path):
    """A session of onnxruntime on one thread: matrices this small lose more than they gain with two.

    Raises UserError if the file is missing or damaged, and without onnxruntime.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path}: running it needs onnxruntime: pip install -e '.[export]'") from error
    require_intact_onnx(path)
    return _session(onnxruntime, path)


def require_intact_onnx(path: Path) -> None:
    """Raise UserError if an ONNX file is missing, has a broken seal, or has none and ends badly when it is tried."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; an ONNX model of task=export is needed")
    if not is_sealed_onnx(path):
        require_harmless(path)


def _session(onnxruntime, path: Path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # every tensor in memory of its own: a twentieth faster, for some hundred KB
    options.enable_mem_reuse = options.enable_cpu_mem_arena = False
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen kinds, none of them public
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: damaged, or not an ONNX model: {reason}") from error


def try_out(path: Path) -> None:
    """Open a file and run it on zeros: in a process of its own, see `gtcrn.runtime.integrity`.

    Raises UserError as far as the runtime says what is wrong.
    """
    if path.suffix.lower() == ".tflite":
        interpreter = _interpreter(path)
        for _ in range(2):  # what the first leaves behind, the second meets
            interpreter.invoke()
        return
    import onnxruntime

    session = _session(onnxruntime, path)
    inputs = [TensorSpec(node.name, node.type == "tensor(float)", tuple(node.shape)) for node in session.get_inputs()]
    if all(node.is_fixed() for node in inputs):
        session.run(None, {node.name: np.zeros(node.shape, np.float32) for node in inputs})


class _ONNX:
    def __init__(self, path: Path):
        self.path, self.session = path, open_onnx(path)
        self.metadata = self.session.get_modelmeta().custom_metadata_map
        self.inputs, self.outputs = (
            [TensorSpec(node.name, node.type == "tensor(float)", tuple(node.shape)) for node in nodes]
            for nodes in (self.session.get_inputs(), self.session.get_outputs())
        )

    def step(self) -> Step:
        return _ONNXStep(self)


class _ONNXStep:
    """All buffers are bound once; the next states become the states by taking turns between two sets of them."""

    def __init__(self, model: _ONNX):
        (self._input, *states), (self._output, *next_states) = (
            [np.zeros(node.shape, np.float32) for node in nodes] for nodes in (model.inputs, model.outputs)
        )
        self._buffers, self._path = (states, next_states), model.path
        self._run = model.session.run_with_iobinding
        self._bindings = [self._bind(model, *self._buffers), self._bind(model, *self._buffers[::-1])]
        self._now, self._next = self._bindings

    def _bind(self, model: _ONNX, states: list[np.ndarray], next_states: list[np.ndarray]):
        binding = model.session.io_binding()
        for node, buffer in zip(model.inputs, [self._input, *states]):
            binding.bind_input(node.name, "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
        for node, buffer in zip(model.outputs, [self._output, *next_states]):
            binding.bind_output(node.name, "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
        return binding

    def reset(self) -> None:
        self._now, self._next = self._bindings
        for state in self._buffers[0]:
            state.fill(0)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self._input[:] = x
        try:
            self._run(self._now)
        except Exception as error:  # see `open_onnx`
            raise _failed(self._path, error) from error
        self._now, self._next = self._next, self._now
        return self._output


class _LiteRT:
    """A .tflite file, whose metadata is a zip archive at its end."""

    def __init__(self, path: Path):
        self.path = path
        _litert(path)
        _, self.metadata, _, sealed = read_parts(path)
        if not sealed:
            require_harmless(path)
        interpreter = self.interpreter()
        self.inputs, self.outputs = (
            [
                TensorSpec(node["name"], node["dtype"] is np.float32, tuple(node["shape_signature"].tolist()))
                for node in nodes
            ]
            for nodes in (interpreter.get_input_details(), interpreter.get_output_details())
        )

    def interpreter(self):
        return _interpreter(self.path)

    def step(self) -> Step:
        step = LiteRTStep(self.interpreter(), self.path)
        if not in_integers(self.metadata):
            return step
        from gtcrn.runtime.integer_step import IntegerStep

        return IntegerStep(step, self.path, self.metadata)


def _litert(path: Path):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise UserError(f"{path}: running it needs ai-edge-litert: pip install -e '.[device]'") from error
    return Interpreter


def _interpreter(path: Path):
    interpreter_of = _litert(path)
    try:
        interpreter = interpreter_of(str(path), num_threads=1)
        interpreter.allocate_tensors()
    except Exception as error:  # of whatever kind the package's code in C++ raises
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: damaged, or not a LiteRT model: {reason}") from error
    return interpreter


def in_integers(metadata: Mapping[str, str]) -> bool:
    """Whether a file holds integers from bands to mask, see `gtcrn.quantization`."""
    return metadata.get("kind") == "bands"


class LiteRTStep:
    """States begin with the code of zero, which in float is zero."""

    def __init__(self, interpreter, path: Path):
        self._interpreter, self._path = interpreter, path
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        (self._input, *states), (self._output, *next_states) = (
            [memory(interpreter.tensor(node["index"])()) for node in nodes] for nodes in (inputs, outputs)
        )
        self._moves = list(zip(states, next_states))
        self._first = [(state, node["quantization"][1]) for state, node in zip(states, inputs[1:])]
        self.reset()

    def reset(self) -> None:
        for state, zero in self._first:
            state.fill(zero)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self._input[:] = x
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise _failed(self._path, error) from error
        for state, next_state in self._moves:
            state[:] = next_state
        return self._output


def _failed(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: the model failed at a hop: {' '.join(str(error).split())}")


def memory(view: np.ndarray) -> np.ndarray:
    """The same memory without a reference to the interpreter, which else refuses to run.

    It stays where it is until tensors are allocated anew, and shapes are fixed.
    """
    buffer = (ctypes.c_byte * view.nbytes).from_address(view.ctypes.data)
    return np.frombuffer(buffer, view.dtype).reshape(view.shape)  # type: ignore[call-overload]


def _settings(model: _ONNX | _LiteRT, given: dict[str, int], path: Path) -> dict[str, str | int]:
    """What `framed` needs to know, by the file's metadata and signature, or else as given."""
    try:
        settings = sizes(given | {key: model.metadata[key] for key in given if key in model.metadata})
    except UserError as error:
        raise UserError(f"{path}: its metadata can't be right: {error}") from error
    n_fft, hop_length = settings["n_fft"], settings["hop_length"]
    if in_integers(model.metadata):
        return {**settings, "kind": "spectrum", "latency": n_fft - hop_length}
    inputs, outputs = ([node.shape for node in side if node.is_fixed()] for side in (model.inputs, model.outputs))
    if inputs == outputs and len(inputs) == len(model.inputs) == len(model.outputs):
        match model.inputs[0].shape:
            case (1, bins, 1, 2) if bins == n_fft // 2 + 1:
                return {**settings, "kind": "spectrum", "latency": n_fft - hop_length}
            case (1, samples) if model.metadata.get("hop_length") in (None, str(samples)):
                return {**settings, "kind": "wave", "hop_length": samples}
    found = ", ".join(f"{node.name} {list(node.shape)}" for node in model.inputs)
    hop = model.metadata.get("hop_length", "N")
    raise UserError(
        f"{path}: its inputs are {found}; expected a spectrum [1, {n_fft // 2 + 1}, 1, 2] or samples [1, {hop}], and "
        "states, all float and of fixed shapes, and outputs of the same shapes in the same order"
    )
