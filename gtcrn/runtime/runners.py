"""Exported files in their runtimes behind one interface, and published files as their authors run them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gtcrn.errors import UserError
from gtcrn.runtime import denoiser, ncnn, pt2
from gtcrn.runtime.framing import Runner, Step, STFTStep

RUNNERS = {  # by suffix; ncnn's runner opens the folder of the file
    ".onnx": denoiser.Denoiser,
    ".tflite": denoiser.Denoiser,
    ".param": lambda path: ncnn.NcnnDenoiser(path.parent),
    ".pt2": pt2.Pt2Denoiser,
}


class PlainRun:
    """A step of an ONNX file by `session.run()`, as the scripts beside published files do it.

    It maps an array of the shape of the file's first input to its first output. The other inputs are states, zeros at
    first; the other outputs are the next states.
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


class TwoFileDTLN:
    """A stream through DTLN as its author publishes it: one file masks magnitudes, one filters samples.

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
    """Return a runner of an exported file, or of the two of DTLN's author, after trying it on a hop.

    Raises `UserError` if a file is missing, of an unknown suffix, or does not run.
    """
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such file; an exported model is needed")
        if path.suffix not in RUNNERS:
            raise UserError(f"{path}: a file of this kind can't be run; exported ones end in {', '.join(RUNNERS)}")
    try:
        runner = TwoFileDTLN(*paths) if len(paths) > 1 else RUNNERS[paths[0].suffix](paths[0])
        runner.process(np.zeros(runner.hop_length, np.float32))
        runner.reset()
    except UserError:
        raise
    except Exception as error:  # every runtime raises types of its own
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{' with '.join(map(str, paths))}: does not run: {reason}") from error
    return runner


def has_outer_stft(runner: Runner) -> bool:
    """Return whether the runner computes the STFT in numpy, outside its file."""
    return isinstance(runner.step, STFTStep)


def file_step(runner: Runner) -> Step:
    """Return the step that the file alone computes: of spectra (1, F, 1, 2) if `has_outer_stft`, else (1, hop)."""
    return runner.step.step if has_outer_stft(runner) else runner.step
