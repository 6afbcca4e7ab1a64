"""Exported models as streams, which need only numpy and onnxruntime or ai-edge-litert.

denoiser = Denoiser("gtcrn.onnx")                     # or gtcrn.tflite
enhanced = denoiser.process(samples)                  # again and again, blocks of any size
rest = denoiser.flush()                               # at the end: the output is later by denoiser.latency samples
left, right = denoiser.stream(), denoiser.stream()    # more streams, each with its own state
callback = denoiser.stream(block_length=1)            # as many samples out as in, at every call
denoiser.attenuation_limit_db = 12                    # take away 12 dB at most, from the next hop on
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gtcrn.errors import UserError
from gtcrn.runtime.facts import BANDS, LIMITS, SPECTRUM, WAVE, Signal, read_input_level
from gtcrn.runtime.framing import Step, Stream, stream_arguments
from gtcrn.runtime.integrity import is_sealed_onnx, read_parts, require_harmless
from gtcrn.weights import resolve

SUFFIXES = (".onnx", ".tflite")  # of the files that a `Denoiser` opens
LARGEST = 2**26  # numbers of an input or output
_ULUNAS_STATE = "tfa_cache"  # an input that only the file of UL-UNAS's authors has, which states nothing of itself


class TensorSpec(NamedTuple):
    """An input or output of a model. shape: a size that is not fixed is a name in ONNX and -1 in LiteRT."""

    name: str
    is_float: bool  # float32
    shape: tuple[Any, ...]

    def is_fixed(self) -> bool:
        sizes = all(isinstance(size, int) and size > 0 for size in self.shape)
        return self.is_float and sizes and math.prod(self.shape) <= LARGEST


class Denoiser(Stream):
    """A stream through a model file, ONNX or LiteRT (.tflite), that processes one hop at a time.

    The model's first input is either one frame's spectrum (1, F, 1, 2), real and imaginary parts, or one hop of
    samples (1, hop_length); every further input is a state, zeros at first. Its outputs are the enhanced spectrum
    or samples and the next states, in the same order. A .tflite of this framework in integers, which maps ERB bands to
    a mask, gets its bands from spectra here.

    path: the file, or the name of weights that are such a file, see `gtcrn.weights`.
    sample_rate, n_fft, hop_length: Hz and samples, used where the file's metadata does not state them; the latter two
        describe an STFT with square-root Hann windows, but for the file of UL-UNAS's authors with Hann ones.
    block_length, attenuation_limit_db: see `Stream`, which also describes the attributes `sample_rate`, `hop_length`
        and `latency`, and the methods `process`, `flush` and `reset`.
    input_level: dBFS that the model was trained at, as of noisy speech where it is active; None if the file says none.

    Raises UserError if the file is missing, damaged or no such model, or if the package that runs it is missing. A
    denoiser that is unpickled opens the file again and begins a new stream.
    """

    def __init__(
        self,
        path: str | Path,
        sample_rate: int = 16000,
        n_fft: int = 512,
        hop_length: int = 256,
        block_length: int | None = None,
        attenuation_limit_db: float | None = None,
    ):
        self._arguments = path, sample_rate, n_fft, hop_length, block_length
        self.path = resolve(path)
        if self.path != Path(path) and self.path.suffix.lower() not in SUFFIXES:
            raise UserError(
                f"{path}: weights for PyTorch; export them first: gtcrn task=export ckpt={path} format=onnx_wave"
            )
        if not self.path.is_file():
            raise UserError(f"{path}: no such file; an ONNX or LiteRT model is needed")
        self._model = (_LiteRT if self.path.suffix.lower() == ".tflite" else _ONNX)(self.path)
        given: dict[str, int | str] = {
            "sample_rate": sample_rate,
            "n_fft": n_fft,
            "hop_length": hop_length,
            "latency": 0,
        }
        if _ULUNAS_STATE in [node.name for node in self._model.inputs]:
            given["window"] = "hann"
        self._signal = _signal_of(self._model, given, self.path)
        self.input_level = read_input_level(self._model.metadata)
        super().__init__(*self._stream_arguments(), block_length, attenuation_limit_db)

    def stream(self, block_length: int | None = None) -> Stream:
        """Return another stream through the same model, independent of all others and usable in any thread.

        Streams of an ONNX model share its weights; each stream of a LiteRT model has its own interpreter, which holds
        its buffers. The limit of attenuation is this one's at first.
        """
        return Stream(*self._stream_arguments(), block_length, self.attenuation_limit_db)

    def _stream_arguments(self) -> tuple[Step, int, int, int]:
        try:
            return stream_arguments(self._model.step(), self._signal)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None

    def __reduce__(self):
        return Denoiser, (*self._arguments, self.attenuation_limit_db)


def open_onnx(path: Path):
    """Return an onnxruntime session on one thread, which is the fastest for matrices this small.

    Raises UserError if the file is missing or damaged, and without onnxruntime.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path}: running it needs onnxruntime: pip install -e '.[export]'") from error
    require_intact_onnx(path)
    return _session(onnxruntime, path)


def require_intact_onnx(path: Path) -> None:
    """Raise UserError if an ONNX file is missing, has a broken seal, or has no seal and fails when it is tried out."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; an ONNX model of task=export is needed")
    if not is_sealed_onnx(path):
        require_harmless(path)


def _session(onnxruntime, path: Path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # giving every tensor its own memory is 5 % faster and costs some hundred KB
    options.enable_mem_reuse = options.enable_cpu_mem_arena = False
    options.log_severity_level = 4  # errors are raised anyway
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen types, none of them public
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: damaged, or not an ONNX model: {reason}") from error


def try_out(path: Path) -> None:
    """Open a file and run it on zeros, which `gtcrn.runtime.integrity` does in a process of its own.

    Raises UserError if the runtime reports what is wrong.
    """
    if path.suffix.lower() == ".tflite":
        interpreter = _interpreter(path)
        for _ in range(2):  # the second run meets memory that the first may have damaged
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
    """A step whose buffers are bound once; two sets of states alternate as the current and the next ones."""

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
        self._parts = read_parts(path)
        self.metadata = self._parts.metadata
        if not self._parts.sealed:
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
        if self.metadata.get("kind") != BANDS:
            return step
        from gtcrn.runtime.integer_step import IntegerStep

        return IntegerStep(step, self.path, self._parts)


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
    except Exception as error:  # the package's C++ code may raise anything
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: damaged, or not a LiteRT model: {reason}") from error
    return interpreter


class LiteRTStep:
    """A step in LiteRT, whose states begin with the code that stands for zero, which in float is zero itself."""

    def __init__(self, interpreter, path: Path):
        self._interpreter, self._path = interpreter, path
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        (self._input, *states), (self._output, *next_states) = (
            [memory(interpreter.tensor(node["index"])()) for node in nodes] for nodes in (inputs, outputs)
        )
        self._state_pairs = list(zip(states, next_states))
        self._initial = [(state, node["quantization"][1]) for state, node in zip(states, inputs[1:])]
        self.reset()

    def reset(self) -> None:
        for state, zero in self._initial:
            state.fill(zero)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self._input[:] = x
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise _failed(self._path, error) from error
        for state, next_state in self._state_pairs:
            state[:] = next_state
        return self._output


def _failed(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: the model failed at a hop: {' '.join(str(error).split())}")


def memory(view: np.ndarray) -> np.ndarray:
    """Return an array on the same memory without a reference to the interpreter, which otherwise refuses to run.

    The memory stays valid until tensors are allocated again, which does not happen since shapes are fixed.
    """
    buffer = (ctypes.c_byte * view.nbytes).from_address(view.ctypes.data)
    return np.frombuffer(buffer, view.dtype).reshape(view.shape)  # type: ignore[call-overload]


def _signal_of(model: _ONNX | _LiteRT, given: dict[str, int | str], path: Path) -> Signal:
    """Return the model's signal by the file's metadata and signature, or else as given."""
    stated = {key: model.metadata[key] for key in (*LIMITS, "window") if key in model.metadata}
    kind = BANDS if model.metadata.get("kind") == BANDS else SPECTRUM
    try:
        signal = Signal.read(given | stated | {"kind": kind})
    except UserError as error:
        raise UserError(f"{path}: its metadata can't be right: {error}") from error
    n_fft, spectral = signal.n_fft, replace(signal, latency=signal.n_fft - signal.hop_length)
    if kind == BANDS:
        return spectral
    inputs, outputs = ([node.shape for node in side if node.is_fixed()] for side in (model.inputs, model.outputs))
    if inputs == outputs and len(inputs) == len(model.inputs) == len(model.outputs):
        match model.inputs[0].shape:
            case (1, bins, 1, 2) if bins == n_fft // 2 + 1:
                return spectral
            case (1, samples) if model.metadata.get("hop_length") in (None, str(samples)):
                return replace(signal, kind=WAVE, hop_length=samples)
    found = ", ".join(f"{node.name} {list(node.shape)}" for node in model.inputs)
    hop = model.metadata.get("hop_length", "N")
    raise UserError(
        f"{path}: its inputs are {found}; expected a spectrum [1, {n_fft // 2 + 1}, 1, 2] or samples [1, {hop}], and "
        "states, all float and of fixed shapes, and outputs of the same shapes in the same order"
    )
