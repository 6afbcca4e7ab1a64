"""Exported models as streams, with numpy and onnxruntime alone.

denoiser = Denoiser("gtcrn_simple.onnx")
enhanced = denoiser.process(samples)       # again and again, blocks of any size
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gtcrn.errors import UserError


class Denoiser:
    """A spectral ONNX model run frame by frame.

    The model's first input is one frame's spectrum (1, F, 1, 2), real and imaginary parts; every further input is
    a state, zeros at first. Its outputs are the enhanced spectrum and the next states, in the same order.

    sample_rate, n_fft, hop_length: Hz and samples; what the file's metadata says under these keys comes first.
        The window is a square-root Hann one, on the way in and out.

    sample_rate: of the model, Hz. latency: samples by which the output is later than the input; blocks that
    are not whole hops wait for the rest of theirs on top of it.

    Raises UserError in one line if the file is missing, is no ONNX model or not one of this kind, and without
    onnxruntime. A pickled denoiser goes on where it was, with the file opened again.
    """

    def __init__(self, path: str | Path, sample_rate: int = 16000, n_fft: int = 512, hop_length: int = 256):
        self.path = Path(path)
        self._session = _open(self.path)
        settings = {"sample_rate": sample_rate, "n_fft": n_fft, "hop_length": hop_length}
        settings |= _numbers(self._session.get_modelmeta().custom_metadata_map, settings, self.path)
        self.sample_rate, self.n_fft, self.hop_length = settings.values()
        self.latency = self.n_fft - self.hop_length
        if not 0 < self.hop_length < self.n_fft or self.n_fft % self.hop_length:
            raise UserError(f"{path}: hop_length={self.hop_length} must divide n_fft={self.n_fft} and be smaller")
        _check_signature(self._session, self.n_fft // 2 + 1, self.path)
        self._window = np.sin(np.pi * np.arange(self.n_fft) / self.n_fft).astype(np.float32)
        # frames that overlap add up to the same constant everywhere
        self._synthesis_window = self._window * np.float32(2 * self.hop_length / self.n_fft)
        self.reset()

    def reset(self) -> None:
        """Begins a new stream."""
        self._pending = np.zeros(0, np.float32)
        self._frame = np.zeros(self.n_fft, np.float32)
        self._overlap = np.zeros(self.n_fft, np.float32)
        self._states = {node.name: np.zeros(node.shape, np.float32) for node in self._session.get_inputs()[1:]}

    def process(self, samples: np.ndarray) -> np.ndarray:
        """The next (N,) samples, any N -> as many as whole hops are now complete, float32.

        What is left over waits for the next call, so all outputs together depend on the samples only, not
        on how they were cut.
        """
        pending = np.concatenate([self._pending, samples])
        whole = len(pending) // self.hop_length * self.hop_length
        self._pending = pending[whole:]
        enhanced = [self._step(hop) for hop in pending[:whole].reshape(-1, self.hop_length)]
        return np.concatenate([np.zeros(0, np.float32), *enhanced])

    def _step(self, hop: np.ndarray) -> np.ndarray:
        self._frame = np.concatenate([self._frame[self.hop_length :], hop], dtype=np.float32)
        spec = self._enhance(np.fft.rfft(self._frame * self._window))
        self._overlap += np.fft.irfft(spec, n=self.n_fft).astype(np.float32) * self._synthesis_window
        complete = self._overlap[: self.hop_length]
        self._overlap = np.concatenate([self._overlap[self.hop_length :], np.zeros_like(complete)])
        return complete

    def _enhance(self, spec: np.ndarray) -> np.ndarray:
        """One frame through the model, (F,) complex -> (F,) complex; the states move on."""
        parts = np.stack([spec.real, spec.imag], axis=-1).astype(np.float32)
        spectrum = self._session.get_inputs()[0].name
        enhanced, *states = self._session.run(None, {spectrum: parts[None, :, None], **self._states})
        self._states = dict(zip(self._states, states))
        return enhanced[0, :, 0, 0] + 1j * enhanced[0, :, 0, 1]

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_session"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state
        self._session = _open(self.path)


def _open(path: Path):
    """An onnxruntime session on one thread: matrices this small lose more than they gain with two."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path}: running it needs the package onnxruntime: pip install -e '.[export]'") from error
    if not path.is_file():
        raise UserError(f"{path}: no such file; an ONNX model is needed")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors, which are raised anyway
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen kinds, none of them public
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: damaged, or not an ONNX model: {reason}") from error


def _numbers(metadata: dict[str, str], keys, path: Path) -> dict[str, int]:
    """What the file says under some of these keys."""
    try:
        return {key: int(metadata[key]) for key in keys if key in metadata}
    except ValueError as error:
        raise UserError(f"{path}: its metadata should be whole numbers: {error}") from error


def _check_signature(session, bins: int, path: Path) -> None:
    inputs, outputs = (
        [(node.type, node.shape) for node in nodes] for nodes in (session.get_inputs(), session.get_outputs())
    )
    fixed = all(kind == "tensor(float)" and all(type(size) is int for size in shape) for kind, shape in inputs)
    if not fixed or inputs != outputs or inputs[:1] != [("tensor(float)", [1, bins, 1, 2])]:
        found = ", ".join(f"{node.name} {node.shape}" for node in session.get_inputs())
        raise UserError(
            f"{path}: its inputs are {found}; expected a spectrum [1, {bins}, 1, 2] and states, all float and of "
            "fixed shapes, and outputs of the same shapes in the same order"
        )
