"""Exported files in their runtimes behind one interface, and files as others use them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gtcrn.errors import UserError
from gtcrn.runtime import denoiser, ncnn, pt2
from gtcrn.runtime.framing import Framed, Runner, Step

RUNNERS = {  # by suffix; ncnn's files are a folder
    ".onnx": denoiser.Denoiser,
    ".tflite": denoiser.Denoiser,
    ".param": lambda path: ncnn.NcnnDenoiser(path.parent),
    ".pt2": pt2.Pt2Denoiser,
}


class PlainRun:
    """One step of an ONNX file by `session.run()`, as scripts beside published files do: an array of the shape of its
    first input -> its first output. The other inputs are states, zeros at first; the other outputs the next ones.
    """

    def __init__(self, path: Path):
        import onnxruntime

        denoiser.require_intact_onnx(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors, which are raised anyway
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.reset()

    def reset(self) -> None:
        x, *states = self._session.get_inputs()
        self._input = x.name
        self._states = {state.name: np.zeros(state.shape, np.float32) for state in states}

    def __call__(self, x: np.ndarray) -> np.ndarray:
        y, *states = self._session.run(None, {self._input: x, **self._states})
        self._states = dict(zip(self._states, states))
        return y


class TwoParts:
    """DTLN as its author publishes it: a file that masks magnitudes, and one that filters samples; numpy in between.

    It takes whole hops only.
    """

    sample_rate, hop_length, latency = 16000, 128, 384

    def __init__(self, masking: Path, filtering: Path):
        self._masking, self._filtering = PlainRun(masking), PlainRun(filtering)
        self.reset()

    def reset(self) -> None:
        self._masking.reset()
        self._filtering.reset()
        self._frame, self._overlap = np.zeros((2, self.hop_length + self.latency), np.float32)

    def process(self, samples: np.ndarray) -> np.ndarray:
        return np.concatenate([self._step(hop) for hop in samples.reshape(-1, self.hop_length)])

    def _step(self, hop: np.ndarray) -> np.ndarray:
        self._frame = np.concatenate([self._frame[self.hop_length :], hop])
        spec = np.fft.rfft(self._frame)
        mask = self._masking(np.abs(spec).astype(np.float32)[None, None])
        masked = np.fft.irfft(spec * mask[0, 0]).astype(np.float32)
        self._overlap += self._filtering(masked[None, None])[0, 0]
        complete = self._overlap[: self.hop_length]
        self._overlap = np.concatenate([self._overlap[self.hop_length :], np.zeros_like(complete)])
        return complete


def open_runner(*paths: Path) -> Runner:
    """What runs an exported file, or the two of DTLN's author. It is tried on a hop.

    Raises `UserError` if a file is missing, of an unknown suffix, or does not run.
    """
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such file; an exported model is needed")
        if path.suffix not in RUNNERS:
            raise UserError(f"{path}: a file of this kind can't be run; exported ones end in {', '.join(RUNNERS)}")
    try:
        runner = TwoParts(*paths) if len(paths) > 1 else RUNNERS[paths[0].suffix](paths[0])
        runner.process(np.zeros(runner.hop_length, np.float32))
        runner.reset()
    except UserError:
        raise
    except Exception as error:  # every runtime has kinds of its own
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{' with '.join(map(str, paths))}: does not run: {reason}") from error
    return runner


def is_framed(runner: Runner) -> bool:
    """Whether the STFT is outside its file, in numpy."""
    return isinstance(runner.step, Framed)


def bare_step(runner: Runner) -> Step:
    """What its file does, without the framing around it: of spectra (1, F, 1, 2) if `is_framed`, else (1, hop)."""
    return runner.step.step if is_framed(runner) else runner.step
